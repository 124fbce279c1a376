"""NumPy's archives of arrays; objects in them, which are pickles, are never loaded."""

import functools
import pathlib
import zipfile

import numpy as np

from mhe_jax.report.errors import InputError
from mhe_jax.report.readers.base import Contents, Tensor


def read_npz(path: pathlib.Path) -> Contents:
  """Tensors of an archive, whose headers alone are read.

  Raises:
    InputError: it is no archive of arrays.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      tensors = tuple(
        _tensor(path, archive, name)
        for name in archive.namelist()
        if name.endswith(".npy")
      )
  except (zipfile.BadZipFile, OSError, ValueError) as error:
    raise InputError(f"{path} cannot be read as .npz: {error}.") from error
  return Contents(tensors, (path,))


def _tensor(path, archive, name) -> Tensor:
  with archive.open(name) as file:
    version = np.lib.format.read_magic(file)
    of_version = {
      (1, 0): np.lib.format.read_array_header_1_0,
      (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in of_version:
      raise ValueError(f"{name!r} has version {version} of NumPy's format")
    shape, _, dtype = of_version[version](file)
  name = name.removesuffix(".npy")
  # Dtypes that NumPy does not know, as bfloat16, are saved as bytes without a meaning.
  known = None if dtype.hasobject or dtype.kind == "V" else dtype
  stored_as = "pickled objects" if dtype.hasobject else str(dtype)
  return Tensor(name, shape, known, functools.partial(_load, path, name), stored_as)


def _load(path, name) -> np.ndarray:
  with np.load(path, allow_pickle=False) as archive:
    return archive[name]
