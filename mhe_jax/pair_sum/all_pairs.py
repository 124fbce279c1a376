"""The sum over all pairs, differentiable, wherever the rows are.

One rule of differentiation for every schedule of tiles: that of tiles gives the value
and, in the same pass, the gradient.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mhe_jax.pair_sum import partitioned, ring, tiled, tiles
from mhe_jax.pair_sum.mask import Mask
from mhe_jax.potentials.base import Potential


def tiled_sum(
  units: jax.Array,
  potential: Potential,
  *,
  half_space: bool,
  mask: Mask = Mask(),
  block_size: int | None = None,
  axis_name: ring.AxisName | None = None,
) -> jax.Array:
  """The sum of :func:`mhe_jax.pair_sum.dense.dense_sum`, tile by tile.

  Args:
    units: unit vectors ``[*batch, n, d]``; with ``axis_name`` the rows of this device.
    potential: the pair potential.
    half_space: also sum over the distances to the antipodes.
    mask: the pairs that count; rows that do not must be finite all the same.
    block_size: most rows of a tile, at least 2; a multiple of 16, or of 2 below
      16, is made of it.
    axis_name: axes of :func:`jax.shard_map` over which the rows are sharded.

  Returns:
    The sums ``[*batch]``; with ``axis_name`` over the rows of all devices.

  Raises:
    ValueError: n is symbolic (``jax.export``): the tiles are laid out by its value.
  """
  energy = tiles.CosineEnergy(potential, half_space)
  function = functools.partial(_tiled_sum, energy, block_size)
  return partitioned.divide_by_type(axis_name, function, units, mask)


def _tiled_sum(energy, block_size, axis_name, units, mask):
  sums = _sum(_Schedule(energy, block_size, axis_name), units, mask)
  mask = ring.gather_mask(mask, axis_name)
  num_pairs = mask.num_pairs(ring.num_rows(units, axis_name), units.dtype)
  return sums + energy.orthogonal(units.dtype) * num_pairs


class _Schedule(NamedTuple):
  """How the tiles are gone through: hashable.

  Attributes:
    energy: of a pair.
    block_size: most rows of a tile.
    axis_name: over which the rows are sharded.
  """

  energy: tiles.CosineEnergy
  block_size: int | None
  axis_name: ring.AxisName | None

  def __call__(self, units, mask, *, with_gradient):
    function = functools.partial(self.run, with_gradient=with_gradient)
    return partitioned.divide_by_compiler(self.axis_name, function, units, mask)

  def run(self, axis_name, units, mask, *, with_gradient):
    """Of the rows of a device; these operations JAX can differentiate."""
    pair_sums = tiled.pair_sums
    if axis_name is not None:
      pair_sums = functools.partial(ring.pair_sums, axis_name)
    return pair_sums(
      self.energy, units, mask, block_size=self.block_size, with_gradient=with_gradient
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _sum(schedule, units, mask):
  return schedule(units, mask, with_gradient=False)[0]


@_sum.defjvp
def _sum_jvp(schedule, primals, tangents):
  """The tangent <gradient, du>: one rule for jvp, vjp, vmap and higher orders."""
  value, gradient = _value_and_gradient(schedule, *primals)
  tangent = jnp.sum(gradient * tangents[0], (-2, -1))
  return value, ring.psum(tangent, schedule.axis_name)


# A function with a rule of its own, although the rule is the automatic one: partial
# evaluation, a step of reverse mode, would else look inside, drop the checkpoint of
# the tiles, and reverse mode over the gradient would store all of them.
@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _value_and_gradient(schedule, units, mask):
  return schedule(units, mask, with_gradient=True)


@_value_and_gradient.defjvp
def _value_and_gradient_jvp(schedule, primals, tangents):
  (units, mask), (units_dot, _) = primals, tangents

  def function(units):
    return schedule.run(schedule.axis_name, units, mask, with_gradient=True)

  return jax.jvp(function, (units,), (units_dot,))
