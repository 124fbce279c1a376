"""Which pairs of rows count, and how many they are."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp


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
    where = jnp.ones_like(self.labels, bool) if self.where is None else self.where
    labels, where = jax.lax.sort((self.labels, where.astype(jnp.int32)), num_keys=1)
    # In this order, a row makes a pair with every row before the first of its label.
    before = jnp.cumsum(where, -1, dtype=jnp.int32) - where
    is_first = jnp.concatenate(
      [jnp.ones_like(labels[..., :1], bool), labels[..., 1:] != labels[..., :-1]], -1
    )
    partners = jax.lax.cummax(jnp.where(is_first, before, 0), axis=before.ndim - 1)
    return jnp.sum((where * partners).astype(dtype), -1)


def keep(x: jax.Array, pairs: jax.Array | None, otherwise: float = 0.0) -> jax.Array:
  """``x`` where pairs count, something else where they do not."""
  return x if pairs is None else jnp.where(pairs, x, otherwise)
