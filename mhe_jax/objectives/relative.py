"""An objective on a scale from the best to random neurons."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from mhe_jax.checks import check_count
from mhe_jax.objectives.base import Objective, damage
from mhe_jax.objectives.pair_energy import as_objective
from mhe_jax.potentials.base import Potential
from mhe_jax.potentials.riesz import Riesz


@dataclasses.dataclass(frozen=True)
class RelativeExcess(Objective):
  r"""An objective in units of what can be gained: 0 at best, 1 for random neurons.

  .. math::
    x = \frac{E - E_\text{bound}}{E_\text{random} - E_\text{bound}}

  The range of a mean pair energy shrinks with the number of weights: for the layers of
  a CNN it is 2% to 0.02% of the value. In relative units one weight serves narrow
  and wide layers, full space and half-space, and every s.

  The pull on the neurons of a collapsed layer, whose excess is far above 1, can be as
  far above that of a random one. With ``log`` it is :math:`\log(1 + x)`: nearly the
  same up to 1, but a pull that is divided by :math:`1 + x`, so that larger weights are
  safe. Start from a weight of 0.1.

  At the optimum the curvature of both is, in half-space with n <= d, about
  :math:`8 d / (n (n - 1) \lVert w \rVert^2)`. A step of gradient descent with learning
  rate :math:`\eta` and momentum :math:`\mu` overshoots where weight times :math:`\eta`
  times that is above :math:`2 (1 + \mu)` (Nesterov: divided by :math:`1 + 2 \mu`); few
  neurons with many weights come first. The norms then grow until it holds again.

  Args:
    potential: a potential, or an objective that has a scale.
    log: the logarithm of one plus the excess.

  Raises:
    TypeError: ``potential`` is neither.
    NotImplementedError: when it is called, where there is no scale: random directions
      have infinite energy (chordal Riesz with s >= d - 1), or the same as the best
      (d = 1); or the objective has none.

  Example:
    >>> import jax.numpy as jnp
    >>> from mhe_jax import RelativeExcess, Riesz
    >>> excess = RelativeExcess(Riesz(2.0))
    >>> abs(round(float(excess(jnp.eye(8), half_space=True)), 4))
    0.0
  """

  potential: Potential | Objective
  log: bool = False

  def __post_init__(self):
    _ = self._inner
    object.__setattr__(self, "log", bool(self.log))

  @property
  def needs_key(self) -> bool:
    return self._inner.needs_key

  def estimates(self, n: int) -> bool:
    return self._inner.estimates(n)

  @property
  def takes_shards(self) -> bool:
    return self._inner.takes_shards

  @property
  def _inner(self):
    return as_objective(self.potential)

  def evaluate(self, units, *, half_space, key):
    n, d = units.shape[-2:]
    if n < 2:
      return damage(units)
    values = self._inner.evaluate(units, half_space=half_space, key=key)
    excess = excess_of(values, n, d, self._inner, half_space)
    # Rounding takes the excess of optimal neurons below 0, but not near -1.
    return jnp.log1p(excess) if self.log else excess

  def scale(self, n: int, d: int, *, half_space: bool = False) -> tuple[float, float]:
    return 0.0, math.log(2.0) if self.log else 1.0


@dataclasses.dataclass(frozen=True)
class RecommendedExcess(Objective):
  """See :data:`RECOMMENDED`, the one there is."""

  @property
  def takes_shards(self) -> bool:
    return True

  def evaluate(self, units, *, half_space, key):
    if units.shape[-1] == 1:  # A direction that nothing turns.
      return damage(units)
    excess = self.excess_in(units.shape[-1])
    return excess.evaluate(units, half_space=half_space, key=key)

  def scale(self, n: int, d: int, *, half_space: bool = False) -> tuple[float, float]:
    return 0.0, 1.0

  def excess_in(self, d: int) -> RelativeExcess:
    """What it is in d dimensions, at least 2."""
    return RelativeExcess(self.potential_in(d))

  def potential_in(self, d: int) -> Riesz:
    """The potential whose energy is on a scale in d dimensions; of one none is."""
    return Riesz(float(min(2, max(d - 2, 0))))


RECOMMENDED = RecommendedExcess()
"""The objective that is recommended: the relative excess of the Riesz energy of s = 2.

``RelativeExcess(Riesz(2.0))`` for neurons of at least four weights. In three and two
dimensions, where random directions have infinite energy with s = 2 and there is no
scale, it takes the largest whole s that has one, d - 2: 1 and 0. Neurons of one weight
have nothing to gain, and an excess of 0.
"""


class NoScaleError(NotImplementedError):
  """Random directions have infinite energy, or the same as the best."""


def excess_of(
  values: jax.Array, n: int, d: int, objective: Objective, half_space: bool
) -> jax.Array:
  """The relative excess of an objective's values, of n neurons in d dimensions.

  Raises:
    ValueError: fewer than two neurons.
    NoScaleError: there is no scale for it. Not NaN, which a caller could not average
      under ``jax_debug_nans``.
    NotImplementedError: for an objective without a known scale.
  """
  check_count("n", n, 2)
  check_count("d", d, 1)
  best, random = objective.scale(n, d, half_space=half_space)
  if not (math.isfinite(random - best) and random > best):
    raise NoScaleError(
      f"no scale for {objective} with n = {n}, d = {d}: the best have {best:g}, and "
      f"random directions {random:g}"
    )
  return (values - best) / (random - best)
