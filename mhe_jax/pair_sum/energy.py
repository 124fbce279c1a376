"""The mean, or the sum, of the energies of all pairs: antipodes and masks included."""

from typing import Literal

import jax
import jax.numpy as jnp

from mhe_jax.pair_sum import dense, tiled
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

  Returns:
    Energies ``[*batch]``.
  """
  n = units.shape[-2]
  if implementation == "dense":
    total = dense.pair_sum(units, potential, half_space=half_space, mask=mask)
  else:
    total = tiled.pair_sum(
      units, potential, half_space=half_space, mask=mask, block_size=block_size
    )
  if n == 1 or jax.tree.leaves(mask):  # A damaged row is not hidden by having no pair.
    total = total + 0.0 * jnp.sum(units, (-2, -1))
  if reduction == "sum":
    return _with_antipodes(total, units, potential, half_space, mask)
  return mean_of(total, units, potential, half_space=half_space, mask=mask)


def mean_of(
  total: jax.Array,
  units: jax.Array,
  potential: Potential,
  *,
  half_space: bool,
  mask: Mask = Mask(),
) -> jax.Array:
  """The mean energy, of the sum over the pairs of neurons.

  Args:
    total: sums ``[*batch]``; in half-space form also over the distances to antipodes.
    units: unit vectors, or zeros, ``[*batch, n, d]``.
    potential: the pair potential.
    half_space: with the antipodes.
    mask: the pairs that count.

  Returns:
    Means ``[*batch]``.
  """
  n = units.shape[-2]
  total = _with_antipodes(total, units, potential, half_space, mask)
  num_pairs = mask.num_pairs(n, units.dtype)
  if half_space:
    num_pairs = 4 * num_pairs + mask.num_rows(n, units.dtype)
  at_least_one = max if isinstance(num_pairs, (int, float)) else jnp.maximum
  return total / at_least_one(num_pairs, 1)


def _with_antipodes(total, units, potential, half_space, mask):
  """The sum over all pairs, each of two neurons and their antipodes having four."""
  if not half_space:
    return total
  return 2.0 * total + _antipodal_energy(units, potential, mask)


def _antipodal_energy(units, potential, mask):
  """The n pairs (u_i, -u_i): constants, except that a row of zeros stays 0."""
  # Rounded: norms are 1 or 0 up to rounding, which arccos near -1 would amplify.
  squared_norms = jnp.round(jax.lax.stop_gradient(jnp.sum(units * units, -1)))
  return jnp.sum(keep(potential.value(2.0 + 2.0 * squared_norms), mask.where), -1)
