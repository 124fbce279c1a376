"""The double sum over pairs by tiles of the cosine matrix, in O(N d) memory.

The schedule: all pairs of one set of rows, block by block. Only tiles on and above the
diagonal are computed; each serves its rows and its columns.
"""

import functools
import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from mhe_jax.pair_sum import tiles
from mhe_jax.pair_sum.mask import Mask

if TYPE_CHECKING:  # Potentials stand on this.
  from mhe_jax.potentials.base import Potential


def default_block_size() -> int:
  """Most rows of a tile, on the default backend.

  On CPU 1024 is the fastest from 64 to 2048 dimensions (docs/benchmarks.md). Other
  backends want fewer and larger products: 4096 is a tile of 64 MiB in float32.
  """
  return 1024 if jax.default_backend() == "cpu" else 4096


def pair_sum(
  units: jax.Array,
  potential: "Potential",
  *,
  half_space: bool,
  mask: Mask = Mask(),
  block_size: int | None = None,
) -> jax.Array:
  """The sum of :func:`mhe_jax.pair_sum.dense.pair_sum`, tile by tile.

  Args:
    units: unit vectors ``[*batch, n, d]``.
    potential: the pair potential.
    half_space: also sum over the distances to the antipodes.
    mask: the pairs that count; rows that do not must be finite all the same.
    block_size: most rows of a tile, at least 2; a multiple of 16, or of 2 below
      16, is made of it.

  Returns:
    The sums ``[*batch]``.

  Raises:
    ValueError: n is symbolic (``jax.export``): the tiles are laid out by its value.
  """
  *batch, n, d = units.shape
  if not isinstance(n, int):
    raise ValueError(
      f"implementation='tiled' needs a static number of neurons, got n = {n}: use "
      "implementation='dense', or export each n by itself. (The batch axes and d may "
      "be symbolic.)"
    )
  largest = block_size or default_block_size()
  multiple = 16 if largest >= 16 else 2
  largest -= largest % multiple
  # As even as possible, so that little of the last block is padding.
  num_blocks = max(1, math.ceil(n / largest))
  size = multiple * math.ceil(n / num_blocks / multiple)
  sum_ = functools.partial(_sum, tiles.PairEnergy(potential, half_space), size)
  num_sets = math.prod(batch)
  sets = units.reshape(num_sets, n, d)
  masks = jax.tree.map(lambda x: x.reshape(num_sets, n), mask)
  if num_sets == 1:
    return sum_(sets[0], jax.tree.map(lambda x: x[0], masks)).reshape(batch)
  # Small sets side by side, as one batched product that is no larger than a tile.
  at_once = max(1, largest**2 // max(n, 1) ** 2)
  if not isinstance(num_sets, int):  # Symbolic, under jax.export: one by one.
    at_once = None
  elif num_sets <= at_once:
    return jax.vmap(sum_)(sets, masks).reshape(batch)
  sums = jax.lax.map(lambda x: sum_(*x), (sets, masks), batch_size=at_once)
  return sums.reshape(batch)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _sum(energy, size, units, mask):
  return _sum_tiles(energy, size, units, mask, with_gradient=False)[0]


@_sum.defjvp
def _sum_jvp(energy, size, primals, tangents):
  """The tangent <gradient, du>: one rule for jvp, vjp, vmap and higher orders."""
  value, gradient = _value_and_gradient(energy, size, *primals)
  return value, jnp.sum(gradient * tangents[0])


# A function with a rule of its own, although the rule is the automatic one: partial
# evaluation, a step of reverse mode, would else look inside, drop the checkpoint of
# the tiles, and reverse mode over the gradient would store all of them.
@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _value_and_gradient(energy, size, units, mask):
  return _sum_tiles(energy, size, units, mask, with_gradient=True)


@_value_and_gradient.defjvp
def _value_and_gradient_jvp(energy, size, primals, tangents):
  (units, mask), (units_dot, _) = primals, tangents

  def function(units):
    return _sum_tiles(energy, size, units, mask, with_gradient=True)

  return jax.jvp(function, (units,), (units_dot,))


def _sum_tiles(energy, size, units, mask, *, with_gradient):
  """Value and, if asked for, gradient, of one set of units ``[n, d]``."""
  n, dtype = len(units), units.dtype
  constant = energy.orthogonal(dtype) * mask.num_pairs(n, dtype)
  value, gradient = add_tiles(
    functools.partial(tiles.energy_within, energy, with_gradient=with_gradient),
    functools.partial(tiles.energy_between, energy, with_gradient=with_gradient),
    size,
    units,
    mask,
    # Zeros made of the units, because under shard_map they must vary as these do.
    lambda units: (0.0 * units[0].sum(), 0.0 * units if with_gradient else None),
  )
  return value + constant, gradient


def add_tiles(within, between, size, units, mask, zeros):
  """Adds up what the tiles of all pairs give, for the whole set and for each row.

  Args:
    within: of the rows and the mask of a block, what its pairs add to the whole, and
      to each row: trees of arrays, of rows ``[size, ...]``.
    between: of the rows and mask of two blocks, what their pairs add to the whole, to
      the rows of the one, and to those of the other.
    size: rows of a block, an even number.
    units: one set ``[n, d]``.
    mask: of its rows.
    zeros: of the rows of all blocks, the sums of no tile.

  Returns:
    The sums for the whole, and for each row ``[n, ...]``.
  """
  n = len(units)
  if n <= size:
    return within(units, mask)

  num_blocks = math.ceil(n / size)
  padding = (0, num_blocks * size - n)
  units = jnp.pad(units, (padding, (0, 0)))
  mask = jax.tree.map(lambda x: jnp.pad(x, padding), mask)

  def rows(x, block, size):
    return jax.lax.dynamic_slice_in_dim(x, block * size, size)

  def rows_and_mask(units, block, size):
    return rows(units, block, size), jax.tree.map(lambda x: rows(x, block, size), mask)

  def add_to_rows(sums, block, more):
    def add(x, y):
      y = y + rows(x, block, len(y))
      return jax.lax.dynamic_update_slice_in_dim(x, y, block * len(y), 0)

    return jax.tree.map(add, sums, more)

  # Reverse mode over the sums computes the tiles again, from nothing but their
  # indices. The sums stay outside, or it would store them for every tile.
  remat = functools.partial(jax.checkpoint, prevent_cse=False)

  def add_diagonal_tiles(size, sums):
    tile = remat(lambda units, i: within(*rows_and_mask(units, i, size)))

    def add(i, sums):
      whole, of_rows = sums
      more, to_rows = tile(units, i)
      whole = jax.tree.map(jnp.add, whole, more)
      return whole, add_to_rows(of_rows, i, to_rows)

    return jax.lax.fori_loop(0, len(units) // size, add, sums)

  def add_upper_tiles(size, pairs, sums):
    pairs = jnp.asarray(pairs, jnp.int32)
    tile = remat(
      lambda units, i, j: between(
        *rows_and_mask(units, i, size), *rows_and_mask(units, j, size)
      )
    )

    def add(step, sums):
      whole, of_rows = sums
      i, j = pairs[0, step], pairs[1, step]
      more, to_rows, to_columns = tile(units, i, j)
      of_rows = add_to_rows(add_to_rows(of_rows, i, to_rows), j, to_columns)
      return jax.tree.map(jnp.add, whole, more), of_rows

    return jax.lax.fori_loop(0, pairs.shape[1], add, sums)

  sums = zeros(units)
  # Half of the work of a tile on the diagonal is wasted: those tiles are smaller.
  half, even = size // 2, np.arange(0, 2 * num_blocks, 2)
  sums = add_diagonal_tiles(half, sums)
  sums = add_upper_tiles(half, [even, even + 1], sums)
  sums = add_upper_tiles(size, np.triu_indices(num_blocks, 1), sums)
  whole, of_rows = sums
  return whole, jax.tree.map(lambda x: x[:n], of_rows)
