"""Three photographs that come with installed packages: scikit-learn's, Matplotlib's."""

import numpy as np

from experiments.data.decoding import decoded
from experiments.errors import InputError
from experiments.installed import installed_files

_FILES = (
  ("scikit-learn", "sklearn/datasets/images/china.jpg"),
  ("scikit-learn", "sklearn/datasets/images/flower.jpg"),
  ("matplotlib", "matplotlib/mpl-data/sample_data/grace_hopper.jpg"),
)


def read_photographs() -> list[np.ndarray]:
  """A temple, a flower and a portrait, uint8 ``[height, width, 3]``.

  Raises:
    InputError: a package is not there, or its file.
  """
  photographs = []
  for package, file in _FILES:
    paths = installed_files(package, file)
    if not paths:
      raise InputError(
        f"photographs need the image {file}, which the package {package} holds: pip "
        f"install {package}."
      )
    photographs.append(np.asarray(decoded(paths[0].read_bytes(), file)))
  return photographs
