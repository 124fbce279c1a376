"""One number for each layer, as one array that reads like a dictionary."""

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
