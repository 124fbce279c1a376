"""The energy of the class weights: of all classes, or of those of a mini-batch."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from experiments.errors import InputError
from experiments.runs.settings import Settings
from mhe_jax import RelativeExcess, Riesz, batch_energy, hyperspherical_energy


@dataclasses.dataclass(frozen=True)
class Energy(Settings):
  """What is added to the loss, for SphereFace+.

  Attributes:
    kind: ``all`` classes; those of the ``batch`` with all; ``none``.
    s: exponent of the Riesz energy.
    weight: factor.
    relative: the logarithm of one plus the relative excess, instead of the energy.
    start: share of the steps before which the weight is 0.
    ramp: share of the steps in which it then rises to its own.
  """

  kind: Literal["none", "all", "batch"] = "none"
  s: float = 2.0
  weight: float = 1.0
  relative: bool = False
  start: float = 0.0
  ramp: float = 0.0

  def __post_init__(self):
    super().__post_init__()
    self.check_least(s=0, weight=0, start=0, ramp=0)
    if self.start + self.ramp > 1:
      raise InputError(
        f"start and ramp must be at most 1 together, got {self.start:g} and "
        f"{self.ramp:g}."
      )
    # Equal runs have equal settings.
    unused = {
      "none": ("s", "weight", "relative", "start", "ramp"),
      "batch": ("relative",),
    }
    for name in unused.get(self.kind, ()):
      value = getattr(self, name)
      if value != getattr(type(self), name):
        raise InputError(f"energy of {self.kind!r} has no {name}, got {value!r}.")

  @property
  def name(self) -> str:
    """What tells it from others, but for its weight."""
    if self.kind == "none":
      return "no energy"
    text = "MHE" if self.kind == "all" else "mini-batch MHE"
    return f"{text}, relative" if self.relative else text

  def __call__(self, neurons: jax.Array, labels: jax.Array) -> jax.Array:
    """The energy, without its weight.

    Args:
      neurons: class weights, ``[classes, d]``.
      labels: classes of the batch, ``[m]``.
    """
    if self.kind == "batch":
      return batch_energy(neurons, labels, Riesz(self.s))
    if self.kind == "none":
      return jnp.zeros((), neurons.dtype)
    if self.relative:
      return RelativeExcess(Riesz(self.s), log=True)(neurons)
    return hyperspherical_energy(neurons, Riesz(self.s))

  def weight_at(self, step: jax.typing.ArrayLike, steps: int) -> jax.Array:
    """The weight after so many of all steps."""
    since = jnp.asarray(step, float) - self.start * steps
    if not self.ramp:
      return jnp.where(since >= 0, self.weight, 0.0)
    return self.weight * jnp.clip(since / (self.ramp * steps), 0.0, 1.0)
