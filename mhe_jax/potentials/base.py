"""Pair potentials: the energy of two unit vectors as a function of their distance.

Every potential is a function of the *squared chordal distance*
``r = ||u - v||^2 = 2 - 2 u.v`` in [0, 4]. It is written in ``r`` and not in the
cosine because ``r`` keeps its relative precision when two neurons nearly
coincide, which is where a repulsive potential does its work.
"""

import abc
import math

import jax
import jax.numpy as jnp
import numpy as np
import scipy


class Potential(abc.ABC):
  """Base class of pair potentials; subclass it to define your own.

  A subclass must be hashable and compare by value (a frozen dataclass is),
  because potentials are compile-time constants of the jitted functions that use
  them. Only :meth:`value` is required; :meth:`envelope` and :meth:`even_envelope` give
  the bounds that :func:`mhe_jax.relative_excess` needs.
  """

  @abc.abstractmethod
  def value(self, r: jax.Array) -> jax.Array:
    """Energy of a pair at squared chordal distance ``r``, elementwise.

    Args:
      r: squared chordal distances, any shape, nominally in [0, 4]; rounding may
        take them slightly outside, and the result must stay finite there.

    Returns:
      Energies, of the shape and dtype of ``r``.
    """

  def slope(self, r: jax.Array) -> jax.Array:
    """Derivative of :meth:`value` with respect to ``r``, elementwise."""
    return jax.jvp(self.value, (r,), (jnp.ones_like(r),))[1]

  def at_angle(self, theta: np.ndarray) -> np.ndarray:
    """Energy at angle ``theta`` (radians) in float64 NumPy, without softening.

    This is what the closed forms are made of. The default goes through :meth:`value`
    in the current default precision.
    """
    with jax.ensure_compile_time_eval():
      r = jnp.asarray(4.0 * np.sin(np.asarray(theta) / 2.0) ** 2)
      return np.asarray(self.value(r), np.float64)

  def sphere_mean(self, d: int) -> float:
    """Expected energy of two independent, uniformly random directions.

    The default integrates :meth:`at_angle` numerically.

    Args:
      d: dimension of the space, at least 1.

    Returns:
      The expectation, possibly ``inf``.
    """
    if d == 1:  # Two points: half of all pairs coincide.
      return float(np.mean(self.at_angle(np.array([0.0, np.pi]))))
    return _integrate_over_sphere(self.at_angle, d)

  def envelope(self, t: float) -> float:
    """The largest convex function of the cosine that is nowhere above the energy.

    By convexity, no neurons have a smaller mean energy than the envelope at the least
    mean cosine. It must increase in ``t``.

    Args:
      t: cosine, -1 to 1.

    Raises:
      NotImplementedError: unless a subclass knows it.
    """
    raise self._no_bound()

  def even_envelope(self, t: float) -> float:
    """The same for the energies with a neuron and with its antipode together.

    Of ``f(t) + f(-t)``, which must be at least an increasing, convex function of
    ``t**2``: its value at ``t``.

    Args:
      t: cosine, 0 to 1.

    Raises:
      NotImplementedError: unless a subclass knows it.
    """
    raise self._no_bound()

  def lower_bound(self, n: int, d: int, *, half_space: bool = False) -> float:
    """The bound of :func:`mhe_jax.energy_lower_bound`."""
    if not half_space:
      return self.envelope(-1.0 / (n - 1))
    welch = math.sqrt(max(0.0, (n - d) / (d * (n - 1))))
    return self.half_space_mean(n, self.even_envelope(welch))

  def random_mean(
    self, d: int, *, half_space: bool = False, n: int | None = None
  ) -> float:
    """The expectation of :func:`mhe_jax.uniform_energy`."""
    mean = self.sphere_mean(d)
    many = not half_space or n is None
    return mean if many else self.half_space_mean(n, 2.0 * mean)

  def half_space_mean(self, n, pair):
    """Mean over the n(2n-1) pairs, given f(t) + f(-t) of the average pair."""
    return ((n - 1) * pair + self.at_cosine(-1.0)) / (2 * n - 1)

  def at_cosine(self, t: float) -> float:
    """Energy of a pair with cosine ``t``, as :meth:`at_angle`."""
    return float(self.at_angle(np.arccos(t)))

  def _no_bound(self):
    return NotImplementedError(
      f"no lower bound is known for a {type(self).__name__} potential."
    )


def check_potential(potential) -> None:
  """Raises a TypeError unless ``potential`` is a :class:`Potential`."""
  if not isinstance(potential, Potential):
    raise TypeError(
      "potential must be a Potential such as Riesz(1.0) or Gaussian(2.0), "
      f"got {potential!r}."
    )


def _integrate_over_sphere(at_angle, d):
  """Mean of f over the angle's density, sin(theta)^(d-2) / B(1/2, (d-1)/2)."""
  log_normalizer = float(scipy.special.betaln(0.5, (d - 1) / 2))

  def integrand(theta):
    if theta <= 0.0 or theta >= math.pi:
      return 0.0
    log_density = (d - 2) * math.log(math.sin(theta)) - log_normalizer
    return float(at_angle(theta)) * math.exp(log_density)

  # The density is a peak of width 1 / sqrt(d) at pi / 2: tell the quadrature.
  width = min(1.0, 8.0 / math.sqrt(d))
  points = [math.pi / 2 - width, math.pi / 2, math.pi / 2 + width]
  # full_output: where a potential is noisy (float32), the precision that quad reaches
  # is the best there is, and no reason for a warning.
  value, *_ = scipy.integrate.quad(
    integrand,
    0.0,
    math.pi,
    points=points,
    limit=400,
    epsabs=0,
    epsrel=1e-10,
    full_output=1,
  )
  return value
