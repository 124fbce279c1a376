"""The double sum over pairs by one Gram matrix: the definition.

Memory is quadratic in the number of neurons. Every other engine must agree with
this one.
"""

import jax
import jax.numpy as jnp

from mhe_jax.pair_sum.mask import Mask, keep
from mhe_jax.pair_sum.product import product
from mhe_jax.potentials.base import Potential


def dense_sum(
  units: jax.Array,
  potential: Potential,
  *,
  half_space: bool,
  mask: Mask = Mask(),
) -> jax.Array:
  """Sum over i < j of f(|u_i - u_j|^2), plus f(|u_i + u_j|^2) if half-space.

  Args:
    units: unit vectors ``[*batch, n, d]``.
    potential: the pair potential f.
    half_space: also sum over the distances to the antipodes, which the same
      n x n cosines give.
    mask: the pairs that count; rows that do not must be finite all the same.

  Returns:
    The sums ``[*batch]``.
  """
  cosines = product(units, jnp.swapaxes(units, -1, -2))
  pairs = mask.pairs(mask, among=~jnp.eye(units.shape[-2], dtype=bool))
  # where() before the potential: a diagonal of r = 0, or two rows of one label, would
  # put the singularity into the gradient, as 0 * inf.
  cosines = keep(cosines, pairs)
  energies = potential.value(2.0 - 2.0 * cosines)
  if half_space:
    energies = energies + potential.value(2.0 + 2.0 * cosines)
  energies = keep(energies, pairs)
  # Rows first, then their sums: two short sums round less than one long one.
  return 0.5 * energies.sum(-1).sum(-1)
