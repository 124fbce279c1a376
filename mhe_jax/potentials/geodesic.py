"""The angle of two unit vectors as a smooth function of their squared distance."""

import functools

import jax
import jax.numpy as jnp
import numpy as np


@jax.custom_jvp
def squared_angle(r):
  """``arccos(1 - r/2)**2``, which is smooth at r = 0 although arccos is not."""
  is_acute, m, ratio = _smaller_angle(r)
  obtuse = jnp.pi - 2.0 * jnp.sqrt(jnp.where(is_acute, 0.5, m)) * ratio
  return jnp.where(is_acute, 4.0 * m * ratio**2, obtuse**2)


@squared_angle.defjvp
def _squared_angle_jvp(primals, tangents):
  (r,), (r_dot,) = primals, tangents
  return squared_angle(r), angle_over_sine(r) * r_dot


def angle_over_sine(r):
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
