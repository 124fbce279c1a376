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

import math

import scipy.special

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


def excess_spread(n: int, d: int, *, half_space: bool) -> float:
  r"""The standard deviation of the relative excess of n random directions, about.

  To leading order in d the energy is, in half-space, linear in the mean squared cosine,
  whose standard deviation over its mean 1/d is :math:`2 / \sqrt{n (n - 1)}`, and in
  full space linear in the mean cosine, with :math:`\sqrt{2 / (d n (n - 1))}`. The scale
  of the excess is from the least these can be to their means.

  Args:
    n: number of neurons, at least 2.
    d: dimension, at least 1; of one, all sets are alike, and nothing is beyond chance.
    half_space: of the half-space energy.
  """
  if d == 1:
    return math.inf
  pairs = math.sqrt(n * (n - 1))
  if half_space:
    # The mean squared cosine is at least (n - d) / (d (n - 1)), if n > d.
    scale = 1.0 - max(0.0, (n - d) / (n - 1))
    return 2.0 / pairs / scale
  return math.sqrt(2.0 / d) / pairs * (n - 1)


def verdict(excess: float, spread: float, error: float = 0.0) -> str:
  """Where a relative excess is: ``"redundant"``, ``"at chance"``, ``"below chance"``.

  Args:
    excess: 1 for random directions.
    spread: its standard deviation by chance.
    error: the standard error of an estimate.

  Returns:
    One of these; ``"unknown"`` for NaN.
  """
  if math.isnan(excess):
    return "unknown"
  margin = max(MARGIN, DEVIATIONS * math.hypot(spread, error))
  if abs(excess - 1.0) <= margin:
    return "at chance"
  return "redundant" if excess > 1.0 else "below chance"
