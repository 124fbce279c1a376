"""Pair potentials: the energy of two unit vectors as a function of their distance.

Every potential is a function of the *squared chordal distance*
``r = ||u - v||^2 = 2 - 2 u.v`` in [0, 4]. It is written in ``r`` and not in the
cosine because ``r`` keeps its relative precision when two neurons nearly
coincide, which is where a repulsive potential does its work.
"""

import abc

import jax
import jax.numpy as jnp
import numpy as np


class Potential(abc.ABC):
  """Base class of pair potentials; subclass it to define your own.

  A subclass must be hashable and compare by value (a frozen dataclass is),
  because potentials are compile-time constants of the jitted functions that use
  them. Only :meth:`value` is required.
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

    This is what the closed forms of :mod:`mhe_jax.theory` integrate. The default
    goes through :meth:`value` in the current default precision.
    """
    with jax.ensure_compile_time_eval():
      r = jnp.asarray(4.0 * np.sin(np.asarray(theta) / 2.0) ** 2)
      return np.asarray(self.value(r), np.float64)


def check_potential(potential) -> None:
  """Raises a TypeError unless ``potential`` is a :class:`Potential`."""
  if not isinstance(potential, Potential):
    raise TypeError(
      "potential must be a Potential such as Riesz(1.0) or Gaussian(2.0), "
      f"got {potential!r}."
    )
