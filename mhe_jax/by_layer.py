"""One number for each layer, as one array that reads like a dictionary."""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax


@jax.tree_util.register_pytree_with_keys_class
class ByLayer(Mapping[str, jax.Array]):
  """A number for each layer: ``by_layer[path]``, ``dict(by_layer)``.

  To JAX it is one array ``[layers]``, which is compiled, sent and stored as one: 150
  scalars take a second and a half to compile.

  Attributes:
    array: ``[layers]``.
    paths: of the layers, in their order.
  """

  def __init__(self, array: Any, paths: tuple[str, ...]):
    self.array, self.paths = array, paths
    _register_with_flax()

  def __getitem__(self, path: str) -> jax.Array:
    try:
      return self.array[self.paths.index(path)]
    except ValueError:
      raise KeyError(path) from None

  def __iter__(self) -> Iterator[str]:
    return iter(self.paths)

  def __len__(self) -> int:
    return len(self.paths)

  def __repr__(self) -> str:
    return f"ByLayer({self.array!r}, {self.paths})"

  def tree_flatten_with_keys(self):
    return [(jax.tree_util.GetAttrKey("array"), self.array)], self.paths

  @classmethod
  def tree_unflatten(cls, paths, children):
    (array,) = children
    return cls(array, paths)


_registered = False


def _register_with_flax():
  """``flax.serialization`` saves what it knows; it is there if the user imported it."""
  global _registered  # noqa: PLW0603 (once)
  serialization = sys.modules.get("flax.serialization")
  register = getattr(serialization, "register_serialization_state", None)
  if _registered or register is None:  # While it is imported, it has none yet.
    return
  _registered = True
  register(ByLayer, _to_state_dict, _restore)


def _to_state_dict(by_layer):
  return {"array": by_layer.array}


def _restore(by_layer, state):
  array = state["array"]
  if jax.numpy.shape(array) != jax.numpy.shape(by_layer.array):
    raise ValueError(
      f"state must have numbers for the layers {list(by_layer.paths)}, got an array "
      f"of shape {jax.numpy.shape(array)}."
    )
  return ByLayer(array, by_layer.paths)
