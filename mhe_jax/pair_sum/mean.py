"""The mean, or the sum, of the energies of all pairs: antipodes and masks included."""

from typing import Literal

import jax
import jax.numpy as jnp

from mhe_jax.pair_sum import all_pairs, dense, ring
from mhe_jax.pair_sum.mask import Mask, keep
from mhe_jax.potentials.base import Potential


def pair_energy(
  units: jax.Array,
  potential: Potential,
  *,
  half_space: bool,
  reduction: Literal["mean", "sum"] = "mean",
  mask: Mask = Mask(),
  implementation: Literal["dense", "tiled"] | None = None,
  block_size: int | None = None,
  axis_name: ring.AxisName | None = None,
) -> jax.Array:
  """The energy of :func:`mhe_jax.hyperspherical_energy`, of unit vectors.

  Args:
    units: unit vectors, or zeros, ``[*batch, n, d]``.
    potential: the pair potential.
    half_space: with the antipodes.
    reduction: over unordered pairs.
    mask: the pairs that count; rows that do not must be finite all the same.
    implementation: the engine; ``None`` is ``"tiled"``.
    block_size: of the tiles.
    axis_name: axes of :func:`jax.shard_map` over which the rows are sharded.

  Returns:
    Energies ``[*batch]``.
  """
  if implementation == "dense":
    sums = dense.dense_sum(units, potential, half_space=half_space, mask=mask)
  else:
    sums = all_pairs.tiled_sum(
      units,
      potential,
      half_space=half_space,
      mask=mask,
      block_size=block_size,
      axis_name=axis_name,
    )
  # A damaged row is not hidden by having no pair.
  if units.shape[-2] == 1 or jax.tree.leaves(mask):
    sums = sums + ring.psum(0.0 * jnp.sum(units, (-2, -1)), axis_name)
  sums = _add_antipodes(sums, units, potential, half_space, mask, axis_name)
  if reduction == "sum":
    return sums
  n, mask = ring.num_rows(units, axis_name), ring.gather_mask(mask, axis_name)
  return sums / _num_pairs(n, mask, half_space, units.dtype)


def mean_of(
  sums: jax.Array,
  units: jax.Array,
  potential: Potential,
  *,
  half_space: bool,
  axis_name: ring.AxisName | None = None,
) -> jax.Array:
  """The mean energy, of the sum over the pairs of neurons.

  Args:
    sums: ``[*batch]``; in half-space form also over the distances to antipodes.
    units: unit vectors, or zeros, ``[*batch, n, d]``.
    potential: the pair potential.
    half_space: with the antipodes.
    axis_name: axes of :func:`jax.shard_map` over which the rows are sharded.

  Returns:
    Means ``[*batch]``.
  """
  sums = _add_antipodes(sums, units, potential, half_space, Mask(), axis_name)
  n = ring.num_rows(units, axis_name)
  return sums / _num_pairs(n, Mask(), half_space, units.dtype)


def _num_pairs(n, mask, half_space, dtype):
  """At least one; each of two neurons and their antipodes is four, and one's own."""
  num_pairs = mask.num_pairs(n, dtype)
  if half_space:
    num_pairs = 4 * num_pairs + mask.num_rows(n, dtype)
  at_least = max if isinstance(num_pairs, (int, float)) else jnp.maximum
  return at_least(num_pairs, 1)


def _add_antipodes(sums, units, potential, half_space, mask, axis_name):
  """The sum over all pairs, each of two neurons and their antipodes having four."""
  if not half_space:
    return sums
  antipodes = _antipodal_energy(units, potential, mask)
  return 2.0 * sums + ring.psum(antipodes, axis_name)


def _antipodal_energy(units, potential, mask):
  """The n pairs (u_i, -u_i): constants, except that a row of zeros stays 0."""
  # Rounded: norms are 1 or 0 up to rounding, which arccos near -1 would amplify.
  squared_norms = jnp.round(jax.lax.stop_gradient(jnp.sum(units * units, -1)))
  return jnp.sum(keep(potential.value(2.0 + 2.0 * squared_norms), mask.where), -1)
