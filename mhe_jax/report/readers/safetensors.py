"""Safetensors: one file, or the shards of a Hugging Face index."""

import contextlib
import functools
import json
import pathlib
import struct
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np

from mhe_jax.report.errors import InputError
from mhe_jax.report.readers.base import Contents, Tensor, import_reader

_DTYPES = {
  "F64": np.float64,
  "F32": np.float32,
  "F16": np.float16,
  "BF16": ml_dtypes.bfloat16,
  "F8_E4M3": ml_dtypes.float8_e4m3fn,
  "F8_E5M2": ml_dtypes.float8_e5m2,
  "F8_E8M0": ml_dtypes.float8_e8m0fnu,
  "I64": np.int64,
  "I32": np.int32,
  "I16": np.int16,
  "I8": np.int8,
  "U64": np.uint64,
  "U32": np.uint32,
  "U16": np.uint16,
  "U8": np.uint8,
  "BOOL": np.bool_,
}
# Of these the library's own arrays are used; it has no NumPy dtype for 8-bit floats.
_OF_THE_LIBRARY = ("F64", "F32", "F16", "BF16")


def read_file(path: pathlib.Path) -> Contents:
  """Tensors of one file.

  Raises:
    InputError: it is not a safetensors file, or damaged.
  """
  with _opened(path) as file:
    tensors = tuple(_tensor(path, file, name) for name in file.keys())  # noqa: SIM118
    writer = (file.metadata() or {}).get("format", "")
  return Contents(tensors, (path,), writer)


def read_index(index: pathlib.Path) -> Contents:
  """Tensors of all shards that an index names.

  Raises:
    InputError: the index or a shard is damaged, missing, or outside the folder.
  """
  try:
    weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    shards = sorted({*weight_map.values()})
    paths = {shard: _path_beside(index, shard) for shard in shards}
    missing = [shard for shard, path in paths.items() if not path.is_file()]
  except InputError:
    raise
  except (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    OSError,
    RecursionError,
  ) as error:
    raise InputError(f"{index} is not an index of safetensors: {error!r}.") from error
  if missing:
    raise InputError(
      f"{index} names {len(missing)} of {len(shards)} files that are not there: "
      f"{', '.join(missing[:4])}{', ...' if len(missing) > 4 else ''}."
    )
  tensors, writer = [], ""
  for shard, path in paths.items():
    contents = read_file(path)
    writer = writer or contents.writer
    of_shard = {tensor.name: tensor for tensor in contents.tensors}
    for name in (name for name, place in weight_map.items() if place == shard):
      if name not in of_shard:
        raise InputError(f"{index} says that {name!r} is in {shard}, which lacks it.")
      tensors.append(of_shard[name])
  return Contents(tuple(tensors), (index, *paths.values()), writer)


def _path_beside(index, shard) -> pathlib.Path:
  """A file of the index's folder; an index from a stranger may not name others."""
  parts = pathlib.PurePosixPath(shard).parts
  # Backslashes and drives are separators elsewhere.
  if shard.startswith("/") or ".." in parts or not parts or {*":\\"} & {*shard}:
    raise InputError(
      f"{index} must name files of its own folder, but names {shard!r}, which is not."
    )
  return index.parent / shard


@contextlib.contextmanager
def _opened(path) -> Iterator[Any]:
  library = import_reader("safetensors", f"reading {path}")
  try:
    # Opened anew for each tensor: the map of a file that stays open stays in memory.
    with library.safe_open(path, framework="np") as file:
      yield file
  except (library.SafetensorError, OSError) as error:
    raise InputError(f"{path} cannot be read as safetensors: {error}.") from error


def _tensor(path, file, name) -> Tensor:
  header = file.get_slice(name)
  stored_as = header.get_dtype()
  dtype = np.dtype(_DTYPES[stored_as]) if stored_as in _DTYPES else None
  shape = tuple(header.get_shape())
  if stored_as in _OF_THE_LIBRARY:
    load = functools.partial(_load, path, name)
  else:
    load = functools.partial(_load_bytes, path, name, shape, dtype)
  return Tensor(name, shape, dtype, load, stored_as)


def _load(path, name) -> np.ndarray:
  with _opened(path) as file:
    return file.get_tensor(name)


def _load_bytes(path, name, shape, dtype) -> np.ndarray:
  """A tensor whose dtype the library does not give, from where the header says."""
  try:
    with open(path, "rb") as file:  # The library has checked the header, then.
      (length,) = struct.unpack("<Q", file.read(8))
      start, end = json.loads(file.read(length))[name]["data_offsets"]
      file.seek(8 + length + start)
      return np.frombuffer(file.read(end - start), dtype).reshape(shape)
  except (OSError, ValueError, KeyError, struct.error) as error:
    raise InputError(f"{name!r} of {path} cannot be read: {error!r}.") from error
