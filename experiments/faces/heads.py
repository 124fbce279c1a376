r"""Losses with a margin: what is asked of the angle to one's own class.

Class weights are normalized and there is no bias, so a logit is a scale times the
cosine of an angle. Of the own class, each head puts a smaller number in the place of
the cosine, so that the angle must be smaller than without it for the same loss.

Nothing here takes an arccos, whose slope is infinite at cosines of 1 and -1.
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp

from experiments.errors import InputError
from experiments.runs.settings import Settings


def sphereface(cosines: jax.Array, m: int) -> jax.Array:
  r"""A-Softmax: :math:`\psi(\theta) = (-1)^k \cos(m \theta) - 2 k`.

  For :math:`\theta` in :math:`[k \pi / m, (k + 1) \pi / m]`: continuous, and decreasing
  from 1 to 1 - 2 m.

  Args:
    cosines: of the angles, any shape; rounding may take them past 1 and -1.
    m: 1 to 4.

  References:
    Liu et al., SphereFace: Deep Hypersphere Embedding for Face Recognition, CVPR 2017,
    equation 7.
  """
  # cos(m theta) is a polynomial of cos(theta): that of Chebyshev.
  multiple = {
    1: lambda c: c,
    2: lambda c: 2.0 * c**2 - 1.0,
    3: lambda c: (4.0 * c**2 - 3.0) * c,
    4: lambda c: 8.0 * (c**2 - 1.0) * c**2 + 1.0,
  }[m](cosines)
  k = sum(
    (
      jnp.astype(cosines < math.cos(j * math.pi / m), cosines.dtype)
      for j in range(1, m)
    ),
    jnp.zeros_like(cosines),
  )
  sign = 1.0 - 2.0 * (k % 2.0)
  return sign * multiple - 2.0 * k


def cosface(cosines: jax.Array, m: float) -> jax.Array:
  """A margin between cosines: cos(theta) - m.

  References:
    Wang et al., CosFace: Large Margin Cosine Loss for Deep Face Recognition, CVPR 2018,
    equation 4.
  """
  return cosines - m


def arcface(cosines: jax.Array, m: float) -> jax.Array:
  r"""A margin between angles: cos(theta + m), where that decreases.

  Beyond theta = pi - m, where theta + m would pass pi, it is cos(theta) - m sin(m), as
  in the authors' code.

  Args:
    cosines: of the angles, any shape.
    m: in radians, 0 to pi.

  References:
    Deng et al., ArcFace: Additive Angular Margin Loss for Deep Face Recognition, CVPR
    2019, equation 3; https://github.com/deepinsight/insightface.
  """
  # The slope of the sine is infinite where it is 0; there, it is taken to be 0.
  squared = 1.0 - cosines**2
  inside = squared > 0.0
  sines = jnp.where(inside, jnp.sqrt(jnp.where(inside, squared, 1.0)), 0.0)
  shifted = cosines * math.cos(m) - sines * math.sin(m)
  return jnp.where(cosines > math.cos(math.pi - m), shifted, cosines - m * math.sin(m))


@dataclasses.dataclass(frozen=True)
class Head(Settings):
  """Which margin, how large, and how it is eased in.

  Attributes:
    kind: ``sphereface``, ``cosface`` or ``arcface``.
    margin: SphereFace's m, a whole number from 1 to 4; CosFace's, a difference of
      cosines; ArcFace's, an angle in radians.
    scale: what cosines are multiplied by; 0 for the norm of the feature, which
      SphereFace takes.
    base: SphereFace mixes the cosine and its margin, lambda to 1, with lambda = base /
      (1 + gamma * step)^power, but
    least: no less than this. Constants of the authors' Caffe layer.
    gamma: how fast lambda falls.
    power: likewise.
  """

  kind: Literal["sphereface", "cosface", "arcface"] = "sphereface"
  margin: float = 4.0
  scale: float = 0.0
  base: float = 1000.0
  gamma: float = 0.12
  power: float = 1.0
  least: float = 5.0

  def __post_init__(self):
    super().__post_init__()
    self.check_least(margin=0, scale=0, base=0, gamma=0, power=0, least=0)
    if self.kind == "sphereface":
      if self.margin not in (1, 2, 3, 4):
        raise InputError(
          f"margin of sphereface must be 1, 2, 3 or 4, got {self.margin:g}."
        )
      if self.scale:
        raise InputError(
          "scale of sphereface must be 0, for it takes the norms of the features, got "
          f"{self.scale:g}."
        )
      return
    if not self.scale:
      raise InputError(f"scale of {self.kind} must be positive, got {self.scale:g}.")
    if self.kind == "arcface" and self.margin >= math.pi:
      raise InputError(f"margin of arcface must be below pi, got {self.margin:g}.")
    # Equal runs have equal settings.
    for name in ("base", "gamma", "power", "least"):
      if getattr(self, name) != getattr(type(self), name):
        raise InputError(f"{self.kind} has no {name}, got {getattr(self, name):g}.")

  @property
  def name(self) -> str:
    """As its authors call it, with its margin."""
    names = {"sphereface": "SphereFace", "cosface": "CosFace", "arcface": "ArcFace"}
    return f"{names[self.kind]}, m = {self.margin:g}"

  def weight_of_cosine(self, step: jax.typing.ArrayLike) -> jax.Array:
    """Lambda of SphereFace after so many steps."""
    step = jnp.asarray(step, float)
    falling = self.base / (1.0 + self.gamma * step) ** self.power
    return jnp.maximum(falling, self.least)

  def logits(
    self,
    cosines: jax.Array,
    norms: jax.Array,
    labels: jax.Array,
    step: jax.typing.ArrayLike,
  ) -> jax.Array:
    """What the softmax is given in training.

    Args:
      cosines: of features and class weights, ``[batch, classes]``.
      norms: of the features, ``[batch]``.
      labels: classes, ``[batch]``.
      step: how many updates there were.

    Returns:
      ``[batch, classes]``; all but those of the own classes are without a margin.
    """
    if self.kind == "sphereface":
      weight = self.weight_of_cosine(step).astype(cosines.dtype)
      psi = sphereface(cosines, int(self.margin))
      own = (weight * cosines + psi) / (1.0 + weight)
    else:
      own = {"cosface": cosface, "arcface": arcface}[self.kind](cosines, self.margin)
    is_own = jax.nn.one_hot(labels, cosines.shape[-1], dtype=bool)
    return self.scales(norms) * jnp.where(is_own, own, cosines)

  def scales(self, norms: jax.Array) -> jax.Array:
    """Factors of the cosines, ``[batch, 1]``."""
    return (
      norms[:, None] if not self.scale else jnp.full_like(norms, self.scale)[:, None]
    )
