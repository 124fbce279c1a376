"""Folders of orbax: a tree of arrays, restored leaf by leaf."""

import contextlib
import functools
import logging
import pathlib
import re
from typing import Any

import jax
import numpy as np

from mhe_jax.layers.trees import keys_of
from mhe_jax.report.errors import InputError
from mhe_jax.report.readers.base import Contents, Tensor, import_reader

TREE = "_METADATA"  # A file in the folder of a tree.
UNFINISHED = ".orbax-checkpoint-tmp"  # In the name of a folder that is being written.


def tree_in(folder: pathlib.Path) -> pathlib.Path | None:
  """The tree of arrays in a folder of orbax: of itself, its items, its last step.

  Returns:
    Its folder, or None if there is none.

  Raises:
    InputError: there are several, of which one must be named.
  """
  if (folder / TREE).is_file():
    return folder
  items = sorted(path for path in folder.iterdir() if (path / TREE).is_file())
  if len(items) > 1:
    names = ", ".join(str(item) for item in items)
    raise InputError(f"{folder} holds several trees; name one of {names}.")
  if items:
    return items[0]
  # A manager may give its steps a prefix; those of several are of several managers.
  matches = [
    match
    for path in sorted(folder.iterdir())
    if (match := re.fullmatch(r"((?:.*_)?)([0-9]+)", path.name))
    and any(path.glob(f"*/{TREE}"))
  ]
  if len({match[1] for match in matches}) > 1:
    names = ", ".join(match[0] for match in matches)
    raise InputError(f"{folder} holds several series of steps; name one of {names}.")
  steps = {int(match[2]): folder / match[0] for match in matches}
  return tree_in(steps[max(steps)]) if steps else None


def refuse_unfinished(folder: pathlib.Path) -> None:
  """A step that orbax did not finish, unless a finished one is beside it.

  Raises:
    InputError: the folder is one, or has nothing else.
  """
  unfinished = [p for p in sorted(folder.iterdir()) if UNFINISHED in p.name]
  if UNFINISHED in folder.name or (unfinished and not any(_finished(folder))):
    raise InputError(
      f"{folder} is, or holds, a step that orbax has not finished writing "
      f"({', '.join(p.name for p in unfinished[:4]) or folder.name}): it cannot be "
      "read. Take an earlier step."
    )


def _finished(folder):
  for path in folder.rglob(TREE):
    if not any(UNFINISHED in parent.name for parent in path.parents):
      yield path


def read_orbax(tree: pathlib.Path) -> Contents:
  """Leaves of a tree of arrays.

  Args:
    tree: as :func:`tree_in` finds it.

  Raises:
    InputError: orbax cannot read it.
  """
  ocp = import_reader("orbax.checkpoint", f"reading {tree}")
  folder = tree.absolute()
  try:
    with _quiet():
      metadata = _checkpointer(ocp).metadata(folder).item_metadata.tree
  except Exception as error:  # Of many kinds, from many layers below.
    raise InputError(f"{tree} cannot be read by orbax: {error}.") from error
  leaves, structure = jax.tree_util.tree_flatten_with_path(metadata)
  tensors = []
  for number, (path, leaf) in enumerate(leaves):
    if not hasattr(leaf, "shape") or getattr(leaf, "dtype", None) is None:
      continue
    load = functools.partial(_load, ocp, folder, structure, number)
    dtype = np.dtype(leaf.dtype)
    shape = tuple(leaf.shape)
    tensors.append(Tensor("/".join(keys_of(path)), shape, dtype, load, str(dtype)))
  files = sorted(path for path in folder.rglob("*") if path.is_file())
  return Contents(tuple(tensors), tuple(files))


def _checkpointer(ocp) -> Any:
  return ocp.Checkpointer(ocp.PyTreeCheckpointHandler())


@contextlib.contextmanager
def _quiet():
  """Without the warnings that a file is missing which only other checkpoints have."""
  logger = logging.getLogger("absl")
  level = logger.level
  logger.setLevel(logging.ERROR)
  try:
    yield
  finally:
    logger.setLevel(level)


def _load(ocp, folder, structure, number) -> np.ndarray:
  size = structure.num_leaves
  like = [ocp.PLACEHOLDER] * size
  like[number] = 0
  how = [ocp.RestoreArgs(restore_type=np.ndarray)] * size
  arguments = ocp.args.PyTreeRestore(
    item=jax.tree.unflatten(structure, like),
    restore_args=jax.tree.unflatten(structure, how),
  )
  try:
    with _quiet():
      restored = _checkpointer(ocp).restore(folder, args=arguments)
  except Exception as error:  # As above.
    raise InputError(f"{folder} cannot be read by orbax: {error}.") from error
  return np.asarray(jax.tree.leaves(restored)[number])
