r"""What random directions show: the ground on which a layer is called redundant.

Rows of a Gaussian matrix, the usual initialization, have directions that are
independent and uniform on the sphere. The angle :math:`\theta` between two of them has
the law

.. math::
  P(\theta \le x) = \tfrac12 I_{\sin^2 x}(\tfrac{d - 1}2, \tfrac12), \quad x \le \pi / 2

with the regularized incomplete beta function I: the share of the sphere that a cap of
angle x covers.

References:
  Li, Concise formulas for the area and volume of a hyperspherical cap, Asian Journal of
  Mathematics and Statistics 4 (1), 2011.
"""

import functools
import math

import numpy as np
import scipy

from mhe_jax.objectives.pair_energy import PairEnergy
from mhe_jax.potentials.base import Potential

TWIN_PROBABILITY = 0.01
# A layer is at chance within this much of 1, or four standard deviations of chance.
MARGIN, DEVIATIONS = 0.1, 4.0


def twin_angle(n: int, d: int, *, half_space: bool) -> float:
  """The angle below which two neurons are near twins, in radians.

  Among n random directions of d dimensions, the probability that any pair is as close
  is less than 1%: each of the n (n - 1) / 2 pairs has at most that part of it.

  Args:
    n: number of neurons, at least 2.
    d: dimension, at least 1.
    half_space: of the angles between lines.
  """
  if d == 1:
    return 0.0  # All are parallel; none is nearer than the others.
  probability = TWIN_PROBABILITY / (n * (n - 1) / 2)
  of_cap = probability if half_space else 2.0 * probability
  squared_sine = scipy.special.betaincinv((d - 1) / 2, 0.5, of_cap)
  return math.asin(math.sqrt(squared_sine))


@functools.cache
def scale_of(
  potential: Potential, n: int, d: int, half_space: bool
) -> tuple[float, float]:
  """Mean pair energies of relative excess 0 and 1; NaN where they are not known."""
  try:
    best, random = PairEnergy(potential).scale(n, d, half_space=half_space)
  except NotImplementedError:  # A potential of the user's own.
    return math.nan, math.nan
  is_scale = math.isfinite(random - best) and random > best
  return (best, random) if is_scale else (math.nan, math.nan)


@functools.cache
def excess_spread(potential: Potential, n: int, d: int, half_space: bool) -> float:
  r"""The standard deviation of the relative excess of n random directions.

  Energies of different pairs of uniform directions are uncorrelated, also those that
  share a neuron, so that the variance of the sum over the pairs is that of one pair,
  times their number. That of a pair is taken over 4,096 quantiles of the angle, which
  leaves out the rarest coincidences, whose energy may have no variance at all.

  Args:
    potential: of the energy.
    n: number of neurons, at least 2.
    d: dimension, at least 1.
    half_space: of the half-space energy.

  Returns:
    It; NaN without a scale.
  """
  best, random = scale_of(potential, n, d, half_space)
  if math.isnan(random) or d == 1:
    return math.nan
  p = (np.arange(2048) + 0.5) / 2048  # Twice those of angles below pi / 2.
  theta = np.arcsin(np.sqrt(scipy.special.betaincinv((d - 1) / 2, 0.5, p)))
  near, far = potential.at_angle(theta), potential.at_angle(math.pi - theta)
  pairs = n * (n - 1) / 2
  if half_space:
    of_sum = math.sqrt(pairs * np.var(near + far))
    return 2.0 * of_sum / (n * (2 * n - 1)) / (random - best)
  of_sum = math.sqrt(pairs * np.var(np.concatenate([near, far])))
  return of_sum / pairs / (random - best)


def verdict(excess: float, spread: float, error: float = 0.0) -> str:
  """Where a relative excess is: ``"redundant"``, ``"at chance"``, ``"below chance"``.

  Args:
    excess: 1 for random directions.
    spread: its standard deviation by chance.
    error: the standard error of an estimate.

  Returns:
    One of these; ``"unknown"`` for NaN.
  """
  if math.isnan(excess) or math.isnan(spread):
    return "unknown"
  margin = max(MARGIN, DEVIATIONS * math.hypot(spread, error))
  if abs(excess - 1.0) <= margin:
    return "at chance"
  return "redundant" if excess > 1.0 else "below chance"
