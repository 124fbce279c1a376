"""Flax's message packs, and Equinox's leaves: whole trees, without pickles."""

import functools
import pathlib

import numpy as np

from mhe_jax.layers.trees import flatten, is_array
from mhe_jax.report.errors import InputError
from mhe_jax.report.readers.base import Contents, Tensor


def read_msgpack(path: pathlib.Path) -> Contents:
  """Leaves of a tree that :func:`flax.serialization.to_bytes` wrote; all in memory.

  Raises:
    InputError: it is none.
  """
  from flax import serialization  # noqa: PLC0415

  try:
    tree = serialization.msgpack_restore(path.read_bytes())
  except Exception as error:  # Of many kinds, from layers below.
    raise InputError(f"{path} cannot be read as .msgpack: {error!r}.") from error
  paths, leaves, _ = flatten(tree)
  return Contents(_tensors(zip(map("/".join, paths), leaves)), (path,))


def read_eqx(path: pathlib.Path) -> Contents:
  """Leaves that ``eqx.tree_serialise_leaves`` wrote: arrays, without their names.

  Raises:
    InputError: it is something else.
  """
  leaves = []
  try:
    with open(path, "rb") as file:
      size = path.stat().st_size
      while file.tell() < size:
        leaves.append(np.load(file, allow_pickle=False))
  except (OSError, ValueError, EOFError) as error:
    raise InputError(f"{path} cannot be read as .eqx: {error}.") from error
  return Contents(_tensors((f"leaf/{i}", x) for i, x in enumerate(leaves)), (path,))


def read_npy(path: pathlib.Path) -> Contents:
  """One array, called as the file is.

  Raises:
    InputError: it is none, or holds objects.
  """
  try:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
  except (OSError, ValueError, EOFError) as error:
    raise InputError(f"{path} cannot be read as .npy: {error}.") from error
  return Contents(_tensors([(path.stem, array)]), (path,))


def _tensors(named) -> tuple[Tensor, ...]:
  tensors = []
  for name, leaf in named:
    if not is_array(leaf):
      continue
    dtype = np.dtype(leaf.dtype)
    known = (
      None if dtype.kind == "V" and dtype.names is None and dtype.num < 256 else dtype
    )
    load = functools.partial(np.asarray, leaf)
    tensors.append(Tensor(name, tuple(leaf.shape), known, load, str(dtype)))
  return tuple(tensors)
