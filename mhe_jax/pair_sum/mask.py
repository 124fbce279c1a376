"""Which pairs of rows count, and how many they are."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mhe_jax.arrays import replicate_explicit


class Mask(NamedTuple):
  """Those pairs count whose rows are both in ``where`` and of different labels.

  Attributes:
    where: booleans ``[*batch, n]``; ``None``: all rows.
    labels: integers ``[*batch, n]``; ``None``: all different.
  """

  where: jax.Array | None = None
  labels: jax.Array | None = None

  def pairs(self, columns: "Mask", among: jax.Array | None = None) -> jax.Array | None:
    """Of the rows of one block and those of another, which pairs count.

    Args:
      columns: the mask of the other block, of m rows.
      among: booleans ``[n, m]``; ``None``: all pairs.

    Returns:
      Booleans ``[*batch, n, m]``; ``None``: all pairs.
    """
    conditions = [] if among is None else [among]
    if self.where is not None and columns.where is not None:
      conditions.append(self.where[..., :, None] & columns.where[..., None, :])
    if self.labels is not None and columns.labels is not None:
      conditions.append(self.labels[..., :, None] != columns.labels[..., None, :])
    if not conditions:
      return None
    # Ranks differ where only some have batch axes.
    rank = max(x.ndim for x in conditions)
    conditions = [jnp.expand_dims(x, range(rank - x.ndim)) for x in conditions]
    return functools.reduce(jnp.logical_and, conditions)

  def num_rows(self, n: int, dtype: jax.typing.DTypeLike) -> int | jax.Array:
    """The number of rows that count, of the n there are, ``[*batch]``."""
    if self.where is not None:
      return jnp.sum(self.where, -1, dtype=dtype)
    return n if isinstance(n, int) else jnp.asarray(n, dtype)  # n may be symbolic.

  def num_pairs(self, n: int, dtype: jax.typing.DTypeLike) -> float | jax.Array:
    """The number of unordered pairs that count, ``[*batch]``, in O(n log n)."""
    if self.labels is None:
      rows = self.num_rows(n, dtype)
      return rows * (rows - 1) / 2
    return 0.5 * jnp.sum(self.num_partners(n, dtype), -1)

  def num_partners(self, n: int, dtype: jax.typing.DTypeLike) -> int | jax.Array:
    """Of each row the number of pairs it is in, ``[*batch, n]``, in O(n log n)."""
    if self.where is not None:
      where = self.where
    elif self.labels is not None:
      where = jnp.ones_like(self.labels, bool)
    else:
      return n - 1
    rows = jnp.sum(where, -1, keepdims=True, dtype=jnp.int32)
    own = 1 if self.labels is None else _count_own_label(self.labels, where)
    return keep((rows - own).astype(dtype), where)


@functools.partial(jnp.vectorize, signature="(n),(n)->(n)")
def _count_own_label(labels, where):
  """Of each row the number of rows in ``where`` that have its label."""
  labels_in_order, where = jax.lax.sort((labels, where.astype(jnp.int32)), num_keys=1)
  up_to = jnp.pad(jnp.cumsum(where, dtype=jnp.int32), (1, 0))
  before = jnp.searchsorted(labels_in_order, labels)
  up_to_last = jnp.searchsorted(labels_in_order, labels, side="right")
  return up_to[up_to_last] - up_to[before]


def keep(x: jax.Array, pairs: jax.Array | None, otherwise: float = 0.0) -> jax.Array:
  """``x`` where pairs count, something else where they do not."""
  return x if pairs is None else jnp.where(pairs, x, otherwise)


def mask_of(
  shape: tuple[int, ...],
  where: jax.typing.ArrayLike | None,
  labels: jax.typing.ArrayLike | None,
) -> Mask:
  """The mask of rows ``[*batch, n]``, of what a caller says of each.

  Raises:
    TypeError: ``where`` is not boolean, or ``labels`` not integer.
    ValueError: one of them does not broadcast to the shape.
  """
  return Mask(
    _broadcast("where", where, shape, jnp.bool_, "boolean"),
    _broadcast("labels", labels, shape, jnp.integer, "integer"),
  )


def _broadcast(name, x, shape, kind, kind_name):
  if x is None:
    return None
  x = replicate_explicit(jnp.asarray(x))
  if not jnp.issubdtype(x.dtype, kind):
    raise TypeError(f"{name} must be {kind_name}, got dtype {x.dtype}.")
  try:
    return jnp.broadcast_to(x, shape)
  except ValueError as error:
    raise ValueError(
      f"{name} must have a shape that broadcasts to {shape}, one for each row of "
      f"neurons, got {x.shape}."
    ) from error
