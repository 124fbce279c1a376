"""Sums over pairs by tiles of the cosine matrix, in O(N d) memory.

The schedule: all pairs of one set of rows, block by block. Only tiles on and above the
diagonal are computed; each serves its rows and its columns.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mhe_jax.pair_sum import tiles
from mhe_jax.pair_sum.layout import default_block_size, even_block_size, of_each_set
from mhe_jax.pair_sum.mask import Mask
from mhe_jax.potentials.base import Potential


def pair_sum(
  units: jax.Array,
  potential: Potential,
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
  energy = tiles.PairEnergy(potential, half_space)
  return _of_each_set(functools.partial(_sum, energy), units, mask, block_size)


def row_sums(
  units: jax.Array,
  potential: Potential,
  *,
  half_space: bool,
  mask: Mask = Mask(),
  block_size: int | None = None,
) -> jax.Array:
  """Of each row the sum over the pairs it is in; all of them have each pair twice.

  Args:
    units: as of :func:`pair_sum`, and so the other arguments.
    potential: the pair potential.
    half_space: also sum over the distances to the antipodes.
    mask: the pairs that count.
    block_size: most rows of a tile.

  Returns:
    The sums ``[*batch, n]``.

  Raises:
    ValueError: n is symbolic.
  """
  energy = tiles.PairEnergy(potential, half_space)
  return _of_each_set(functools.partial(_row_sums, energy), units, mask, block_size)


def _of_each_set(function, units, mask, block_size):
  *batch, n, _ = units.shape
  if not isinstance(n, int):
    raise ValueError(
      f"implementation='tiled' needs a static number of neurons, got n = {n}: use "
      "implementation='dense', or export each n by itself. (The batch axes and d may "
      "be symbolic.)"
    )
  largest = block_size or default_block_size()
  multiple = 16 if largest >= 16 else 2
  largest -= largest % multiple
  size = even_block_size(n, largest, multiple)
  # One batched product that is no larger than a tile.
  at_once = max(1, largest**2 // max(n, 1) ** 2)
  function = functools.partial(function, size)
  return of_each_set(function, (units, mask), tuple(batch), at_once)


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
  value, gradient = fold(
    functools.partial(tiles.energy_within, energy, with_gradient=with_gradient),
    functools.partial(tiles.energy_between, energy, with_gradient=with_gradient),
    size,
    (units, mask),
    # Zeros made of the units, because under shard_map they must vary as these do.
    lambda units, _: (0.0 * units[0].sum(), 0.0 * units if with_gradient else None),
  )
  return value + constant, gradient


def _row_sums(energy, size, units, mask):
  """Of one set; its derivatives are the automatic ones, tile by tile."""
  n, dtype = len(units), units.dtype
  _, sums = fold(
    functools.partial(tiles.row_sums_within, energy),
    functools.partial(tiles.row_sums_between, energy),
    size,
    (units, mask),
    lambda units, _: (None, 0.0 * units.sum(-1)),
  )
  return sums + energy.orthogonal(dtype) * mask.num_partners(n, dtype)


def fold(
  within: Callable,
  between: Callable,
  size: int,
  rows: tuple,
  start: Callable,
  merge: Callable = functools.partial(jax.tree.map, lambda x, y: y + x),
) -> tuple[Any, Any]:
  """Adds up what the tiles of all pairs give: to the whole set, and to each row.

  Args:
    within: of the arrays of a block of rows, what its pairs give to the whole, and to
      each row, ``[size, ...]``; both are trees of arrays.
    between: of the arrays of two blocks, what their pairs give to the whole, to the
      rows of the one, and to those of the other.
    size: rows of a block, an even number.
    rows: arrays of one set ``[n, ...]``, or trees of them; zeros are added to fill the
      last block.
    start: of the arrays of all blocks, what no tile gives.
    merge: of what rows have, and what one more tile gives them, what they have then.

  Returns:
    What the whole has, and each row ``[n, ...]``.
  """
  n = len(rows[0])
  if n <= size:
    return within(*rows)

  num_blocks = math.ceil(n / size)
  padded = num_blocks * size

  def pad(x):
    return jnp.pad(x, [(0, padded - n)] + [(0, 0)] * (x.ndim - 1))

  def block(tree, i, size):
    def part(x):
      return jax.lax.dynamic_slice_in_dim(x, i * size, size)

    return jax.tree.map(part, tree)

  def give(of_rows, i, size, more):
    def put(x, y):
      return jax.lax.dynamic_update_slice_in_dim(x, y, i * size, 0)

    return jax.tree.map(put, of_rows, merge(block(of_rows, i, size), more))

  # Reverse mode over the sums computes the tiles again, from nothing but their
  # indices. The sums stay outside, or it would store them for every tile.
  remat = functools.partial(jax.checkpoint, prevent_cse=False)
  rows = jax.tree.map(pad, rows)

  def diagonal_tiles(size, sums):
    tile = remat(lambda rows, i: within(*block(rows, i, size)))

    def step(i, sums):
      whole, of_rows = sums
      more, to_rows = tile(rows, i)
      return jax.tree.map(jnp.add, whole, more), give(of_rows, i, size, to_rows)

    return jax.lax.fori_loop(0, padded // size, step, sums)

  def upper_tiles(size, pairs, sums):
    pairs = jnp.asarray(pairs, jnp.int32)
    tile = remat(
      lambda rows, i, j: between(*block(rows, i, size), *block(rows, j, size))
    )

    def step(step, sums):
      whole, of_rows = sums
      i, j = pairs[0, step], pairs[1, step]
      more, to_rows, to_columns = tile(rows, i, j)
      of_rows = give(give(of_rows, i, size, to_rows), j, size, to_columns)
      return jax.tree.map(jnp.add, whole, more), of_rows

    return jax.lax.fori_loop(0, pairs.shape[1], step, sums)

  sums = start(*rows)
  # Half of the work of a tile on the diagonal is wasted: those tiles are smaller.
  half, even = size // 2, np.arange(0, 2 * num_blocks, 2)
  sums = diagonal_tiles(half, sums)
  sums = upper_tiles(half, [even, even + 1], sums)
  sums = upper_tiles(size, np.triu_indices(num_blocks, 1), sums)
  whole, of_rows = sums
  return whole, jax.tree.map(lambda x: x[:n], of_rows)
