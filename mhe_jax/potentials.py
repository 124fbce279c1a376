"""Pair potentials: the energy of two unit vectors as a function of their distance.

Every potential is a function of the *squared chordal distance*
``r = ||u - v||^2 = 2 - 2 u.v`` in [0, 4]. It is written in ``r`` and not in the
cosine because ``r`` keeps its relative precision when two neurons nearly
coincide, which is where a repulsive potential does its work.
"""

import abc
import dataclasses
import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from mhe_jax.checks import check_number


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


@dataclasses.dataclass(frozen=True)
class Riesz(Potential):
  r"""Riesz s-energy of a pair: :math:`z^{-s}`, and :math:`\log(1/z)` for s = 0.

  .. math::
    f_s(z) = \begin{cases} z^{-s} & s > 0 \\ \log(1/z) & s = 0 \end{cases}

  The distance :math:`z` is :math:`\lVert u - v \rVert` (chordal) or the angle
  :math:`\arccos(u \cdot v)` in radians (geodesic; the paper's angular MHE,
  A-MHE). ``s = 1`` in three dimensions is the Coulomb energy of the Thomson
  problem. A larger ``s`` looks more at the closest pairs.

  Args:
    s: exponent, a finite number >= 0.
    metric: ``"chordal"`` or ``"geodesic"``.
    eps: softening, a squared distance (radians squared if geodesic): the energy
      is :math:`f_s(\max(z, \sqrt\epsilon))`. Pairs at a larger distance are not
      changed at all; closer ones have the finite energy :math:`\epsilon^{-s/2}` and
      exert no force, because its size would be a matter of rounding. ``None``, the
      default, takes eight times the machine epsilon, where the cosine of two
      vectors stops telling them apart: an angle of 1e-3 radians in float32 and
      4e-8 in float64. For large ``s`` in float32 it takes
      :math:`10^{-36/(s/2+2)}`, so that the second derivative does not overflow
      (s = 8: 1e-6; s = 20: 1e-3).

  Raises:
    TypeError: ``s`` or ``eps`` is not a number.
    ValueError: ``s`` is negative or not finite, the metric is unknown, or
      ``eps`` is not a finite positive number.

  Example:
    >>> import jax.numpy as jnp
    >>> from mhe_jax import Riesz
    >>> [round(float(Riesz(s).value(jnp.array(4.0))), 4) for s in (0, 1, 2)]
    [-0.6931, 0.5, 0.25]

  References:
    Liu et al., `Learning towards Minimum Hyperspherical Energy
    <https://arxiv.org/abs/1805.09298>`_, NeurIPS 2018, section 3.1; the angular
    form, section 3.3.
  """

  s: float
  metric: Literal["chordal", "geodesic"] = "chordal"
  eps: float | None = None

  def __post_init__(self):
    object.__setattr__(self, "s", check_number("s", self.s))
    if not (math.isfinite(self.s) and self.s >= 0):
      raise ValueError(f"s must be a finite number >= 0, got {self.s}.")
    if self.metric not in ("chordal", "geodesic"):
      raise ValueError(f"metric must be 'chordal' or 'geodesic', got {self.metric!r}.")
    if self.eps is not None:
      object.__setattr__(self, "eps", check_number("eps", self.eps))
      if not (math.isfinite(self.eps) and self.eps > 0):
        raise ValueError(
          f"eps must be a finite positive number or None, got {self.eps}."
        )

  def value(self, r: jax.Array) -> jax.Array:
    z2, eps = self._squared_distance(r), self._softening(r.dtype)
    z2 = jnp.where(z2 <= eps, eps, z2)  # Not maximum(): NaN and slope as below.
    return -0.5 * jnp.log(z2) if self.s == 0 else _power(z2, -self.s / 2)

  def slope(self, r: jax.Array) -> jax.Array:
    z2, eps = self._squared_distance(r), self._softening(r.dtype)
    slope = _power(jnp.maximum(z2, eps), -self.s / 2 - 1) * (-0.5 * (self.s or 1.0))
    if self.metric == "geodesic":
      slope = slope * _angle_over_sine(r)
    return jnp.where(z2 <= eps, 0.0, slope)

  def at_angle(self, theta: np.ndarray) -> np.ndarray:
    theta = np.asarray(theta, np.float64)
    z = theta if self.metric == "geodesic" else 2.0 * np.sin(theta / 2.0)
    with np.errstate(divide="ignore", over="ignore"):  # The result is inf.
      return -np.log(z) if self.s == 0 else z**-self.s

  def _squared_distance(self, r):
    return r if self.metric == "chordal" else _squared_angle(r)

  def _softening(self, dtype):
    if self.eps is not None:
      return self.eps
    info = jnp.finfo(dtype)
    exponent = -(36.0 if info.bits <= 32 else 300.0) / (self.s / 2 + 2)
    return max(8.0 * float(info.eps), 10.0**exponent)


@dataclasses.dataclass(frozen=True)
class Gaussian(Potential):
  r"""Gaussian pair potential :math:`\exp(-t \lVert u - v \rVert^2)`.

  The logarithm of its mean over pairs is the uniformity loss of contrastive
  learning. A set without pairs (one row) has mean 0, and so have pairs so far apart
  that their energies underflow: take ``jnp.log(jnp.maximum(mean, tiny))``, with the
  smallest normal number of its dtype, which is finite, and has a zero gradient there.

  Args:
    t: inverse squared width, a finite positive number.

  Raises:
    TypeError: ``t`` is not a number.
    ValueError: ``t`` is not finite and positive.

  Example:
    >>> import jax.numpy as jnp
    >>> from mhe_jax import Gaussian
    >>> round(float(Gaussian(2.0).value(jnp.array(1.0))), 6)
    0.135335

    The uniformity loss, finite for one row too:

    >>> import jax
    >>> from mhe_jax import hyperspherical_energy
    >>> def uniformity(x, t=2.0):
    ...   mean = hyperspherical_energy(x, Gaussian(t))
    ...   return jnp.log(jnp.maximum(mean, jnp.finfo(mean.dtype).tiny))
    >>> round(float(uniformity(jnp.eye(3))), 6)
    -4.0
    >>> float(jnp.abs(jax.grad(uniformity)(jnp.eye(3)[:1])).max())
    0.0

  References:
    Wang and Isola, `Understanding Contrastive Representation Learning through
    Alignment and Uniformity on the Hypersphere
    <https://arxiv.org/abs/2005.10242>`_, ICML 2020, section 4.1.2.
  """

  t: float = 2.0

  def __post_init__(self):
    object.__setattr__(self, "t", check_number("t", self.t))
    if not (math.isfinite(self.t) and self.t > 0):
      raise ValueError(f"t must be a finite positive number, got {self.t}.")

  def value(self, r: jax.Array) -> jax.Array:
    return jnp.exp(-self.t * r)

  def slope(self, r: jax.Array) -> jax.Array:
    return -self.t * jnp.exp(-self.t * r)

  def at_angle(self, theta: np.ndarray) -> np.ndarray:
    return np.exp(-self.t * 4.0 * np.sin(np.asarray(theta) / 2.0) ** 2)


def check_potential(potential) -> None:
  """Raises a TypeError unless ``potential`` is a :class:`Potential`."""
  if not isinstance(potential, Potential):
    raise TypeError(
      "potential must be a Potential such as Riesz(1.0) or Gaussian(2.0), "
      f"got {potential!r}."
    )


def _power(x, p: float):
  """``x**p`` for x > 0; the exponents of s = 1 and 2 avoid exp and log."""
  if p == -0.5:
    return jax.lax.rsqrt(x)
  if p == -1.0:
    return 1.0 / x
  if p == -1.5:
    return jax.lax.rsqrt(x) ** 3
  if p == -2.0:
    return (1.0 / x) ** 2  # Not 1 / x^2, whose derivative has x^4, which underflows.
  return x**p


@jax.custom_jvp
def _squared_angle(r):
  """``arccos(1 - r/2)**2``, which is smooth at r = 0 although arccos is not."""
  is_acute, m, ratio = _smaller_angle(r)
  obtuse = jnp.pi - 2.0 * jnp.sqrt(jnp.where(is_acute, 0.5, m)) * ratio
  return jnp.where(is_acute, 4.0 * m * ratio**2, obtuse**2)


@_squared_angle.defjvp
def _squared_angle_jvp(primals, tangents):
  (r,), (r_dot,) = primals, tangents
  return _squared_angle(r), _angle_over_sine(r) * r_dot


def _angle_over_sine(r):
  """``theta / sin(theta)``, the derivative of theta^2 with respect to r.

  At the antipode it is infinite, but the force, which multiplies it by sin(theta),
  is not: m is kept above 0 by what rounding no longer tells from it.
  """
  is_acute, m, ratio = _smaller_angle(r)
  m = jnp.where(is_acute, m, jnp.maximum(m, float(jnp.finfo(r.dtype).eps)))
  obtuse = 0.5 * jnp.pi * jax.lax.rsqrt(jnp.where(is_acute, 0.5, m)) - ratio
  return jnp.where(is_acute, ratio, obtuse) * jax.lax.rsqrt(1.0 - m)


def _smaller_angle(r):
  """Of theta and its supplement the smaller, alpha = 2 arcsin(sqrt(m)), m <= 1/2.

  Returns whether it is theta, m, and arcsin(sqrt(m)) / sqrt(m): a polynomial, which
  is several times faster than arcsin, and regular at m = 0.
  """
  is_acute = r <= 2.0
  m = jnp.where(is_acute, r / 4.0, jnp.maximum(1.0 - r / 4.0, 0.0))
  x = 4.0 * m - 1.0
  ratio = jnp.zeros_like(x)
  for coefficient in _arcsine_coefficients(11 if jnp.finfo(r.dtype).bits <= 32 else 23):
    ratio = ratio * x + coefficient
  return is_acute, m, ratio


@functools.cache
def _arcsine_coefficients(degree):
  """Of arcsin(sqrt(m)) / sqrt(m) for m in [0, 1/2], in x = 4 m - 1, highest first.

  Interpolation in Chebyshev points, whose error falls by 3 + sqrt(8) a degree, since
  the function is regular up to m = 1, x = 3.
  """
  y = np.sqrt((np.polynomial.chebyshev.chebpts1(degree + 1) + 1.0) / 4.0)
  series = np.polynomial.Chebyshev.fit(4 * y**2 - 1, np.arcsin(y) / y, degree, [-1, 1])
  return tuple(map(float, series.convert(kind=np.polynomial.Polynomial).coef[::-1]))
