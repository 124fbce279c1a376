"""Objectives of the nearest neighbor of each neuron: separation, and its logarithm."""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import scipy

from mhe_jax.objectives.base import Objective, damage
from mhe_jax.objectives.log_mean import widest
from mhe_jax.pair_sum import nearest_rows
from mhe_jax.potentials.riesz import Riesz


@dataclasses.dataclass(frozen=True)
class Separation(Objective):
  r"""Minus the angle between nearest neurons: maximum hyperspherical separation.

  .. math::
    -\frac1N \sum_i \min_{j \ne i} \theta_{ij}
    \qquad\text{or}\qquad -\min_{i \ne j} \theta_{ij}

  Its optima with ``"min"`` are the best packings: the simplex, orthogonal lines, and on
  the sphere in three dimensions those of the Tammes problem. Only nearest neighbors
  feel each other, so that each step moves few pairs (one, with ``"min"``); a potential
  moves all. A soft minimum of the squared distance of all pairs is minus
  ``LogMean(Gaussian(t))``, divided by t. Exact, in O(n d) memory.

  Args:
    reduction: ``"mean"``, the mean over neurons of the angle to the nearest one (MMA),
      or ``"min"``, the smallest angle of all (MHS).

  Raises:
    ValueError: an unknown reduction.

  Example:
    >>> import jax.numpy as jnp
    >>> from mhe_jax import Separation
    >>> octahedron = jnp.concatenate([jnp.eye(3), -jnp.eye(3)])
    >>> round(float(Separation("min")(octahedron)), 4)  # - pi / 2
    -1.5708

  References:
    Wang et al., `MMA Regularization <https://arxiv.org/abs/2006.06527>`_, NeurIPS 2020,
    equation 6; Liu et al., `Learning with Hyperspherical Uniformity
    <https://arxiv.org/abs/2103.01649>`_, AISTATS 2021, section 3.2.
  """

  reduction: Literal["mean", "min"] = "mean"

  def __post_init__(self):
    if self.reduction not in ("mean", "min"):
      raise ValueError(f"reduction must be 'mean' or 'min', got {self.reduction!r}.")

  def evaluate(self, units, *, half_space, key):
    del key
    theta = _angles_to_nearest(units, half_space)
    if theta is None:
      return damage(units)
    if self.reduction == "mean":
      return -jnp.mean(theta, -1) + damage(units)
    # The mean over those that are equally near: of two neurons both move.
    smallest = jax.lax.stop_gradient(jnp.min(theta, -1, keepdims=True))
    nearest = theta <= smallest
    total = jnp.sum(jnp.where(nearest, theta, 0.0), -1)
    count = jnp.maximum(jnp.sum(nearest, -1, dtype=theta.dtype), 1)
    return -total / count + damage(units)

  def scale(self, n: int, d: int, *, half_space: bool = False) -> tuple[float, float]:
    r = widest(n, d, half_space=half_space)
    # Pairs are independent of each other: of n (n - 1) / 2 the least is, nearly.
    others = n - 1 if self.reduction == "mean" else n * (n - 1) / 2
    random = mean_over_nearest(lambda theta: theta, others, d, half_space)
    return -2.0 * math.asin(min(1.0, math.sqrt(r) / 2.0)), -random


@dataclasses.dataclass(frozen=True)
class KoLeo(Objective):
  r"""Mean of minus the logarithm of the distance to the nearest neuron.

  .. math::
    -\frac1N \sum_i \log \min_{j \ne i} \lVert u_i - u_j \rVert

  Up to constants the Kozachenko-Leonenko estimate of the differential entropy, which
  spreads features in DINOv2. As the potential ``Riesz(0.0)``, of the nearest neighbor
  alone, and softened as it is: neurons nearer than 1e-3 (float32) have a finite value
  and exert no force. Exact, in O(n d) memory.

  Example:
    >>> import jax.numpy as jnp
    >>> from mhe_jax import KoLeo
    >>> round(float(KoLeo()(jnp.eye(4))), 4)  # - log(2) / 2
    -0.3466

  References:
    Sablayrolles et al., `Spreading vectors for similarity search
    <https://arxiv.org/abs/1806.03198>`_, ICLR 2019, equation 2.
  """

  def evaluate(self, units, *, half_space, key):
    del key
    theta = _angles_to_nearest(units, half_space)
    if theta is None:
      return damage(units)
    squared = 4.0 * jnp.sin(theta / 2.0) ** 2
    return jnp.mean(Riesz(0.0).value(squared), -1) + damage(units)

  def scale(self, n: int, d: int, *, half_space: bool = False) -> tuple[float, float]:
    best = -0.5 * math.log(widest(n, d, half_space=half_space))
    random = mean_over_nearest(
      lambda theta: -math.log(2.0 * math.sin(theta / 2.0)), n - 1, d, half_space
    )
    return best, random


def _angles_to_nearest(units, half_space):
  """Of each neuron ``[*batch, n]``; ``None`` if there is no other."""
  if units.shape[-2] < 2:
    return None
  index = nearest_rows.nearest(units, half_space=half_space)[..., 0]
  # A row without a partner, of sets that are not finite, has no neighbor: -1.
  index = jnp.maximum(index, 0)
  nearest = jnp.take_along_axis(units, index[..., None], -2)
  return nearest_rows.angles(units, nearest, half_space=half_space)


def mean_over_nearest(
  function: Callable[[float], float], others: float, d: int, half_space: bool
) -> float:
  """Expectation of a function of the angle to the nearest of random directions.

  Args:
    function: of an angle.
    others: number of the independent, uniform directions.
    d: dimension.
    half_space: of lines, whose angles are at most pi / 2.
  """
  if d == 1:  # All are at 0 or, if none is, at pi.
    chance = 0.0 if half_space else 0.5**others
    return _mean_of_two(function, chance)
  log_area = float(scipy.special.betaln(0.5, (d - 1) / 2))
  sides = 2.0 if half_space else 1.0

  def farther(theta):
    """Probability that a direction is farther than this."""
    part = 0.5 * sides * scipy.special.betainc((d - 1) / 2, 0.5, math.sin(theta) ** 2)
    return 1.0 - part if theta <= math.pi / 2 else part

  def integrand(theta):
    density = sides * math.exp((d - 2) * math.log(math.sin(theta)) - log_area)
    return function(theta) * others * farther(theta) ** (others - 1) * density

  # The density of the nearest is a peak around where one of them is expected.
  probabilities = np.array([0.1, 0.5, 0.9])
  quantiles = 1.0 - probabilities ** (1.0 / others)
  quantiles = 2.0 * quantiles / sides
  bend = scipy.special.betaincinv((d - 1) / 2, 0.5, np.minimum(quantiles, 1.0))
  points = np.arcsin(np.sqrt(bend))
  end = math.pi / 2 if half_space else math.pi
  # full_output: no warning, where the precision that quad reaches is what there is.
  value, *_ = scipy.integrate.quad(
    integrand, 0.0, end, points=sorted(set(points)), limit=400, full_output=1
  )
  return float(value)


def _mean_of_two(function, chance):
  """On the sphere of two points: a singular function is infinite in expectation."""
  try:
    at_zero = function(0.0)
  except ValueError:
    at_zero = math.inf
  return (1.0 - chance) * at_zero + (chance * function(math.pi) if chance else 0.0)
