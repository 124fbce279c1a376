"""NumPy's archives of arrays; objects in them, which are pickles, are never loaded."""

import functools
import math
import pathlib
import zipfile
import zlib

import numpy as np

from mhe_jax.report.errors import InputError
from mhe_jax.report.readers.base import Contents, Tensor

_SUFFIX = ".npy"
# Of a zip file that is damaged, or (RuntimeError) encrypted or packed in other ways.
_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError)


def read_npz(path: pathlib.Path) -> Contents:
  """Tensors of an archive, whose headers alone are read.

  Raises:
    InputError: it is no archive of arrays.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      tensors = tuple(
        _tensor(path, archive, member)
        for member in archive.infolist()
        if member.filename.endswith(_SUFFIX)
      )
  except _ERRORS as error:
    raise InputError(f"{path} cannot be read as .npz: {error}.") from error
  return Contents(tensors, (path,))


def _tensor(path, archive, member) -> Tensor:
  name = member.filename
  with archive.open(member) as file:
    version = np.lib.format.read_magic(file)
    of_version = {
      (1, 0): np.lib.format.read_array_header_1_0,
      (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in of_version:
      raise ValueError(f"{name!r} has version {version} of NumPy's format")
    shape, _, dtype = of_version[version](file)
    size = member.file_size - file.tell()
  # Before memory is asked for it: a header of 100 bytes can claim terabytes.
  is_array = all(n >= 0 for n in shape)
  if not dtype.hasobject and not (
    is_array and math.prod(shape) * dtype.itemsize == size
  ):
    raise ValueError(f"{name!r} has {size} bytes, but says shape {shape} of {dtype}")
  name = name.removesuffix(_SUFFIX)
  # Dtypes that NumPy does not know, as bfloat16, are saved as bytes without a meaning.
  known = None if dtype.hasobject or dtype.kind == "V" else dtype
  stored_as = "pickled objects" if dtype.hasobject else str(dtype)
  return Tensor(name, shape, known, functools.partial(_load, path, name), stored_as)


def _load(path, name) -> np.ndarray:
  try:
    # By its whole name: np.load would also take a file without the suffix.
    with zipfile.ZipFile(path) as archive, archive.open(name + _SUFFIX) as file:
      return np.lib.format.read_array(file, allow_pickle=False)
  except (*_ERRORS, KeyError) as error:
    raise InputError(f"{name!r} of {path} cannot be read: {error}.") from error
