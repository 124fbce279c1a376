r"""The double sum over pairs by tiles of the cosine matrix, in O(N d) memory.

Only tiles on and above the diagonal are computed. A tile gives its part of the value
and, while it is still in cache, of the gradient

.. math::
  \frac{\partial E}{\partial u_i} = \sum_{j \ne i} K_{ij} u_j, \qquad
  K_{ij} = \frac{\mathrm{d} f(2 - 2 t)}{\mathrm{d} t} \Big|_{t = u_i \cdot u_j},

for its rows and, transposed, for its columns: three products of tiles for two
triangles, 0.75 of the arithmetic of the two full products U U^T and K U. Automatic
differentiation of the dense sum costs 1.5 times it, and N^2 memory.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from mhe_jax.pair_sum.mask import Mask, keep
from mhe_jax.potentials.base import Potential


def default_block_size() -> int:
  """Most rows of a tile, on the default backend.

  On CPU 1024 is the fastest from 64 to 2048 dimensions (docs/benchmarks.md). Other
  backends want fewer and larger products: 4096 is a tile of 64 MiB in float32.
  """
  return 1024 if jax.default_backend() == "cpu" else 4096


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
  sum_ = functools.partial(_sum, potential, half_space, size)
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


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _sum(potential, half_space, size, units, mask):
  return _sum_tiles(potential, half_space, size, units, mask, with_gradient=False)[0]


@_sum.defjvp
def _sum_jvp(potential, half_space, size, primals, tangents):
  """The tangent <gradient, du>: one rule for jvp, vjp, vmap and higher orders."""
  value, gradient = _value_and_gradient(potential, half_space, size, *primals)
  return value, jnp.sum(gradient * tangents[0])


# A function with a rule of its own, although the rule is the automatic one: partial
# evaluation, a step of reverse mode, would else look inside, drop the checkpoint of
# the tiles, and reverse mode over the gradient would store all of them.
@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _value_and_gradient(potential, half_space, size, units, mask):
  return _sum_tiles(potential, half_space, size, units, mask, with_gradient=True)


@_value_and_gradient.defjvp
def _value_and_gradient_jvp(potential, half_space, size, primals, tangents):
  (units, mask), (units_dot, _) = primals, tangents

  def function(units):
    return _sum_tiles(potential, half_space, size, units, mask, with_gradient=True)

  return jax.jvp(function, (units,), (units_dot,))


def _sum_tiles(potential, half_space, size, units, mask, *, with_gradient):
  """Value and, if asked for, gradient, of one set of units ``[n, d]``."""
  n = units.shape[0]
  # Summed relative to an orthogonal pair, near which the pairs of many dimensions
  # gather: what is left to sum is small, and so is its rounding. And a pair whose
  # cosine is 0 adds nothing: one of rows of padding, and one that does not count.
  orthogonal = _energy(potential, half_space, jnp.zeros((), units.dtype))
  constant = orthogonal * mask.num_pairs(n, units.dtype)

  def energy_of(cosines):
    energies = _energy(potential, half_space, cosines) - orthogonal
    # A product with ones: the fastest sum on CPU.
    return _product(jnp.ones_like(energies, shape=len(energies)), energies).sum()

  def diagonal_tile(u, mask):
    """Energy and gradient of the pairs within a block."""
    pairs = mask.pairs(mask, among=~jnp.eye(len(u), dtype=bool))
    cosines = keep(_product(u, u.T), pairs)
    energy = 0.5 * energy_of(cosines)  # The tile has every pair twice.
    if not with_gradient:
      return energy, None
    weights = keep(_weight(potential, half_space, cosines), pairs)
    return energy, _product(weights, u)

  def upper_tile(u, mask_u, v, mask_v):
    """Energy and gradients of the pairs between two blocks."""
    pairs = mask_u.pairs(mask_v)
    cosines = keep(_product(u, v.T), pairs)
    energy = energy_of(cosines)
    if not with_gradient:
      return energy, None, None
    weights = keep(_weight(potential, half_space, cosines), pairs)
    return energy, _product(weights, v), _product(weights.T, u)

  if n <= size:
    energy, gradient = diagonal_tile(units, mask)
    return energy + constant, gradient

  num_blocks = math.ceil(n / size)
  padding = (0, num_blocks * size - n)
  units = jnp.pad(units, (padding, (0, 0)))
  mask = jax.tree.map(lambda x: jnp.pad(x, padding), mask)

  def rows(x, block, size):
    return jax.lax.dynamic_slice_in_dim(x, block * size, size)

  def rows_and_mask(units, block, size):
    return rows(units, block, size), jax.tree.map(lambda x: rows(x, block, size), mask)

  def add_to_rows(x, block, y):
    if not with_gradient:
      return None
    y = y + rows(x, block, len(y))
    return jax.lax.dynamic_update_slice_in_dim(x, y, block * len(y), 0)

  # Reverse mode over the gradient computes the tiles again, from nothing but their
  # indices. The sums stay outside, or it would store them for every tile.
  remat = functools.partial(jax.checkpoint, prevent_cse=False)

  def add_diagonal_tiles(size, carry):
    tile = remat(lambda units, i: diagonal_tile(*rows_and_mask(units, i, size)))

    def add(i, carry):
      energy, gradient = carry
      more, to_rows = tile(units, i)
      return energy + more, add_to_rows(gradient, i, to_rows)

    return jax.lax.fori_loop(0, len(units) // size, add, carry)

  def add_upper_tiles(size, pairs, carry):
    pairs = jnp.asarray(pairs, jnp.int32)
    tile = remat(
      lambda units, i, j: upper_tile(
        *rows_and_mask(units, i, size), *rows_and_mask(units, j, size)
      )
    )

    def add(step, carry):
      energy, gradient = carry
      i, j = pairs[0, step], pairs[1, step]
      more, to_rows, to_columns = tile(units, i, j)
      gradient = add_to_rows(add_to_rows(gradient, i, to_rows), j, to_columns)
      return energy + more, gradient

    return jax.lax.fori_loop(0, pairs.shape[1], add, carry)

  # Zeros made of the units, because under shard_map they must vary as these do.
  carry = (0.0 * units[0].sum(), 0.0 * units if with_gradient else None)
  # Half of the work of a tile on the diagonal is wasted: those tiles are smaller.
  half, even = size // 2, np.arange(0, 2 * num_blocks, 2)
  carry = add_diagonal_tiles(half, carry)
  carry = add_upper_tiles(half, [even, even + 1], carry)
  carry = add_upper_tiles(size, np.triu_indices(num_blocks, 1), carry)
  energy, gradient = carry
  return energy + constant, gradient[:n] if with_gradient else None


def _energy(potential, half_space, cosines):
  energies = potential.value(2.0 - 2.0 * cosines)
  if half_space:
    energies = energies + potential.value(2.0 + 2.0 * cosines)
  return energies


def _weight(potential, half_space, cosines):
  """Derivative of :func:`_energy` by the cosine."""
  weights = -2.0 * potential.slope(2.0 - 2.0 * cosines)
  if half_space:
    weights = weights + 2.0 * potential.slope(2.0 + 2.0 * cosines)
  return weights


def _product(x, y):
  # HIGHEST: see pair_sum/dense.py.
  return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)
