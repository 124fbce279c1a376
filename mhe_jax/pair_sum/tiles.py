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

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from mhe_jax.pair_sum.mask import Mask, keep
from mhe_jax.pair_sum.product import product
from mhe_jax.potentials.base import Potential


class CosineFunction(Protocol):
  """What tiles sum: some energy of a pair, by the cosine between its unit vectors."""

  def value(self, cosines: jax.Array) -> jax.Array:
    """Energies, elementwise."""
    ...

  def slope(self, cosines: jax.Array) -> jax.Array:
    """Derivatives of :meth:`value` by the cosine, elementwise."""
    ...

  def orthogonal(self, dtype: jax.typing.DTypeLike) -> jax.Array:
    """The energy of an orthogonal pair, relative to which tiles are summed."""
    ...


class CosineEnergy(NamedTuple):
  """The energy of a pair of unit vectors as a function of their cosine.

  Attributes:
    potential: the pair potential f.
    half_space: also the energy of one vector with the antipode of the other.
  """

  potential: Potential
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
  energy: CosineFunction, u: jax.Array, mask: Mask, *, with_gradient: bool
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
  value = (
    0.5 * _column_sums(_relative(energy, cosines)).sum()
  )  # The tile has every pair twice.
  if not with_gradient:
    return value, None
  weights = keep(energy.slope(cosines), pairs)
  return value, product(weights, u)


def energy_between(
  energy: CosineFunction,
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
  value = _column_sums(_relative(energy, cosines)).sum()
  if not with_gradient:
    return value, None, None
  weights = keep(energy.slope(cosines), pairs)
  return value, product(weights, v), product(weights.T, u)


def field_between(
  energy: CosineFunction,
  u: jax.Array,
  mask_u: Mask,
  v: jax.Array,
  mask_v: Mask,
  strengths: jax.Array,
  *,
  with_gradient: bool,
) -> tuple[jax.Array, jax.Array | None]:
  """Energies of the rows of one block, and their pull on those of another.

  Args:
    energy: of a pair.
    u: rows that pull ``[m, d]``.
    mask_u: of these rows.
    v: rows that are pulled ``[n, d]``.
    mask_v: of those.
    strengths: how strongly each row of u pulls ``[m]``.
    with_gradient: if not, the gradient is ``None``.

  Returns:
    Of each row of u its energy with all of v, relative to orthogonal pairs ``[m]``;
    the gradient for v of their sum, weighted by the strengths, ``[n, d]``.
  """
  cosines, pairs = _cosines_between(u, mask_u, v, mask_v)
  sums = _column_sums(_relative(energy, cosines).T)
  if not with_gradient:
    return sums, None
  weights = keep(energy.slope(cosines), pairs)
  return sums, product(weights.T, strengths[:, None] * u)


def row_sums_within(
  energy: CosineFunction, u: jax.Array, mask: Mask
) -> tuple[None, jax.Array]:
  """Of each row of a block, its energy with the others, relative to orthogonal pairs.

  Args:
    energy: of a pair.
    u: rows ``[n, d]``.
    mask: of these rows.

  Returns:
    ``None``, since it is nothing of a whole; the sums ``[n]``.
  """
  energies = _relative(energy, _cosines_within(u, mask)[0])
  return None, _column_sums(energies)  # It is symmetric.


def row_sums_between(
  energy: CosineFunction, u: jax.Array, mask_u: Mask, v: jax.Array, mask_v: Mask
) -> tuple[None, jax.Array, jax.Array]:
  """Of each row of two blocks, its energy with the rows of the other block.

  Args:
    energy: of a pair.
    u: rows of the one block ``[n, d]``.
    mask_u: of these rows.
    v: rows of the other ``[m, d]``.
    mask_v: of those.

  Returns:
    ``None``; the sums ``[n]`` and ``[m]``, relative to orthogonal pairs.
  """
  energies = _relative(energy, _cosines_between(u, mask_u, v, mask_v)[0])
  return None, _column_sums(energies.T), _column_sums(energies)


class Largest(NamedTuple):
  """Of each row some groups of rows, by their largest cosines with it, the best first.

  A group is what a row is compared with first; its rows are looked at one by one later.

  Attributes:
    cosines: ``[n, m]``; minus infinity where there is no such group.
    groups: their numbers ``[n, m]``.
  """

  cosines: jax.Array
  groups: jax.Array

  def merge(self, other: "Largest") -> "Largest":
    """The best of both, as many as there are of these."""
    cosines = jnp.concatenate([self.cosines, other.cosines], -1)
    groups = jnp.concatenate([self.groups, other.groups], -1)
    return Largest(*best(self.cosines.shape[-1], cosines, groups))


class Groups(NamedTuple):
  """How rows are grouped, and how many groups are kept of each row.

  Attributes:
    size: rows of a group; those of a block are grouped from its first.
    num: groups that are kept.
    half_space: by the magnitude of the cosine.
  """

  size: int
  num: int
  half_space: bool


def largest_within(
  groups: Groups, u: jax.Array, mask: Mask, numbers: jax.Array
) -> tuple[None, Largest]:
  """Of each row of a block, the groups in it with the largest cosines.

  Args:
    groups: of the rows.
    u: rows ``[n, d]``.
    mask: of these rows.
    numbers: of these rows; that of a group is the one of its first row, divided by the
      rows of a group.

  Returns:
    ``None``, since it is nothing of a whole; the groups.
  """
  pairs = mask.pairs(mask, among=~jnp.eye(len(u), dtype=bool))
  return None, _largest(groups, product(u, u.T), pairs, numbers)


def largest_between(
  groups: Groups,
  u: jax.Array,
  mask_u: Mask,
  numbers_u: jax.Array,
  v: jax.Array,
  mask_v: Mask,
  numbers_v: jax.Array,
) -> tuple[None, Largest, Largest]:
  """Of each row of two blocks, the groups in the other with the largest cosines.

  Args:
    groups: of the rows.
    u: rows of the one block ``[n, d]``.
    mask_u: of these rows.
    numbers_u: of these rows.
    v: rows of the other ``[m, d]``.
    mask_v: of those.
    numbers_v: of those.

  Returns:
    ``None``; the groups in v of each row of u; those in u of each row of v.
  """
  cosines, pairs = product(u, v.T), mask_u.pairs(mask_v)
  of_u = _largest(groups, cosines, pairs, numbers_v)
  pairs = None if pairs is None else pairs.T
  return None, of_u, _largest(groups, cosines.T, pairs, numbers_u)


def largest_of(
  groups: Groups,
  u: jax.Array,
  mask_u: Mask,
  numbers_u: jax.Array,
  v: jax.Array,
  mask_v: Mask,
  numbers_v: jax.Array,
) -> Largest:
  """Of each row of one block, the groups in another with the largest cosines.

  As :func:`largest_between`, of one of the two; and the blocks may have rows in common,
  which are no pair with themselves.
  """
  pairs = mask_u.pairs(mask_v, among=numbers_u[:, None] != numbers_v[None])
  return _largest(groups, product(u, v.T), pairs, numbers_v)


def best(
  num: int, values: jax.Array, numbers: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """The largest values of each row, the largest first, and their numbers.

  Equal values are ordered by their numbers, whatever their order is here.

  Args:
    num: how many; all, if there are fewer.
    values: ``[n, m]``.
    numbers: ``[n, m]``; values of equal numbers are one: the largest of them.

  Returns:
    Values, minus infinity where there are not so many, and numbers, ``[n, num]``.
  """

  def step(values, _):
    # max() twice is faster on CPU than argmax() or top_k().
    largest = values.max(-1, keepdims=True)
    none = jnp.iinfo(numbers.dtype).max
    number = jnp.where(values == largest, numbers, none).min(-1, keepdims=True)
    return jnp.where(numbers == number, -jnp.inf, values), (largest, number)

  num = min(num, values.shape[-1])
  _, chosen = jax.lax.scan(step, values, length=num, unroll=min(num, 4))
  return jax.tree.map(lambda x: x.squeeze(-1).T, chosen)


def _cosines_within(u, mask):
  """Cosines, 0 for those that are no pair, and which are."""
  pairs = mask.pairs(mask, among=~jnp.eye(len(u), dtype=bool))
  return keep(product(u, u.T), pairs), pairs


def _cosines_between(u, mask_u, v, mask_v):
  pairs = mask_u.pairs(mask_v)
  return keep(product(u, v.T), pairs), pairs


def _relative(energy, cosines):
  return energy.value(cosines) - energy.orthogonal(cosines.dtype)


def _largest(groups, cosines, pairs, numbers):
  cosines = keep(jnp.abs(cosines) if groups.half_space else cosines, pairs, -jnp.inf)
  to_fill = -cosines.shape[1] % groups.size
  cosines = jnp.pad(cosines, ((0, 0), (0, to_fill)), constant_values=-jnp.inf)
  largest = cosines.reshape(len(cosines), -1, groups.size).max(-1)
  numbers = jnp.broadcast_to(numbers[:: groups.size] // groups.size, largest.shape)
  return Largest(*best(groups.num, largest, numbers))


def _column_sums(x):
  # A product with ones: the fastest sum on CPU.
  return product(jnp.ones_like(x, shape=len(x)), x)
