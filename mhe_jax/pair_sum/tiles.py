r"""Pairs of rows within one block, and between two: a tile of the cosine matrix.

The one place with the arithmetic of tiles. It takes rows, and the mask of these rows;
it knows nothing of where they come from, or which tile is next: that is a schedule.

A tile gives its part of the energy and, while it is still in cache, of the gradient

.. math::
  \frac{\partial E}{\partial u_i} = \sum_{j \ne i} K_{ij} u_j, \qquad
  K_{ij} = \frac{\mathrm{d} f(2 - 2 t)}{\mathrm{d} t} \Big|_{t = u_i \cdot u_j},

for its rows and, transposed, for its columns: three products of tiles for two
triangles, 0.75 of the arithmetic of the two full products U U^T and K U. Automatic
differentiation of the dense sum costs 1.5 times it, and N^2 memory.
"""

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from mhe_jax.pair_sum.mask import Mask, keep

if TYPE_CHECKING:  # Potentials stand on this.
  from mhe_jax.potentials.base import Potential


class PairEnergy(NamedTuple):
  """The energy of a pair of unit vectors as a function of their cosine.

  Attributes:
    potential: the pair potential f.
    half_space: also the energy of one vector with the antipode of the other.
  """

  potential: "Potential"
  half_space: bool

  def value(self, cosines: jax.Array) -> jax.Array:
    """Energies, elementwise."""
    energies = self.potential.value(2.0 - 2.0 * cosines)
    if self.half_space:
      energies = energies + self.potential.value(2.0 + 2.0 * cosines)
    return energies

  def slope(self, cosines: jax.Array) -> jax.Array:
    """Derivatives of :meth:`value` by the cosine, elementwise."""
    slopes = -2.0 * self.potential.slope(2.0 - 2.0 * cosines)
    if self.half_space:
      slopes = slopes + 2.0 * self.potential.slope(2.0 + 2.0 * cosines)
    return slopes

  def orthogonal(self, dtype: jax.typing.DTypeLike) -> jax.Array:
    """The energy of an orthogonal pair, relative to which tiles are summed.

    Near it the pairs of many dimensions gather: what is left to sum is small, and so
    is its rounding. And a pair whose cosine is 0 adds nothing: one of rows of padding,
    and one that does not count.
    """
    return self.value(jnp.zeros((), dtype))


def energy_within(
  energy: PairEnergy, u: jax.Array, mask: Mask, *, with_gradient: bool
) -> tuple[jax.Array, jax.Array | None]:
  """Energy and, if asked for, gradient of the pairs within a block of rows.

  Args:
    energy: of a pair.
    u: unit vectors, or rows of zeros, ``[n, d]``.
    mask: of these rows.
    with_gradient: if not, the gradient is ``None``.

  Returns:
    The energy relative to orthogonal pairs, and its gradient ``[n, d]``.
  """
  cosines, pairs = _cosines_within(u, mask)
  value = 0.5 * _sum(_relative(energy, cosines))  # The tile has every pair twice.
  if not with_gradient:
    return value, None
  weights = keep(energy.slope(cosines), pairs)
  return value, product(weights, u)


def energy_between(
  energy: PairEnergy,
  u: jax.Array,
  mask_u: Mask,
  v: jax.Array,
  mask_v: Mask,
  *,
  with_gradient: bool,
) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
  """Energy and, if asked for, gradients of the pairs between two blocks of rows.

  Args:
    energy: of a pair.
    u: rows of the one block ``[n, d]``.
    mask_u: of these rows.
    v: rows of the other ``[m, d]``.
    mask_v: of those.
    with_gradient: if not, the gradients are ``None``.

  Returns:
    The energy relative to orthogonal pairs, its gradient for u and that for v.
  """
  cosines, pairs = _cosines_between(u, mask_u, v, mask_v)
  value = _sum(_relative(energy, cosines))
  if not with_gradient:
    return value, None, None
  weights = keep(energy.slope(cosines), pairs)
  return value, product(weights, v), product(weights.T, u)


def product(x: jax.Array, y: jax.Array) -> jax.Array:
  """The matrix product, as accurate as its dtype."""
  # HIGHEST: see pair_sum/dense.py.
  return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)


def _cosines_within(u, mask):
  """Cosines, 0 for those that are no pair, and which are."""
  pairs = mask.pairs(mask, among=~jnp.eye(len(u), dtype=bool))
  return keep(product(u, u.T), pairs), pairs


def _cosines_between(u, mask_u, v, mask_v):
  pairs = mask_u.pairs(mask_v)
  return keep(product(u, v.T), pairs), pairs


def _relative(energy, cosines):
  return energy.value(cosines) - energy.orthogonal(cosines.dtype)


def _sum(x):
  # A product with ones: the fastest sum on CPU.
  return product(jnp.ones_like(x, shape=len(x)), x).sum()
