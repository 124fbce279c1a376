"""A checkpoint on disk: which reader is for it, and what it must not be."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mhe_jax.layers.model import layer_rules
from mhe_jax.layers.modules import is_equinox, is_nnx
from mhe_jax.layers.rules import LayerRule
from mhe_jax.layers.trees import flatten, is_array
from mhe_jax.report.errors import InputError
from mhe_jax.report.readers.base import Tensor
from mhe_jax.report.readers.flax import read_eqx, read_msgpack, read_npy
from mhe_jax.report.readers.foreign import (
  is_told,
  refusal,
  refuse_address,
  refuse_what_is_no_file,
)
from mhe_jax.report.readers.npz import read_npz
from mhe_jax.report.readers.orbax import read_orbax, refuse_unfinished, tree_in
from mhe_jax.report.readers.safetensors import read_file, read_index

_READERS = {
  ".safetensors": read_file,
  ".npz": read_npz,
  ".npy": read_npy,
  ".msgpack": read_msgpack,
  ".eqx": read_eqx,
}
# Of diffusers also with a variant, as .safetensors.index.fp16.json.
_INDEX = re.compile(r".*\.safetensors\.index(\.[^.]+)?\.json")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """Tensors on disk, none of them loaded.

  Attributes:
    path: what was asked for.
    tensors: in the order of the files.
    files: the files that hold them.
    config: what ``config.json`` beside the weights says of the architecture, with the
      part for the language model, if it has one, on top. Empty if there is none.
    by_class: of a tree with its modules, what their classes say.
    writer: the library that the file says it is of, as ``"pt"``; empty if it does not.
  """

  path: pathlib.Path | str
  tensors: tuple[Tensor, ...]
  files: tuple[pathlib.Path, ...]
  config: dict[str, Any]
  writer: str = ""
  by_class: tuple[LayerRule, ...] = ()

  @functools.cached_property
  def fingerprint(self) -> str:
    """Tells whether the files are those of before: by name, size and time of change."""
    told = []
    for path in self.files:
      stat = path.stat()
      told.append((path.name, stat.st_size, stat.st_mtime_ns))
    if not self.files:  # Of a tree in memory, what it holds.
      for tensor in self.tensors:
        content = hashlib.sha256(np.ascontiguousarray(tensor.load()).tobytes())
        told.append((tensor.name, tensor.shape, content.hexdigest()))
    config = json.dumps(self.config, sort_keys=True)
    return hashlib.sha256(f"{told}{config}".encode()).hexdigest()[:16]


def open_checkpoint(source: Any) -> Checkpoint:
  """Names, shapes and dtypes of the tensors of a checkpoint, or of a tree in memory.

  Args:
    source: a tree of arrays, or a module; or the path of a file ``.safetensors``,
      ``.npz``, ``.npy``, ``.msgpack`` or ``.eqx``; of a folder with one of these, or
      with an index of safetensors, as on the Hugging Face hub; or of a folder of orbax.

  Raises:
    InputError: nothing is there, or it cannot be read; it is a pickle; or its tensors
      have names twice.
  """
  if not isinstance(source, (str, os.PathLike)):
    return _open_tree(source)
  refuse_address(str(source))
  path = pathlib.Path(source)
  try:
    contents = _read(path)
  except OSError as error:  # No permission, a name that is too long.
    raise InputError(f"{path} cannot be read: {error}.") from error
  names = [tensor.name for tensor in contents.tensors]
  if len({*names}) < len(names):
    twice = sorted({name for name in names if names.count(name) > 1})
    raise InputError(f"{path} has tensors of the same name: {', '.join(twice[:4])}.")
  if not names:
    raise InputError(f"{path} holds no tensors.")
  folder = path if path.is_dir() else path.parent
  return Checkpoint(
    path, contents.tensors, contents.files, _config(folder), contents.writer
  )


def _open_tree(tree) -> Checkpoint:
  """Arrays of a tree of JAX, or of a module; of PyTorch, its state."""
  if callable(state := getattr(tree, "state_dict", None)):
    tree = state()
  by_class = layer_rules(tree) if is_nnx(tree) or is_equinox(tree) else ()
  paths, leaves, _ = flatten(tree)
  tensors = []
  for path, leaf in zip(paths, leaves):
    if not is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct):
      continue
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
      continue  # Keys of random numbers.
    array = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
    dtype, load = np.dtype(array.dtype), functools.partial(np.asarray, array)
    tensors.append(Tensor("/".join(path), tuple(array.shape), dtype, load, str(dtype)))
  if not tensors:
    raise InputError(
      "checkpoint must be a path, or a tree with arrays, got "
      f"{type(tree).__name__} without one."
    )
  return Checkpoint(type(tree).__name__, tuple(tensors), (), {}, by_class=by_class)


def _read(path):
  if path.is_dir():
    return _read_folder(path)
  refuse_what_is_no_file(path)
  if not path.is_file():
    raise InputError(f"checkpoint must be a file or a folder, but {path} is not there.")
  if _INDEX.fullmatch(path.name):
    return read_index(path)
  if path.suffix in _READERS:
    return _READERS[path.suffix](path)
  if is_told(path):
    raise InputError(refusal(path))
  raise InputError(
    f"checkpoint must be {', '.join(_READERS)}, or a folder with one of these, with an "
    f"index of safetensors, or of orbax, got {path}."
  )


def _read_folder(folder):
  refuse_unfinished(folder)
  files = sorted(path for path in folder.iterdir() if not path.is_dir())
  indices = [path for path in files if _INDEX.fullmatch(path.name)]
  # An index stands for the files that it names.
  found = indices or [p for p in files if p.suffix in _READERS]
  tree = tree_in(folder)
  candidates = [*found, *([tree] if tree else [])]
  if len(candidates) > 1:
    names = ", ".join("itself, of orbax" if p == folder else p.name for p in candidates)
    raise InputError(f"{folder} holds several checkpoints; name one of {names}.")
  if tree is not None:
    return read_orbax(tree)
  if found:
    return _read(found[0])
  for path in files:
    refuse_what_is_no_file(path)
    if is_told(path):
      raise InputError(refusal(path))
  raise InputError(
    f"{folder} holds no checkpoint: no .safetensors, index of these, .npz, or tree of "
    f"orbax{_find_below(folder)}."
  )


def _find_below(folder) -> str:
  """Where a checkpoint may be instead: parts of a pipeline, snapshots of a cache."""
  places = {
    path.parent
    for pattern in ("*", "*/*")
    for path in folder.glob(f"{pattern}/*.safetensors")
  }
  return f"; there are some in {', '.join(map(str, sorted(places)[:4]))}" * bool(places)


def _config(folder) -> dict[str, Any]:
  try:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
  except (OSError, ValueError, RecursionError):
    return {}
  if not isinstance(config, dict):
    return {}
  # Models of text and images have the language model's part within.
  text = config.get("text_config")
  return {**config, **text} if isinstance(text, dict) else config
