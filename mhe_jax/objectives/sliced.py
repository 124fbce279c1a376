"""How evenly neurons lie around random great circles."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from mhe_jax.checks import check_count
from mhe_jax.objectives.base import Objective, damage
from mhe_jax.pair_sum.product import product
from mhe_jax.sphere import normalize


@dataclasses.dataclass(frozen=True)
class SlicedUniformity(Objective):
  r"""Squared distance of the neurons to uniform, on random great circles.

  .. math::
    \frac1C \sum_{c=1}^C W_2^2(x^c, \mathcal U), \qquad
    W_2^2 = \operatorname{var}_i\left(x_{(i)} - \frac iN\right) + \frac1{12 N^2}

  Of each neuron x is the angle of its projection to a random plane, in turns, and
  :math:`x_{(i)}` the i-th smallest: the Wasserstein distance to the uniform
  distribution on the circle, which is Watson's statistic divided by N. Its optimum is
  known: equal distances, and :math:`1 / (12 N^2)`. Random neurons have
  :math:`1 / (12 N)`, in every dimension. The circles are drawn anew from each key, and
  the same for all sets of a batch; value and gradient are unbiased for their
  expectation over all circles. It is to the sphere what tests of sliced normality are
  to Gaussian features. In half-space angles are doubled: lines and not directions lie
  evenly.

  Equal neurons, which no potential drives apart, have different ranks: they are pulled
  apart. A neuron that is nearly orthogonal to a plane turns fast there, so that the
  gradient has no finite variance; take several slices. Where d > 2, no set is best on
  all circles at once: the bound is not attained. A row of zeros has the angle 0. One
  neuron, or neurons on a line (d = 1), have the value 0.

  It costs O(n d + n log n) for each slice, and O(n) memory.

  Args:
    num_slices: number C of great circles, at least 1.

  Raises:
    ValueError: ``num_slices`` is no whole number of at least 1; and, when it is called,
      without ``key``.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from mhe_jax import RelativeExcess, SlicedUniformity
    >>> square = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    >>> value = SlicedUniformity()(square, key=jax.random.key(0))
    >>> round(float(value * 12 * 4**2), 4)
    1.0

  References:
    Bonet et al., `Spherical Sliced-Wasserstein <https://arxiv.org/abs/2206.08780>`_,
    ICLR 2023; Watson, Biometrika 48, 1961.
  """

  num_slices: int = 16

  def __post_init__(self):
    num = check_count("num_slices", self.num_slices, 1)
    object.__setattr__(self, "num_slices", num)

  @property
  def needs_key(self) -> bool:
    return True

  def evaluate(self, units, *, half_space, key):
    assert key is not None  # __call__.
    n, d = units.shape[-2:]
    if n < 2 or d < 2:
      return damage(units)
    x = jnp.sort(self._turns(units, half_space, key), -2)
    even = (jax.lax.broadcasted_iota(x.dtype, x.shape, x.ndim - 2) - (n - 1) / 2) / n
    return jnp.mean(jnp.var(x - even, -2), -1) + 1 / (12 * n**2)

  def _turns(self, units, half_space, key):
    """Angles in turns, between -1/2 and 1/2: ``[*batch, n, num_slices]``."""
    first, second = jax.random.normal(
      key, (2, self.num_slices, units.shape[-1]), units.dtype
    )
    first = normalize(first)
    along = jnp.sum(first * second, -1, keepdims=True)
    second = normalize(second - along * first)
    # Normalized by itself: the projection of a neuron may be short, or zero.
    plane = normalize(
      jnp.stack([product(units, first.T), product(units, second.T)], -1)
    )
    cos, sin = plane[..., 0], plane[..., 1]
    cos = jnp.where((cos == 0.0) & (sin == 0.0), 1.0, cos)
    if half_space:
      cos, sin = cos**2 - sin**2, 2.0 * cos * sin
    return jnp.arctan2(sin, cos) / (2.0 * math.pi)

  def scale(self, n: int, d: int, *, half_space: bool = False) -> tuple[float, float]:
    del half_space
    return (1 / (12 * n**2), 1 / (12 * n)) if d > 1 else (0.0, 0.0)
