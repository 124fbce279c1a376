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

from mhe_jax.pair_sum import tiles
from mhe_jax.pair_sum.layout import Tree, block_size_of, map_sets
from mhe_jax.pair_sum.mask import Mask
from mhe_jax.potentials.base import Potential


def pair_sums(
  energy: tiles.CosineEnergy,
  units: jax.Array,
  mask: Mask = Mask(),
  *,
  block_size: int | None = None,
  with_gradient: bool,
) -> tuple[jax.Array, jax.Array | None]:
  """The sum over all pairs, relative to orthogonal ones, and its gradient.

  Args:
    energy: of a pair.
    units: unit vectors ``[*batch, n, d]``.
    mask: the pairs that count; rows that do not must be finite all the same.
    block_size: most rows of a tile, at least 2; a multiple of 16, or of 2 below
      16, is made of it.
    with_gradient: if not, the gradient is ``None``.

  Returns:
    The sums ``[*batch]``, and gradients ``[*batch, n, d]``.

  Raises:
    ValueError: n is symbolic (``jax.export``): the tiles are laid out by its value.
  """
  function = functools.partial(sum_tiles, energy, with_gradient=with_gradient)
  return _map_sets(function, units, mask, block_size)


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
    units: unit vectors ``[*batch, n, d]``.
    potential: the pair potential.
    half_space: also sum over the distances to the antipodes.
    mask: the pairs that count.
    block_size: most rows of a tile.

  Returns:
    The sums ``[*batch, n]``.

  Raises:
    ValueError: n is symbolic.
  """
  energy = tiles.CosineEnergy(potential, half_space)
  return _map_sets(functools.partial(_row_sums, energy), units, mask, block_size)


def _map_sets(function, units, mask, block_size) -> Any:
  *batch, n, _ = units.shape
  size, at_once = block_size_of(n, block_size)
  function = functools.partial(function, size)
  return map_sets(function, (units, mask), tuple(batch), at_once)


def sum_tiles(energy, size, units, mask, *, with_gradient):
  """Value and, if asked for, gradient, of one set of units ``[n, d]``."""
  return fold(
    functools.partial(tiles.energy_within, energy, with_gradient=with_gradient),
    functools.partial(tiles.energy_between, energy, with_gradient=with_gradient),
    size,
    (units, mask),
    functools.partial(no_sums, with_gradient=with_gradient),
  )


def no_sums(units, _, *, with_gradient):
  """Zeros made of the units, because under shard_map they must vary as these do."""
  return 0.0 * units[0].sum(), 0.0 * units if with_gradient else None


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


def add(x, y):
  """Sums of the arrays of two trees."""
  return jax.tree.map(jnp.add, x, y)


def fold(
  within: Callable,
  between: Callable,
  size: int,
  rows: tuple,
  start: Callable,
  merge: Callable = add,
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
  # Reverse mode over the sums computes the tiles again, from nothing but their
  # indices. The sums stay outside, or it would store them for every tile.
  remat = functools.partial(jax.checkpoint, prevent_cse=False)
  rows = fill(rows, num_blocks * size)

  def diagonal_tiles(size, sums):
    tile = remat(lambda rows, i: within(*block(rows, i, size)))

    def step(i, sums):
      whole, of_rows = sums
      more, to_rows = tile(rows, i)
      of_rows = _give(merge, of_rows, i, size, to_rows)
      return add(whole, more), of_rows

    return jax.lax.fori_loop(0, len(rows[0]) // size, step, sums)

  def upper_tiles(size, num_pairs, pair, sums):
    tile = remat(
      lambda rows, i, j: between(*block(rows, i, size), *block(rows, j, size))
    )

    def step(step, sums):
      whole, of_rows = sums
      i, j = pair(step)
      more, to_rows, to_columns = tile(rows, i, j)
      of_rows = _give(merge, of_rows, i, size, to_rows)
      of_rows = _give(merge, of_rows, j, size, to_columns)
      return add(whole, more), of_rows

    return jax.lax.fori_loop(0, num_pairs, step, sums)

  def across(step):
    """Each pair of blocks once: every block with those of the half behind it."""
    i = step % num_blocks
    return i, (i + 1 + step // num_blocks) % num_blocks

  sums = start(*rows)
  # Half of the work of a tile on the diagonal is wasted: those tiles are smaller.
  half = size // 2
  sums = diagonal_tiles(half, sums)
  sums = upper_tiles(half, num_blocks, lambda i: (2 * i, 2 * i + 1), sums)
  sums = upper_tiles(size, num_blocks * (num_blocks - 1) // 2, across, sums)
  whole, of_rows = sums
  return whole, jax.tree.map(lambda x: x[:n], of_rows)


def fold_between(
  between: Callable, size: int, rows: tuple, columns: tuple, start: Callable
) -> tuple[Any, Any, Any]:
  """Adds up what the tiles of the pairs between two sets give.

  Args:
    between: as of :func:`fold`.
    size: rows of a block, of both sets.
    rows: arrays of the one set ``[n, ...]``, or trees of them.
    columns: of the other ``[m, ...]``.
    start: of the arrays of all blocks of a set, what no tile gives: to the whole, and
      to each row of it.

  Returns:
    What the whole has, each row of the one set and of the other.
  """
  n, m = len(rows[0]), len(columns[0])
  if max(n, m) <= size:
    return between(*rows, *columns)

  num_rows, num_columns = math.ceil(n / size), math.ceil(m / size)
  rows, columns = fill(rows, num_rows * size), fill(columns, num_columns * size)
  tile = jax.checkpoint(
    lambda rows, columns, i, j: between(
      *block(rows, i, size), *block(columns, j, size)
    ),
    prevent_cse=False,
  )

  def step(step, sums):
    whole, of_rows, of_columns = sums
    i, j = step // num_columns, step % num_columns
    more, to_rows, to_columns = tile(rows, columns, i, j)
    of_rows = _give(add, of_rows, i, size, to_rows)
    of_columns = _give(add, of_columns, j, size, to_columns)
    return add(whole, more), of_rows, of_columns

  (whole, of_rows), (_, of_columns) = start(*rows), start(*columns)
  sums = (whole, of_rows, of_columns)
  whole, of_rows, of_columns = jax.lax.fori_loop(0, num_rows * num_columns, step, sums)
  cut = lambda tree, n: jax.tree.map(lambda x: x[:n], tree)  # noqa: E731
  return whole, cut(of_rows, n), cut(of_columns, m)


def fill(rows: Tree, n: int) -> Tree:
  """Arrays of rows, to which rows of zeros are added until there are n."""

  def pad(x):
    return jnp.pad(x, [(0, n - len(x))] + [(0, 0)] * (x.ndim - 1))

  return jax.tree.map(pad, rows)


def block(rows: Tree, i: jax.typing.ArrayLike, size: int) -> Tree:
  """Of arrays of rows the block of this number, of that many rows."""

  def part(x):
    return jax.lax.dynamic_slice_in_dim(x, i * size, size)

  return jax.tree.map(part, rows)


def _give(merge, of_rows, i, size, more):
  """What rows have, when those of a block are given more."""

  def put(x, y):
    return jax.lax.dynamic_update_slice_in_dim(x, y, i * size, 0)

  return jax.tree.map(put, of_rows, merge(block(of_rows, i, size), more))
