"""The Gaussian potential, whose mean is behind the uniformity loss."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import scipy

from mhe_jax.checks import check_number
from mhe_jax.potentials.base import Potential


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

  def sphere_mean(self, d: int) -> float:
    order = d / 2 - 1
    # exp(-2t) E[exp(2 t x)]: ive is exp(-2t) I, so nothing overflows.
    bessel = scipy.special.ive(order, 2 * self.t) if d > 1 else 0.0
    if bessel > 0:
      log_factor = math.lgamma(d / 2) - order * math.log(self.t)
      return math.exp(log_factor + math.log(bessel))
    return super().sphere_mean(d)

  def envelope(self, t: float) -> float:
    return self.at_cosine(t)  # Convex as it is.

  def even_envelope(self, t: float) -> float:
    return self.at_cosine(t) + self.at_cosine(-t)
