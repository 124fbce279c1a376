"""The energy of the class weights: of all classes, or of those of a mini-batch."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from experiments.errors import InputError
from experiments.runs.settings import Settings
from mhe_jax import Potential, RelativeExcess, Riesz, hyperspherical_energy
from mhe_jax.sphere import normalize


def mini_batch_energy(
  neurons: jax.Array, labels: jax.Array, potential: Potential
) -> jax.Array:
  r"""Mean energy of the classes of a batch with all others.

  .. math::
    \frac{1}{m (C - 1)} \sum_{i \le m} \sum_{j \ne y_i} f(\lVert u_{y_i} - u_j \rVert)

  A class that comes twice counts twice. It needs m C cosines, where the energy of all
  classes needs C^2 / 2. Over batches in which every class is equally likely, its mean
  is that energy.

  Args:
    neurons: class weights, ``[classes, d]``.
    labels: classes of the images of the batch, ``[m]``.
    potential: f.

  References:
    Liu et al., Learning towards Minimum Hyperspherical Energy, NeurIPS 2018, on its
    mini-batch approximation.
  """
  units = normalize(neurons)
  cosines = jnp.matmul(units[labels], units.T, precision="highest")
  others = ~jax.nn.one_hot(labels, len(neurons), dtype=bool)
  # where() first: a distance of 0 to itself would be 0 * inf in the gradient. Two other
  # classes that coincide have the softened energy of the potential, and no force.
  r = 2.0 - 2.0 * jnp.where(others, cosines, 0.0)
  energies = jnp.where(others, potential.value(r), 0.0)
  return energies.sum() / (max(len(neurons) - 1, 1) * len(labels))


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
      return mini_batch_energy(neurons, labels, Riesz(self.s))
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
