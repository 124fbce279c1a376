"""The nearest rows of each row, in O(n d) memory.

Cosines sift: a tile of them gives each row, of every group of neighboring rows, the
largest, and the groups where these are largest are kept. Angles decide: cosines of
float32 do not tell apart angles below 1e-3, so all rows of these groups are compared by
their differences, as :func:`angles`.
"""

import functools
import math

import jax
import jax.numpy as jnp

from mhe_jax.pair_sum import tiles
from mhe_jax.pair_sum.layout import default_block_size, even_block_size, map_sets
from mhe_jax.pair_sum.mask import Mask
from mhe_jax.pair_sum.tiled import block, fill, fold

GROUP_SIZE = 16
SPARE_GROUPS = 3


def nearest(
  units: jax.Array,
  *,
  half_space: bool,
  k: int = 1,
  rows: jax.Array | None = None,
  mask: Mask = Mask(),
  block_size: int | None = None,
) -> jax.Array:
  """The k nearest rows of each row, or of some; a constant, to differentiation.

  The k nearest rows are in the k groups of 16 with the largest cosines. Three more
  groups are looked at, for all pairs whose cosines rounding may have put in the wrong
  order: a row is missed only if k + 3 groups without it have one as near, up to the
  rounding of cosines.

  Args:
    units: unit vectors, or rows of zeros, which are orthogonal to all, ``[*batch, n,
      d]``. Rows that are not finite have no partners.
    half_space: the angles are those between lines.
    k: how many, at most n.
    rows: numbers of the rows that are asked, ``[m]``; by default all. One that there is
      not has no partners.
    mask: the pairs that count.
    block_size: most rows of a tile, at least 32.

  Returns:
    Their indices ``[*batch, n, k]``, or ``[*batch, m, k]``, int32, the nearest first,
    and of equally near ones the lowest first; -1 where a row has fewer than k partners.

  Raises:
    ValueError: n is symbolic (``jax.export``).
  """
  *batch, n, d = units.shape
  if not isinstance(n, int):
    raise ValueError(f"nearest neurons need a static number of neurons, got n = {n}.")
  units = jax.lax.stop_gradient(units)
  is_finite = jnp.all(jnp.isfinite(units), -1)
  units = jnp.where(is_finite[..., None], units, 0.0)
  mask = mask._replace(
    where=is_finite if mask.where is None else is_finite & mask.where
  )
  if n == 0:
    return jnp.full((*batch, 0 if rows is None else len(rows), k), -1, jnp.int32)
  largest = block_size or default_block_size()
  # Of rows side by side, as many as have no more to compare than a tile.
  compared = min((k + SPARE_GROUPS) * GROUP_SIZE, n) * d
  is_static = isinstance(compared, int)
  rows_at_once = max(1, largest**2 // max(1, compared)) if is_static else 1
  sets_at_once = max(1, min(rows_at_once // n, largest**2 // n**2))
  function = functools.partial(_nearest, half_space, k, rows, largest, rows_at_once)
  return map_sets(function, (units, mask), tuple(batch), sets_at_once)


def angles(u: jax.Array, v: jax.Array, *, half_space: bool) -> jax.Array:
  """Angles of unit vectors, by their differences; of rows of zeros, pi / 2.

  Args:
    u: ``[..., d]``.
    v: ``[..., d]``.
    half_space: those between lines, at most pi / 2.

  Returns:
    Radians ``[...]``. Coincident and antipodal vectors have no gradient.
  """
  apart, together = _norm(u - v), _norm(u + v)
  if half_space:
    apart, together = jnp.minimum(apart, together), jnp.maximum(apart, together)
  # Both 0: of two rows of zeros.
  are_zero = (apart == 0.0) & (together == 0.0)
  apart = jnp.where(are_zero, 1.0, apart)
  together = jnp.where(are_zero, 1.0, together)
  return 2.0 * jnp.arctan2(apart, together)


def _norm(x):
  squared = jnp.sum(x * x, -1)
  is_zero = squared == 0.0
  return jnp.where(is_zero, 0.0, jnp.sqrt(jnp.where(is_zero, 1.0, squared)))


def _closest_groups(groups, largest, everything):
  """Of each row of one set; the number of a group is that of its first row over 16."""
  # Half of a block, as tiles on the diagonal have it, is a number of groups.
  size = even_block_size(len(everything[0]), largest, 2 * GROUP_SIZE)
  _, closest = fold(
    functools.partial(tiles.largest_within, groups),
    functools.partial(tiles.largest_between, groups),
    size,
    everything,
    lambda units, *_: (None, _no_groups(groups, units)),
    tiles.Largest.merge,
  )
  return closest


def _closest_groups_of(groups, largest, asked, everything):
  """Of some rows of one set: each of them with some columns of all at once."""
  n, m = len(everything[0]), len(asked[0])
  size = even_block_size(n, largest**2 // max(1, m), GROUP_SIZE)
  num_tiles = math.ceil(n / size)
  # The mask leaves out the zeros that fill the last tile.
  everything = fill(everything, num_tiles * size)

  def step(i, closest):
    return closest.merge(tiles.largest_of(groups, *asked, *block(everything, i, size)))

  return jax.lax.fori_loop(0, num_tiles, step, _no_groups(groups, asked[0]))


def _no_groups(groups, units):
  zeros = 0.0 * units.sum(-1, keepdims=True)  # As in pair_sum.
  zeros = jnp.broadcast_to(zeros, (len(units), groups.num))
  return tiles.Largest(zeros - jnp.inf, zeros.astype(jnp.int32))


def _nearest(half_space, k, rows, largest, rows_at_once, units, mask):
  """Of one set."""
  n, d = units.shape
  groups = tiles.Groups(GROUP_SIZE, k + SPARE_GROUPS, half_space)
  everything = (units, mask, jnp.arange(n, dtype=jnp.int32))
  if rows is None:
    asked, closest = everything, _closest_groups(groups, largest, everything)
  else:
    chosen = jnp.clip(rows, 0, n - 1)
    asked = jax.tree.map(lambda x: x[chosen], everything)
    closest = _closest_groups_of(groups, largest, asked, everything)
  of_groups = jnp.pad(units, ((0, -n % GROUP_SIZE), (0, 0)))
  of_groups = of_groups.reshape(math.ceil(n / GROUP_SIZE), GROUP_SIZE, d)

  def compare(row):
    u, own, i, groups = row
    first = GROUP_SIZE * groups[:, None]
    numbers = (first + jnp.arange(GROUP_SIZE, dtype=jnp.int32)[None]).reshape(-1)
    theta = angles(
      u[None], of_groups[groups].reshape(len(numbers), d), half_space=half_space
    )
    others = jax.tree.map(lambda x: x[jnp.minimum(numbers, n - 1)], mask)
    own = jax.tree.map(lambda x: x[None], own)
    pairs = own.pairs(others)[0] & (numbers != i) & (numbers < n)
    values = jnp.where(pairs, -theta, -jnp.inf)
    values, numbers = tiles.best(k, values[None], numbers[None])
    return jnp.where(values[0] > -jnp.inf, numbers[0], -1)

  at_once = min(rows_at_once, len(asked[0]))
  indices = jax.lax.map(compare, (*asked, closest.groups), batch_size=at_once)
  if rows is not None:
    indices = jnp.where(((rows >= 0) & (rows < n))[:, None], indices, -1)
  return jnp.pad(indices, ((0, 0), (0, k - indices.shape[1])), constant_values=-1)
