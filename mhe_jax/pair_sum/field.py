r"""Unbiased estimates of sums over pairs, in O(N d (m + d)) and O(N d) memory.

A quadratic of the cosine is summed over all pairs without any, by :math:`\sum_i u_i`
and :math:`U^T U`. What it leaves of the energy is

- exact within blocks of rows that are neighbors along the largest eigenvector of
  :math:`U^T U`: twins and clusters, whose pulls no sample of rows would find, are
  neighbors there;
- estimated between blocks from m rows, one of each of m equal parts of that order.

Whatever the quadratic and the blocks are, value and gradient are unbiased, for neither
depends on which rows are drawn.

The gradient is that of the field: all rows feel the sampled ones as fixed sources,
twice, for their own turn to be pulled, by all others, is not used. For each row that is
an unbiased estimate of what pulls it. It is not the gradient of the sampled value, in
which the few sampled rows have all of the noise.
"""

import functools
import math
from collections.abc import Hashable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mhe_jax.pair_sum import partitioned, ring, tiles
from mhe_jax.pair_sum.layout import default_block_size, map_sets
from mhe_jax.pair_sum.mask import Mask
from mhe_jax.pair_sum.product import product
from mhe_jax.pair_sum.some_rows import pull
from mhe_jax.potentials.base import Potential

_FITTED_ROWS = 128  # Of each of two sets, between which the quadratic is fitted.
_POWER_STEPS = 8


class _Remainder(NamedTuple):
  """What a quadratic of the cosine leaves of the energy of a pair.

  The sum of the quadratic over all pairs is exact without pairs; what is left of the
  energy is small, where cosines are, and is what is sampled.

  Attributes:
    energy: of a pair.
    linear: coefficient of the cosine.
    square: coefficient of its square.
  """

  energy: tiles.CosineEnergy
  linear: jax.Array
  square: jax.Array

  def value(self, cosines: jax.Array) -> jax.Array:
    """Energies without the quadratic, elementwise."""
    return self.energy.value(cosines) - (self.linear + self.square * cosines) * cosines

  def slope(self, cosines: jax.Array) -> jax.Array:
    """Derivatives of :meth:`value` by the cosine, elementwise."""
    return self.energy.slope(cosines) - self.linear - 2.0 * self.square * cosines

  def orthogonal(self, dtype: jax.typing.DTypeLike) -> jax.Array:
    """That of an orthogonal pair, of which the quadratic has nothing."""
    return self.energy.orthogonal(dtype)


def estimate_sum(
  key: jax.Array,
  units: jax.Array,
  potential: Potential,
  *,
  num_samples: int,
  half_space: bool,
  axis_name: ring.AxisName | None = None,
) -> tuple[jax.Array, jax.Array]:
  """An estimate of the sum over all pairs, and its standard error.

  Args:
    key: a PRNG key; all sets of a batch draw the same numbers.
    units: unit vectors, or rows of zeros, ``[*batch, n, d]``; with ``axis_name`` the
      rows of this device.
    potential: the pair potential.
    num_samples: rows of a sample, and of a block, at least 1 and less than n; of
      several devices each takes an equal part, rounded up.
    half_space: also sum over the distances to the antipodes.
    axis_name: axes of :func:`jax.shard_map` over which the rows are sharded.

  Returns:
    Estimates ``[*batch]``, and their standard errors, not differentiable: those of a
    simple sample, too large where the order of the rows says something.
  """
  impl = None
  if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
    impl, key = jax.random.key_impl(key), jax.random.key_data(key)
  energy = tiles.CosineEnergy(potential, half_space)
  return _estimate(_Field(energy, num_samples, axis_name, impl), key, units)


class _Field(NamedTuple):
  """What an estimate depends on besides the key and the units: hashable.

  Attributes:
    energy: of a pair.
    num_samples: rows of a sample, of all devices.
    axis_name: over which the rows are sharded.
    impl: of the random numbers; ``None``: the key is of ``jax.random.PRNGKey``.
  """

  energy: tiles.CosineEnergy
  num_samples: int
  axis_name: ring.AxisName | None
  impl: Hashable | None

  def __call__(self, key, units, *, with_gradient):
    function = functools.partial(self.run, with_gradient=with_gradient)
    return partitioned.divide_by_compiler(self.axis_name, function, units, Mask(), key)

  def run(self, axis_name, units, _, key, *, with_gradient):
    """Values, standard errors and gradients, of the rows of a device."""
    if self.impl is not None:
      key = jax.random.wrap_key_data(key, impl=self.impl)
    *batch, n, _ = units.shape
    function = functools.partial(
      _sample, self.energy, self.num_samples, axis_name, key, with_gradient
    )
    at_once = max(1, default_block_size() ** 2 // n // self.num_samples)
    return map_sets(function, (units,), tuple(batch), at_once)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _estimate(field, key, units):
  value, error, _ = field(key, units, with_gradient=False)
  return value, error


@_estimate.defjvp
def _estimate_jvp(field, primals, tangents):
  """The tangent <gradient, du>, of a gradient that is not that of the value."""
  value, error, gradient = _value_and_gradient(field, *primals)
  tangent = _tangent(field, gradient, tangents[1])
  return (value, error), (tangent, jnp.zeros_like(error))


# See pair_sum/all_pairs.py for why this has a rule of its own. In it, too, the tangent
# of the value is that of the field.
@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _value_and_gradient(field, key, units):
  return field(key, units, with_gradient=True)


@_value_and_gradient.defjvp
def _value_and_gradient_jvp(field, primals, tangents):
  key, units = primals

  def function(units):
    return field.run(field.axis_name, units, Mask(), key, with_gradient=True)

  (value, error, gradient), (_, of_error, turn) = jax.jvp(
    function, (units,), (tangents[1],)
  )
  tangent = _tangent(field, gradient, tangents[1])
  return (value, error, gradient), (tangent, of_error, turn)


def _tangent(field, gradient, turn):
  return ring.psum(jnp.sum(gradient * turn, (-2, -1)), field.axis_name)


def _sample(energy, num_samples, axis_name, key, with_gradient, units):
  """Value, standard error and gradient of one set of units ``[n, d]``."""
  psum = functools.partial(ring.psum, axis_name=axis_name)
  for_fit, for_order, for_sample = jax.random.split(key, 3)
  # The quadratic and the order are constants: the estimate is unbiased at any.
  moments = psum(product(units.T, units))
  fixed = jax.lax.stop_gradient((units, moments))
  rest = _remainder(energy, for_fit, fixed[0], axis_name)
  order = _order(for_order, *fixed, energy.half_space)
  whole, gradient = _quadratic(rest, units, moments, with_gradient, psum)
  near, gradient = _near(rest, units, order, num_samples, gradient)
  sums, strengths, gradient = _far(
    rest, units, order, num_samples, for_sample, gradient, axis_name
  )
  n = ring.num_rows(units, axis_name)
  far = 0.5 * jnp.sum(strengths * sums)
  value = energy.orthogonal(units.dtype) * (n * (n - 1) / 2) + whole + psum(near + far)
  count = len(sums)
  spread = jnp.std(psum(sums), ddof=1) if count > 1 else jnp.full_like(value, jnp.nan)
  error = 0.5 * n * spread * math.sqrt((1.0 - count / n) / count)
  return value, jax.lax.stop_gradient(error), gradient


def _remainder(energy, key, units, axis_name):
  """The quadratic whose slope is nearest to that of the energy, for most pairs.

  Least squares over random pairs, without the half percent of the smallest cosines and
  that of the largest: pairs that nearly coincide would bend it for all others.
  """
  n = len(units)
  count = min(n, math.ceil(_FITTED_ROWS / ring.num_devices(axis_name)))
  rows = jax.random.randint(_own(key, axis_name), (2, count), 0, n)
  sets = ring.gather(units[rows], axis_name, axis=1)
  rows = ring.gather(ring.numbers(rows, n, axis_name), axis_name, axis=1)
  cosines = product(sets[0], sets[1].T)
  if energy.half_space:  # Even: neither here nor below do signs count.
    cosines = jnp.abs(cosines)
  low, high = jnp.quantile(cosines, jnp.array([0.005, 0.995], cosines.dtype))
  counts = (cosines >= low) & (cosines <= high) & (rows[0][:, None] != rows[1][None, :])
  slopes = energy.slope(jnp.where(counts, cosines, 0.0))
  weights = counts.astype(units.dtype)
  weights = weights / jnp.maximum(weights.sum(), 1.0)
  mean = lambda x: jnp.sum(weights * x)  # noqa: E731
  from_mean = cosines - mean(cosines)
  variance = mean(from_mean**2)
  steepness = mean(from_mean * slopes) / jnp.where(variance > 0, variance, 1.0)
  if energy.half_space:
    second = mean(cosines**2)
    steepness = mean(cosines * slopes) / jnp.where(second > 0, second, 1.0)
    linear = jnp.zeros_like(steepness)
  else:
    linear = mean(slopes) - steepness * mean(cosines)
  return _Remainder(energy, linear, 0.5 * steepness)


def _order(key, units, moments, half_space):
  """Rows in order along about the largest eigenvector of U^T U: their numbers."""
  direction = jax.random.normal(key, units.shape[-1:], units.dtype)
  for _ in range(_POWER_STEPS):
    direction = product(moments, direction)
    direction = direction / jnp.maximum(jnp.linalg.norm(direction), 1e-30)
  along = product(units, direction)
  return jnp.argsort(jnp.abs(along) if half_space else along)


def _quadratic(rest, units, moments, with_gradient, psum):
  """The quadratic of all pairs: sums of powers of the cosine need no pairs."""
  total = psum(jnp.sum(units, 0))
  squares = jnp.sum(units**2, -1, keepdims=True)
  cosines = 0.5 * (jnp.sum(total**2) - psum(jnp.sum(squares)))
  squared_cosines = 0.5 * (jnp.sum(moments**2) - psum(jnp.sum(squares**2)))
  value = rest.linear * cosines + rest.square * squared_cosines
  if not with_gradient:
    return value, None
  turn = product(units, moments) - squares * units
  return value, rest.linear * (total[None] - units) + 2.0 * rest.square * turn


def _near(rest, units, order, size, gradient):
  """What the quadratic leaves of the pairs within blocks of rows in order."""
  n = len(units)
  num_blocks = math.ceil(n / size)
  padded = jnp.pad(order, (0, num_blocks * size - n)).reshape(num_blocks, size)
  counts = jnp.arange(num_blocks * size).reshape(num_blocks, size) < n

  @functools.partial(jax.checkpoint, prevent_cse=False)
  def tile(units, rows, counts):
    block = jnp.where(counts[:, None], units[rows], 0.0)
    with_gradient = gradient is not None
    return tiles.energy_within(rest, block, Mask(counts), with_gradient=with_gradient)

  def step(sums, block):
    value, gradient = sums
    more, pull = tile(units, *block)
    if gradient is not None:
      gradient = gradient.at[block[0]].add(pull)
    return (value + more, gradient), None

  (value, gradient), _ = jax.lax.scan(
    step, (0.0 * units[0].sum(), gradient), (padded, counts)
  )
  return value, gradient


def _far(rest, units, order, size, key, gradient, axis_name):
  """Of sampled rows what the quadratic leaves with all rows of other blocks.

  Returns:
    Sums ``[m]`` over the rows of this device, how many rows each stands for ``[m]``,
    and the gradient with the pull of the sampled rows.
  """
  n = len(units)
  count = math.ceil(size / ring.num_devices(axis_name))
  bounds = np.arange(count + 1) * n // count  # Exact, also where float32 is not.
  strata = bounds[1:] - bounds[:-1]
  drawn = jax.random.randint(_own(key, axis_name), (count,), 0, strata)
  places = jnp.asarray(bounds[:-1]) + drawn
  gather = functools.partial(ring.gather, axis_name=axis_name)
  strengths = jnp.tile(jnp.asarray(strata, units.dtype), ring.num_devices(axis_name))
  # Blocks of different devices are different.
  blocks = ring.numbers(jnp.arange(n) // size, math.ceil(n / size), axis_name)
  sources, labels = gather(units[order[places]]), gather(blocks[places])
  blocks = jnp.zeros_like(blocks).at[order].set(blocks)
  sums, gradient = pull(rest, sources, labels, strengths, units, blocks, gradient)
  return sums, strengths, gradient


def _own(key, axis_name):
  """A key of this device's own."""
  if axis_name is None:
    return key
  return jax.random.fold_in(key, jax.lax.axis_index(axis_name))
