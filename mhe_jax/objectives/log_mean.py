"""The logarithm of a mean energy: the uniformity loss, and steep energies in range."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import scipy

from mhe_jax.objectives.base import Objective, damage
from mhe_jax.objectives.pair_energy import PairEnergy
from mhe_jax.pair_sum.layout import default_block_size, map_sets
from mhe_jax.pair_sum.mean import pair_energy
from mhe_jax.pair_sum.product import product
from mhe_jax.potentials.base import Potential, check_potential
from mhe_jax.potentials.gaussian import Gaussian
from mhe_jax.potentials.riesz import Riesz


@dataclasses.dataclass(frozen=True)
class LogMean(Objective):
  r"""Logarithm of the mean energy of the pairs.

  .. math::
    \log \frac{2}{N (N - 1)} \sum_{i < j} f(\lVert u_i - u_j \rVert)

  With ``Gaussian(t)`` it is the uniformity loss of contrastive learning. Its gradient
  is that of the mean divided by the mean: neurons that nearly coincide, where a mean is
  large, pull less, and ones that are far apart more. For large t, minus the value is t
  times the smallest squared distance: a smooth maximum of separation, by which all
  pairs move, those within about 1 / t of the closest most. One neuron, which has no
  pair, has the value 0.

  The mean of ``Riesz`` and ``Gaussian`` energies may be beyond floats, for any s and t:
  where it could be (in float32, where t > 13 or s > 7, or fewer than 2 t neurons have
  room to be farther apart than orthogonal ones), the energies are added up relative to
  the largest, at three to five times the cost. Those of other potentials must be in the
  range of floats.

  Args:
    potential: the pair potential, positive: ``Gaussian``, ``Riesz`` with s > 0, or one
      of your own.

  Raises:
    TypeError: ``potential`` is no :class:`Potential`.
    ValueError: it is ``Riesz(0.0)``, whose energies are negative.

  Example:
    >>> import jax.numpy as jnp
    >>> from mhe_jax import Gaussian, LogMean
    >>> round(float(LogMean(Gaussian(2.0))(jnp.eye(3))), 4)
    -4.0

  References:
    Wang and Isola, `Understanding Contrastive Representation Learning through
    Alignment and Uniformity on the Hypersphere
    <https://arxiv.org/abs/2005.10242>`_, ICML 2020, section 4.1.2.
  """

  potential: Potential

  def __post_init__(self):
    check_potential(self.potential)
    if isinstance(self.potential, Riesz) and self.potential.s == 0:
      raise ValueError(
        f"potential must be positive, to have a logarithm, got {self.potential}."
      )

  def evaluate(self, units, *, half_space, key):
    del key
    n = units.shape[-2]
    if n == 0 or (n == 1 and not half_space):
      return damage(units)
    potential = self.potential
    if type(potential) is Gaussian:
      return log_mean_exp(Opposite(), potential.t, units, half_space=half_space)
    if type(potential) is Riesz:
      log = Riesz(0.0, potential.metric, potential.softening(units.dtype))
      return log_mean_exp(log, potential.s, units, half_space=half_space)
    mean = pair_energy(units, potential, half_space=half_space)
    # It may underflow: finite, and without a gradient.
    return jnp.log(jnp.maximum(mean, float(jnp.finfo(units.dtype).tiny)))

  def scale(self, n: int, d: int, *, half_space: bool = False) -> tuple[float, float]:
    best, random = PairEnergy(self.potential).scale(n, d, half_space=half_space)
    # Where they underflow, there is no scale.
    log_best, log_random = (math.log(x) if x > 0 else -math.inf for x in (best, random))
    return log_best, log_random


def log_mean_exp(
  g: Potential, k: float, units: jax.Array, *, half_space: bool
) -> jax.Array:
  """The logarithm of the mean over pairs of exp(k g), whatever its range.

  Args:
    g: the logarithm of a pair energy, a decreasing potential.
    k: times this.
    units: unit vectors, or rows of zeros, ``[*batch, n, d]``, n >= 2, or 1 with
      antipodes.
    half_space: with the antipodes.

  Returns:
    Logarithms ``[*batch]``.
  """
  *batch, n, d = units.shape
  if _fits(g, k, n, d, half_space, units.dtype):
    return jnp.log(pair_energy(units, Exponential(g, k), half_space=half_space))
  rows_at_once = max(1, default_block_size() ** 2 // n)
  function = functools.partial(_row_by_row, g, k, half_space, min(n, rows_at_once))
  return map_sets(function, (units,), tuple(batch), max(1, rows_at_once // n))


def _fits(g, k, n, d, half_space, dtype):
  """Whether tiles are as good, which are in floats, and relative to orthogonal pairs.

  They use the symmetry of the pairs, and are three to five times as fast.
  """
  if not isinstance(n, int) or not isinstance(d, int):
    return True  # Under jax.export.
  r = [0.0, widest(n, d, half_space=half_space), 2.0, 4.0]
  with jax.ensure_compile_time_eval():
    exponents = [k * float(x) for x in g.value(jnp.asarray(r, dtype))]
  nearest, best, orthogonal, farthest = exponents
  # What is left of the range is for the number of pairs, and for slopes. And the best
  # neurons must not be far below what the tiles are relative to.
  largest = 0.6 * math.log(float(jnp.finfo(dtype).max))
  return max(nearest, -farthest) < largest and orthogonal < best + 1.0


def _row_by_row(g, k, half_space, rows_at_once, units):
  """Of one set: each row relative to its largest, then all to the largest of these."""
  n = len(units)

  @jax.checkpoint
  def add_up(units, i):
    others = jnp.arange(n) != i
    # Before the potential: a distance of 0 may have an infinite gradient.
    cosines = jnp.where(others, product(units, units[i]), 0.0)
    exponents = k * g.value(2.0 - 2.0 * cosines)
    if half_space:
      exponents = jnp.logaddexp(exponents, k * g.value(2.0 + 2.0 * cosines))
    return jax.nn.logsumexp(exponents, where=others)

  rows = jnp.arange(n)
  sums = jax.lax.map(lambda i: add_up(units, i), rows, batch_size=rows_at_once)
  if not half_space:
    return jax.nn.logsumexp(sums) - math.log(n * (n - 1))
  # As in pair_sum/mean.py: constants, but of a row of zeros.
  squared = jnp.round(jax.lax.stop_gradient(jnp.sum(units * units, -1)))
  own = k * g.value(2.0 + 2.0 * squared)
  sums = jnp.concatenate([sums, own]) if n > 1 else own
  return jax.nn.logsumexp(sums) - math.log(n * (2 * n - 1))


def widest(n: int, d: int, *, half_space: bool) -> float:
  """A squared distance that the closest of n points, or lines, cannot exceed.

  The smaller of two bounds. The mean squared distance is at most that of a simplex, of
  lines that of orthogonal ones; and caps of half the angle must fit onto the sphere.
  """
  simplex = 2.0 if half_space else 2.0 * n / max(n - 1, 1)
  num_caps = max(2, 2 * n if half_space else n)
  caps = 4.0 * scipy.special.betaincinv(max(d - 1, 1) / 2, 0.5, 2.0 / num_caps)
  return float(min(simplex, caps))


@dataclasses.dataclass(frozen=True)
class Opposite(Potential):
  """The logarithm of Gaussian(1)."""

  def value(self, r):
    return -r

  def slope(self, r):
    return -jnp.ones_like(r)


@dataclasses.dataclass(frozen=True)
class Exponential(Potential):
  """exp(k g)."""

  g: Potential
  k: float

  def value(self, r):
    return jnp.exp(self.k * self.g.value(r))

  def slope(self, r):
    return self.k * self.g.slope(r) * self.value(r)
