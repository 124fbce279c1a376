"""The Riesz potential: the paper's, of the Thomson problem, and any s."""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import scipy

from mhe_jax.checks import check_number
from mhe_jax.potentials.base import Potential
from mhe_jax.potentials.geodesic import angle_over_sine, squared_angle


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
    z2, eps = self._squared_distance(r), self.softening(r.dtype)
    z2 = jnp.where(z2 <= eps, eps, z2)  # Not maximum(): NaN and slope as below.
    return -0.5 * jnp.log(z2) if self.s == 0 else _power(z2, -self.s / 2)

  def slope(self, r: jax.Array) -> jax.Array:
    z2, eps = self._squared_distance(r), self.softening(r.dtype)
    slope = _power(jnp.maximum(z2, eps), -self.s / 2 - 1) * (-0.5 * (self.s or 1.0))
    if self.metric == "geodesic":
      slope = slope * angle_over_sine(r)
    return jnp.where(z2 <= eps, 0.0, slope)

  def at_angle(self, theta: np.ndarray) -> np.ndarray:
    theta = np.asarray(theta, np.float64)
    z = theta if self.metric == "geodesic" else 2.0 * np.sin(theta / 2.0)
    with np.errstate(divide="ignore", over="ignore"):  # The result is inf.
      return -np.log(z) if self.s == 0 else z**-self.s

  def sphere_mean(self, d: int) -> float:
    if d > 1 and self.s >= d - 1:  # z^(d - 2 - s) is not integrable at 0.
      return math.inf
    if d == 1 or self.metric == "geodesic":
      return super().sphere_mean(d)
    return _chordal_mean(d, self.s)

  def envelope(self, t: float) -> float:
    if self.metric == "chordal":  # Convex as it is.
      return self.at_cosine(t)
    return self._geodesic_envelope(t)

  def even_envelope(self, t: float) -> float:
    return self.at_cosine(t) + self.at_cosine(-t)

  def _geodesic_envelope(self, t):
    """The geodesic energy is concave near t = -1.

    Its envelope is the line from the antipode that touches the curve, up to the point
    where it touches, and the curve from there on.
    """
    antipode = self.at_cosine(-1.0)

    def slope(x):
      theta = math.acos(x)
      return (self.s or 1.0) * theta ** (-self.s - 1) / math.sin(theta)

    def gap(x):
      return self.at_cosine(x) - antipode - slope(x) * (x + 1)

    touch = scipy.optimize.brentq(gap, -1 + 1e-9, 0.5, xtol=1e-14)
    return self.at_cosine(t) if t >= touch else antipode + slope(touch) * (t + 1)

  def _squared_distance(self, r):
    return r if self.metric == "chordal" else squared_angle(r)

  def softening(self, dtype: jax.typing.DTypeLike) -> float:
    """The ``eps`` that is used: a default depends on the dtype."""
    if self.eps is not None:
      return self.eps
    info = jnp.finfo(dtype)
    exponent = -(36.0 if info.bits <= 32 else 300.0) / (self.s / 2 + 2)
    return max(8.0 * float(info.eps), 10.0**exponent)


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


def _chordal_mean(d, s):
  """The closed form of :func:`mhe_jax.uniform_energy`, for s < d - 1."""
  if s == 0:
    psi = scipy.special.digamma
    return float(-math.log(2) / 2 + (psi(d / 2) - psi((d - 1) / 2)) / 4)
  if s == 2:  # The same formula, exact where lgamma rounds.
    return (d - 2) / (2 * (d - 3))
  log_value = (
    (d - 2 - s) * math.log(2)
    + math.lgamma(d / 2)
    + math.lgamma((d - 1 - s) / 2)
    - math.lgamma(d - 1 - s / 2)
    - math.log(math.pi) / 2
  )
  return math.exp(log_value)
