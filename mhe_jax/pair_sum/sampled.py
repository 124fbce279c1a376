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

import jax
import jax.numpy as jnp
import numpy as np

from mhe_jax.pair_sum import all_pairs, tiled, tiles
from mhe_jax.pair_sum.layout import default_block_size, of_each_set
from mhe_jax.pair_sum.mask import Mask
from mhe_jax.potentials.base import Potential

_FITTED_ROWS = 128  # Of each of two sets, between which the quadratic is fitted.
_POWER_STEPS = 8


def pair_sum(
  key: jax.Array,
  units: jax.Array,
  potential: Potential,
  *,
  num_samples: int,
  half_space: bool,
) -> tuple[jax.Array, jax.Array]:
  """An estimate of the sum over all pairs, and its standard error.

  Args:
    key: a PRNG key; all sets of a batch draw the same numbers.
    units: unit vectors, or rows of zeros, ``[*batch, n, d]``.
    potential: the pair potential.
    num_samples: rows of a sample, and of a block, at least 1 and less than n.
    half_space: also sum over the distances to the antipodes.

  Returns:
    Estimates ``[*batch]``, and their standard errors, not differentiable: those of a
    simple sample, too large where the order of the rows says something.
  """
  *batch, n, _ = units.shape
  energy = tiles.PairEnergy(potential, half_space)
  function = functools.partial(_estimate, energy, num_samples, key)
  at_once = max(1, default_block_size() ** 2 // n // num_samples)
  return of_each_set(function, (units,), tuple(batch), at_once)


def minibatch(
  key: jax.Array,
  units: jax.Array,
  potential: Potential,
  *,
  num_samples: int,
  half_space: bool,
) -> tuple[jax.Array, jax.Array]:
  """As :func:`pair_sum`, from nothing but the pairs of some rows.

  Args:
    key: as of :func:`pair_sum`, and so the other arguments.
    units: unit vectors ``[*batch, n, d]``.
    potential: the pair potential.
    num_samples: rows, at least 2 and less than n.
    half_space: also sum over the distances to the antipodes.

  Returns:
    Estimates ``[*batch]``, and their standard errors, not differentiable: those of a
    mean over all pairs of independent rows, as far as they come of the rows one by one.

  References:
    Hoeffding, A class of statistics with asymptotically normal distribution, Annals of
    Mathematical Statistics 19 (1948).
  """
  *batch, n, _ = units.shape
  rows = jax.random.choice(key, n, (num_samples,), replace=False)
  num_pairs = n * (n - 1) / 2

  def of_set(units):
    # A damaged row is not hidden by not being drawn.
    damage, units = 0.0 * jnp.sum(units), units[rows]
    total = all_pairs.pair_sum(units, potential, half_space=half_space)
    mean = total / (num_samples * (num_samples - 1) / 2) + damage
    fixed = jax.lax.stop_gradient(units)
    sums = tiled.row_sums(fixed, potential, half_space=half_space)
    spread = jnp.std(sums / (num_samples - 1), ddof=1)
    error = 2.0 * spread * math.sqrt((1.0 - num_samples / n) / num_samples)
    return num_pairs * mean, num_pairs * error

  at_once = max(1, default_block_size() ** 2 // num_samples**2)
  return of_each_set(of_set, (units,), tuple(batch), at_once)


def rows_against_all(
  units: jax.Array, rows: jax.Array, potential: Potential, *, half_space: bool
) -> jax.Array:
  """The mean energy of some rows, each with all rows but itself.

  Args:
    units: unit vectors ``[*batch, n, d]``.
    rows: numbers of rows ``[m]``; one that there is not makes the mean NaN.
    potential: the pair potential.
    half_space: with the antipodes of the others.

  Returns:
    Means ``[*batch]``.
  """
  energy = tiles.PairEnergy(potential, half_space)
  *batch, n, _ = units.shape
  num_partners = max(1, (2 if half_space else 1) * (n - 1))

  def of_set(units):
    is_one = (rows >= 0) & (rows < n)
    chosen = jnp.where(is_one[:, None], units[jnp.clip(rows, 0, n - 1)], jnp.nan)
    strengths = jnp.ones_like(chosen, shape=len(rows))
    numbers = jnp.arange(n, dtype=rows.dtype)
    sums, _ = _pull(energy, chosen, rows, strengths, units, numbers, None)
    # A damaged row is not hidden by having no pair.
    sums = jnp.mean(sums) + energy.orthogonal(units.dtype) * (n - 1) + 0.0 * units.sum()
    return sums / num_partners

  return of_each_set(of_set, (units,), tuple(batch), 1)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _estimate(energy, num_samples, key, units):
  value, error, _ = _sample(energy, num_samples, key, units, with_gradient=False)
  return value, error


@_estimate.defjvp
def _estimate_jvp(energy, num_samples, primals, tangents):
  """The tangent <gradient, du>, of a gradient that is not that of the value."""
  value, error, gradient = _value_and_gradient(energy, num_samples, *primals)
  tangent = jnp.sum(gradient * tangents[1])
  return (value, error), (tangent, jnp.zeros_like(error))


# See pair_sum/tiled.py for why this has a rule of its own. In it, too, the tangent of
# the value is that of the field.
@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _value_and_gradient(energy, num_samples, key, units):
  return _sample(energy, num_samples, key, units, with_gradient=True)


@_value_and_gradient.defjvp
def _value_and_gradient_jvp(energy, num_samples, primals, tangents):
  key, units = primals
  function = functools.partial(_sample, energy, num_samples, key, with_gradient=True)
  (value, error, gradient), (_, of_error, turn) = jax.jvp(
    function, (units,), (tangents[1],)
  )
  tangent = jnp.sum(gradient * tangents[1])
  return (value, error, gradient), (tangent, of_error, turn)


def _sample(energy, num_samples, key, units, *, with_gradient):
  """Value, standard error and gradient of one set of units ``[n, d]``."""
  n, dtype = len(units), units.dtype
  for_fit, for_order, for_sample = jax.random.split(key, 3)
  # The quadratic and the order are constants: the estimate is unbiased at any.
  moments = tiles.product(units.T, units)
  fixed = jax.lax.stop_gradient((units, moments))
  rest = _remainder(energy, for_fit, fixed[0])
  order = _order(for_order, *fixed, energy.half_space)
  whole, gradient = _quadratic(rest, units, moments, with_gradient)
  near, gradient = _near(rest, units, order, num_samples, gradient)
  sums, strengths, gradient = _far(
    rest, units, order, num_samples, for_sample, gradient
  )
  constant = energy.orthogonal(dtype) * (n * (n - 1) / 2)
  value = constant + whole + near + 0.5 * jnp.sum(strengths * sums)
  spread = jnp.std(sums, ddof=1) if num_samples > 1 else jnp.full_like(value, jnp.nan)
  error = 0.5 * n * spread * math.sqrt((1.0 - num_samples / n) / num_samples)
  return value, jax.lax.stop_gradient(error), gradient


def _remainder(energy, key, units):
  """The quadratic whose slope is nearest to that of the energy, for most pairs.

  Least squares over random pairs, without the one percent of the smallest cosines and
  that of the largest: pairs that nearly coincide would bend it for all others.
  """
  n = len(units)
  count = min(n, _FITTED_ROWS)
  rows = jax.random.randint(key, (2, count), 0, n)
  cosines = tiles.product(units[rows[0]], units[rows[1]].T)
  if energy.half_space:  # Even: neither here nor below do signs count.
    cosines = jnp.abs(cosines)
  low, high = jnp.quantile(cosines, jnp.array([0.01, 0.99], cosines.dtype))
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
  return tiles.Remainder(energy, linear, 0.5 * steepness)


def _order(key, units, moments, half_space):
  """Rows in order along about the largest eigenvector of U^T U: their numbers."""
  direction = jax.random.normal(key, units.shape[-1:], units.dtype)
  for _ in range(_POWER_STEPS):
    direction = tiles.product(moments, direction)
    direction = direction / jnp.maximum(jnp.linalg.norm(direction), 1e-30)
  along = tiles.product(units, direction)
  return jnp.argsort(jnp.abs(along) if half_space else along)


def _quadratic(rest, units, moments, with_gradient):
  """The quadratic of all pairs: sums of powers of the cosine need no pairs."""
  total = jnp.sum(units, 0)
  squares = jnp.sum(units**2, -1, keepdims=True)
  cosines = 0.5 * (jnp.sum(total**2) - jnp.sum(squares))
  squared_cosines = 0.5 * (jnp.sum(moments**2) - jnp.sum(squares**2))
  value = rest.linear * cosines + rest.square * squared_cosines
  if not with_gradient:
    return value, None
  turn = tiles.product(units, moments) - squares * units
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


def _far(rest, units, order, size, key, gradient):
  """Of sampled rows what the quadratic leaves with all rows of other blocks.

  Returns:
    Sums ``[m]``, how many rows each stands for ``[m]``, and the gradient with the pull
    of the sampled rows.
  """
  n = len(units)
  bounds = np.arange(size + 1) * n // size  # Exact, also where float32 is not.
  strata = bounds[1:] - bounds[:-1]
  places = jnp.asarray(bounds[:-1]) + jax.random.randint(key, (size,), 0, strata)
  strengths = jnp.asarray(strata, units.dtype)
  sources, labels = units[order[places]], places // size
  blocks = jnp.zeros_like(order).at[order].set(jnp.arange(n) // size)
  sums, gradient = _pull(rest, sources, labels, strengths, units, blocks, gradient)
  return sums, strengths, gradient


def _pull(energy, sources, labels, strengths, units, own_labels, gradient):
  """Sums of the sources over all units of other labels, and their pull on these."""
  n, d = units.shape
  columns = max(16, default_block_size() ** 2 // len(sources))
  num_tiles = math.ceil(n / columns)
  columns = math.ceil(n / num_tiles)
  to_fill = num_tiles * columns - n
  # Rows of padding are zeros: they add nothing, and what pulls them is not kept.
  units = jnp.pad(units, ((0, to_fill), (0, 0)))
  own_labels = jnp.pad(own_labels, (0, to_fill))

  @functools.partial(jax.checkpoint, prevent_cse=False)
  def tile(sources, units, first):
    part = jax.lax.dynamic_slice_in_dim(units, first, columns)
    of_part = jax.lax.dynamic_slice_in_dim(own_labels, first, columns)
    return tiles.field_between(
      energy, sources, Mask(labels=labels), part, Mask(labels=of_part), strengths,
      with_gradient=gradient is not None,
    )  # fmt: skip

  def step(sums, first):
    more, pull = tile(sources, units, first)
    return sums + more, pull

  sums, pulls = jax.lax.scan(
    step, 0.0 * sources.sum(-1), columns * jnp.arange(num_tiles)
  )
  if gradient is not None:
    gradient = gradient + pulls.reshape(-1, d)[:n]
  return sums, gradient
