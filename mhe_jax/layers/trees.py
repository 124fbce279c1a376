"""Paths and leaves of a tree of parameters."""

import re
import sys
from collections.abc import Sequence
from typing import Any

import jax
import optax


def flatten(params: Any) -> tuple[list[tuple[str, ...]], list, Any]:
  """Paths, leaves and structure of a tree; an nnx module stands for its Params.

  None and MaskedNode count as leaves: trees of updates have them where the
  parameters have arrays, and their paths are still known to the rules.
  """
  if is_nnx_module(params):
    from flax import nnx  # noqa: PLC0415

    params = nnx.state(params, nnx.Param)
  leaves, treedef = jax.tree.flatten(params, is_leaf=_is_hole)
  paths = []
  for path, node in jax.tree_util.tree_flatten_with_path(
    params, is_leaf=lambda x: _is_hole(x) or _is_box(x)
  )[0]:
    paths += [keys_of(path)] * len(jax.tree.leaves(node, is_leaf=_is_hole))
  return paths, leaves, treedef


def is_nnx_module(x) -> bool:
  """Whether x is an nnx module; does not import Flax for those without it."""
  nnx = sys.modules.get("flax.nnx")
  return nnx is not None and isinstance(x, nnx.Module)


def is_array(leaf) -> bool:
  """Whether a leaf is an array: concrete, traced or abstract."""
  return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def keys_of(path) -> tuple[str, ...]:
  """A path of JAX as names; keys of ``flatten_dict`` are split into theirs."""
  names = []
  for entry in path:
    key = getattr(entry, "key", None)
    if isinstance(key, tuple):
      names += map(str, key)
    else:
      names += jax.tree_util.keystr((entry,), simple=True).split("/")
  return tuple(names)


def numbered_order(paths: Sequence[str]) -> list[str]:
  """Paths in the order they have, but for names that differ in numbers: conv2, conv10.

  Trees of dicts are in the order of their letters.
  """
  ranks: dict[tuple[str, str], int] = {}

  def key(path):
    names, parent = [], ""
    for name in path.split("/"):
      stem = re.sub(r"\d+", "#", name)
      rank = ranks.setdefault((parent, stem), len(ranks))
      names.append((rank, [int(number) for number in re.findall(r"\d+", name)]))
      parent = f"{parent}/{name}"
    return names

  keys = {path: key(path) for path in paths}  # Ranks are those of the first seen.
  return sorted(paths, key=lambda path: keys[path])


def _is_hole(x) -> bool:
  return x is None or isinstance(x, optax.MaskedNode)


def _is_box(x) -> bool:
  """Whether x is an nnx variable or a boxed linen parameter around an array.

  Their paths end at the box: some trees of the same parameters have an attribute
  ``value`` below it and others do not, and the same optimizer meets both.
  """
  nnx, meta = sys.modules.get("flax.nnx"), sys.modules.get("flax.core.meta")
  return (nnx is not None and isinstance(x, nnx.Variable)) or (
    meta is not None and isinstance(x, meta.AxisMetadata)
  )
