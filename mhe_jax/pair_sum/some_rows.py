"""Some rows: the pairs among them, or with all rows, tile by tile."""

import functools
import math

import jax
import jax.numpy as jnp

from mhe_jax.pair_sum import all_pairs, ring, tiled, tiles
from mhe_jax.pair_sum.layout import default_block_size, map_sets
from mhe_jax.pair_sum.mask import Mask
from mhe_jax.potentials.base import Potential


def estimate_sum(
  key: jax.Array,
  units: jax.Array,
  potential: Potential,
  *,
  num_samples: int,
  half_space: bool,
  axis_name: ring.AxisName | None = None,
) -> tuple[jax.Array, jax.Array]:
  """As :func:`mhe_jax.pair_sum.field.estimate_sum`, of the pairs of some rows alone.

  Args:
    key: a PRNG key; all sets of a batch draw the same numbers.
    units: unit vectors ``[*batch, n, d]``.
    potential: the pair potential.
    num_samples: rows, at least 2 and less than n.
    half_space: also sum over the distances to the antipodes.
    axis_name: axes over which the rows are sharded.

  Returns:
    Estimates ``[*batch]``, and their standard errors, not differentiable: those of a
    mean over all pairs of independent rows, as far as they come of the rows one by one.

  References:
    Hoeffding, A class of statistics with asymptotically normal distribution, Annals of
    Mathematical Statistics 19 (1948).
  """
  n = ring.num_rows(units, axis_name)
  rows = jax.random.choice(key, n, (num_samples,), replace=False)
  num_pairs = n * (n - 1) / 2

  def compute(units):
    # A damaged row is not hidden by not being drawn.
    damage = ring.psum(0.0 * jnp.sum(units), axis_name)
    units = ring.gather_rows(units, rows, axis_name)
    total = all_pairs.tiled_sum(units, potential, half_space=half_space)
    mean = total / (num_samples * (num_samples - 1) / 2) + damage
    fixed = jax.lax.stop_gradient(units)
    sums = tiled.row_sums(fixed, potential, half_space=half_space)
    spread = jnp.std(sums / (num_samples - 1), ddof=1)
    error = 2.0 * spread * math.sqrt((1.0 - num_samples / n) / num_samples)
    return num_pairs * mean, num_pairs * error

  at_once = max(1, default_block_size() ** 2 // num_samples**2)
  return map_sets(compute, (units,), units.shape[:-2], at_once)


def rows_against_all(
  units: jax.Array,
  rows: jax.Array,
  potential: Potential,
  *,
  half_space: bool,
  axis_name: ring.AxisName | None = None,
) -> jax.Array:
  """The mean energy of some rows, each with all rows but itself.

  Args:
    units: unit vectors ``[*batch, n, d]``; with ``axis_name`` those of this device.
    rows: numbers of rows, of all devices, ``[m]``, on all the same; one that there is
      not makes the mean NaN.
    potential: the pair potential.
    half_space: with the antipodes of the others.
    axis_name: axes of :func:`jax.shard_map` over which the rows are sharded.

  Returns:
    Means ``[*batch]``.
  """
  energy = tiles.CosineEnergy(potential, half_space)
  n = ring.num_rows(units, axis_name)
  num_partners = max(1, (2 if half_space else 1) * (n - 1))

  def compute(units):
    is_one = (rows >= 0) & (rows < n)
    chosen = ring.gather_rows(units, jnp.clip(rows, 0, n - 1), axis_name)
    chosen = jnp.where(is_one[:, None], chosen, jnp.nan)
    strengths = jnp.ones_like(chosen, shape=len(rows))
    numbers = jnp.arange(len(units), dtype=rows.dtype)
    numbers = ring.numbers(numbers, len(units), axis_name)
    sums, _ = pull(energy, chosen, rows, strengths, units, numbers, None)
    # A damaged row is not hidden by having no pair.
    mean = ring.psum(jnp.mean(sums) + 0.0 * units.sum(), axis_name)
    return (mean + energy.orthogonal(units.dtype) * (n - 1)) / num_partners

  return map_sets(compute, (units,), units.shape[:-2], 1)


def pull(energy, sources, labels, strengths, units, own_labels, gradient):
  """Sums of the sources over all units of other labels, and their pull on these.

  Args:
    energy: of a pair.
    sources: rows that pull ``[m, d]``.
    labels: of these ``[m]``.
    strengths: how strongly each pulls ``[m]``.
    units: rows that are pulled ``[n, d]``.
    own_labels: of those ``[n]``.
    gradient: what pulls them already ``[n, d]``; ``None``: no pull is asked for.

  Returns:
    The sums ``[m]``, relative to orthogonal pairs; the gradient with the pull.
  """
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

  # Made of the units, too: under shard_map the sums vary over devices as these do.
  start = 0.0 * sources.sum(-1) + 0.0 * units[0, 0]
  sums, pulls = jax.lax.scan(step, start, columns * jnp.arange(num_tiles))
  if gradient is not None:
    gradient = gradient + pulls.reshape(-1, d)[:n]
  return sums, gradient
