"""The logarithm of a mean energy: the uniformity loss, and a range that fits floats."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import scipy.special

from mhe_jax.objectives.base import Objective, damage
from mhe_jax.objectives.pair_energy import PairEnergy
from mhe_jax.pair_sum.energy import pair_energy
from mhe_jax.potentials.base import Potential, check_potential
from mhe_jax.potentials.gaussian import Gaussian
from mhe_jax.potentials.riesz import Riesz

# Exponents of pair energies, in units of that of the largest float: what is left is
# for the number of pairs, and for slopes.
LARGEST, DEEPEST = 0.65, 0.45


@dataclasses.dataclass(frozen=True)
class LogMean(Objective):
  r"""Logarithm of the mean energy of the pairs.

  .. math::
    \log \frac{2}{N (N - 1)} \sum_{i < j} f(\lVert u_i - u_j \rVert)

  With ``Gaussian(t)`` it is the uniformity loss of contrastive learning. Its gradient
  is that of the mean divided by the mean: neurons that nearly coincide, where a mean is
  large, pull less, and ones that are far apart more. One neuron, which has no pair, has
  the value 0.

  Pair energies of ``Riesz`` and ``Gaussian`` are computed relative to the distance that
  the closest pair cannot exceed, so that no set has a mean that underflows, for any s
  and t. Where a pair is so much closer that its energy does not fit the float (float32:
  beyond exp(97) times that), its logarithm is continued by a tangent.

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
    n, d = units.shape[-2:]
    if n == 0 or (n == 1 and not half_space):
      return damage(units)
    f = self._in_range(n, d, half_space, units.dtype)
    mean = pair_energy(units, f, half_space=half_space)
    # A potential of a user's own may underflow: finite, and without a gradient.
    log_mean = jnp.log(jnp.maximum(mean, float(jnp.finfo(units.dtype).tiny)))
    if isinstance(f, Exponential):
      log_mean = log_mean + f.log_factor(units.dtype)
    return log_mean

  def _in_range(self, n, d, half_space, dtype):
    """The potential, or what is that up to a factor and fits floats."""
    potential, unit = self.potential, widest(n, d, half_space=half_space)
    if type(potential) is Gaussian:
      return Exponential(Opposite(), potential.t, unit)
    if type(potential) is Riesz:
      g = Riesz(0.0, potential.metric, potential.softening(dtype))
      return Exponential(g, potential.s, unit)
    return potential

  def scale(self, n: int, d: int, *, half_space: bool = False) -> tuple[float, float]:
    best, random = PairEnergy(self.potential).scale(n, d, half_space=half_space)
    return math.log(best), math.log(random)


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


@dataclasses.dataclass(frozen=True)
class Tangent(Potential):
  """``potential``, and closer than ``floor`` its tangent there: every pair repels."""

  potential: Potential
  floor: float

  def value(self, r):
    z = jnp.maximum(r, self.floor)
    return self.potential.value(z) + self.potential.slope(z) * (r - z)

  def slope(self, r):
    return self.potential.slope(jnp.maximum(r, self.floor))


@dataclasses.dataclass(frozen=True)
class Exponential(Potential):
  """exp(k g(r)) up to a factor, and where it is too large for floats its tangent in g.

  At ``unit``, which the closest pair never exceeds, it is small, but no underflow.
  """

  g: Potential
  k: float
  unit: float

  def log_factor(self, dtype: jax.typing.DTypeLike) -> jax.Array:
    """The logarithm of exp(k g(r)) where it is 1 here."""
    at_unit = self.g.value(jnp.asarray(self.unit, dtype))
    return self.k * at_unit + min(self.k, DEEPEST * log_max(dtype))

  def value(self, r):
    exponent, capped = self._exponents(r)
    return jnp.exp(capped) * (1.0 + (exponent - capped))

  def slope(self, r):
    _, capped = self._exponents(r)
    return jnp.exp(capped) * (self.k * self.g.slope(r))

  def _exponents(self, r):
    log_largest = log_max(r.dtype)
    excess = self.g.value(r) - self.g.value(jnp.asarray(self.unit, r.dtype))
    exponent = self.k * excess - min(self.k, DEEPEST * log_largest)
    return exponent, jnp.minimum(exponent, LARGEST * log_largest)


def log_max(dtype: jax.typing.DTypeLike) -> float:
  """The logarithm of its largest number."""
  return math.log(float(jnp.finfo(dtype).max))
