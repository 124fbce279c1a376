"""Objectives of the point on the sphere that neurons leave out: their worst pole."""

import dataclasses
import math
from abc import abstractmethod

import jax
import jax.numpy as jnp

from mhe_jax.checks import check_count, check_number
from mhe_jax.objectives.base import Objective, damage
from mhe_jax.objectives.descent import descend
from mhe_jax.pair_sum.product import product
from mhe_jax.potentials.base import Potential, check_potential


class _OfWorstPole(Objective):
  """The largest value of a function of a point on the sphere, a pole, and neurons."""

  num_starts: int
  num_steps: int

  def __post_init__(self):
    for name in ("num_starts", "num_steps"):
      object.__setattr__(self, name, check_count(name, getattr(self, name), 1))

  @property
  def needs_key(self) -> bool:
    return True

  @abstractmethod
  def _at(self, squared: jax.Array) -> jax.Array:
    """Of poles, from their squared distances to the neurons ``[..., num]``."""

  def evaluate(self, units, *, half_space, key):
    assert key is not None  # __call__.
    n, d = units.shape[-2:]
    if n < 2:
      return damage(units)
    fixed = jax.lax.stop_gradient(units)
    starts = jax.random.normal(key, (self.num_starts, d), units.dtype)
    starts = jnp.broadcast_to(starts, (*units.shape[:-2], *starts.shape))

    def value(poles, units):
      return self._at(_squared(poles, units, half_space))

    poles = descend(lambda poles: -value(poles, fixed), starts, self.num_steps, 1)
    worst = jnp.argmax(value(poles, fixed), -1)
    pole = jnp.take_along_axis(poles, worst[..., None, None], -2)
    return value(pole, units)[..., 0]


def _squared(poles, units, half_space):
  """Squared distances of poles to neurons, and to their antipodes if half-space."""
  cosines = product(poles, jnp.swapaxes(units, -1, -2))
  near = 2.0 - 2.0 * cosines
  if not half_space:
    return near
  return jnp.concatenate([near, 2.0 + 2.0 * cosines], -1)


@dataclasses.dataclass(frozen=True)
class Polarization(_OfWorstPole):
  r"""Minus the potential where it is least: maximum hyperspherical polarization (MHP).

  .. math::
    -\min_{v \in S^{d-1}} \frac1N \sum_i f(\lVert v - u_i \rVert)

  Neurons feel a pole and not each other: they move towards where none of them is. The
  pole is searched for: it is the best of ``num_starts`` random ones after
  ``num_steps`` steps of steepest descent, and a constant to derivatives, as at a
  minimum. (The authors train one pole for each layer beside its neurons, ten steps of
  it for each of theirs.) The same draws start the search for all sets of a batch. One
  neuron has the value 0.

  In half-space with n < d some pole is orthogonal to all neurons and, if they are
  spread, as good as a minimum: there is no pull. In full space with n <= d the pole is
  a multiple of minus the sum of orthogonal neurons, and what is left of the pull is
  that of :class:`MeanDirection`.

  It costs O(n d) for each step of each start, and O(n) memory for each start.

  Args:
    potential: the potential f of a neuron at the pole.
    num_starts: number of poles that the search starts from, at least 1.
    num_steps: steps of the search, at least 1.

  Raises:
    TypeError: ``potential`` is no :class:`Potential`.
    ValueError: a number is no whole number of at least 1; and, when it is called,
      without ``key``.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from mhe_jax import Polarization, Riesz
    >>> square = jnp.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    >>> value = Polarization(Riesz(2.0))(square, key=jax.random.key(0))
    >>> round(float(value), 2)  # - n / 4, half way between neighbors
    -1.0

  References:
    Liu et al., `Learning with Hyperspherical Uniformity
    <https://arxiv.org/abs/2103.01649>`_, AISTATS 2021, section 3.3.
  """

  potential: Potential
  num_starts: int = 8
  num_steps: int = 20

  def __post_init__(self):
    check_potential(self.potential)
    super().__post_init__()

  def _at(self, squared):
    return -jnp.mean(self.potential.value(squared), -1)


@dataclasses.dataclass(frozen=True)
class Covering(_OfWorstPole):
  r"""Squared radius of the largest hole: minimum hyperspherical covering (MHC).

  .. math::
    \max_{v \in S^{d-1}} -\frac1\gamma
    \log \frac1N \sum_i \exp(-\gamma \lVert v - u_i \rVert^2)

  A soft minimum of the squared distance to the neurons, larger than it by at most
  :math:`\log(N) / \gamma`, where it is largest. Searched for as :class:`Polarization`,
  and as weak for few neurons: with n <= d no set has a covering radius below
  :math:`\pi / 2`, and in half-space all have it.

  Args:
    gamma: sharpness of the soft minimum, finite and positive (the authors: 10).
    num_starts: number of poles that the search starts from, at least 1.
    num_steps: steps of the search, at least 1.

  Raises:
    TypeError: ``gamma`` is not a number.
    ValueError: it is not finite and positive; a number is no whole number of at least
      1; and, when it is called, without ``key``.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from mhe_jax import Covering
    >>> octahedron = jnp.concatenate([jnp.eye(3), -jnp.eye(3)])
    >>> covering = Covering(1000.0, num_steps=40)
    >>> value = covering(octahedron, key=jax.random.key(0))
    >>> round(float(value), 2)  # 2 - 2 / sqrt(3), in the middle of a face
    0.85

  References:
    Liu et al., `Learning with Hyperspherical Uniformity
    <https://arxiv.org/abs/2103.01649>`_, AISTATS 2021, section 3.4.
  """

  gamma: float = 10.0
  num_starts: int = 8
  num_steps: int = 20

  def __post_init__(self):
    gamma = check_number("gamma", self.gamma)
    object.__setattr__(self, "gamma", gamma)
    if not (math.isfinite(gamma) and gamma > 0):
      raise ValueError(f"gamma must be a finite positive number, got {gamma}.")
    super().__post_init__()

  def _at(self, squared):
    total = jax.nn.logsumexp(-self.gamma * squared, -1)
    return (math.log(squared.shape[-1]) - total) / self.gamma
