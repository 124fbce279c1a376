"""Regularizers by name, as optax transformations: the paper's and its rivals."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from experiments.errors import InputError
from experiments.models import OUTPUT
from experiments.runs.settings import Settings
from mhe_jax import (
  LayerRule,
  Orthonormality,
  RelativeExcess,
  Riesz,
  add_hyperspherical_energy,
  neuron_matrices,
  spread,
)


@dataclasses.dataclass(frozen=True)
class Regularizer(Settings):
  """What is added to the loss.

  Attributes:
    kind: ``mhe``, the paper's formulas; ``authors``, their code's constants;
      ``orthonormal``, the paper's rival; ``none``.
    s: exponent of the Riesz energy.
    metric: ``chordal``, or ``geodesic`` for the paper's A-MHE.
    half_space: of the hidden layers; the output layer is always in full space.
    layers: which layers have an energy.
    weight: factor of the sum over the layers; of the authors' constants a further
      factor.
    relative: the logarithm of one plus the relative excess, instead of the energy.
    form: a term of the ``loss``, or ``spread`` around the optimizer, whose share is the
      weight.
  """

  kind: Literal["none", "mhe", "authors", "orthonormal"] = "none"
  s: float = 2.0
  metric: Literal["chordal", "geodesic"] = "chordal"
  half_space: bool = True
  layers: Literal["hidden", "output", "both"] = "both"
  weight: float = 1.0
  relative: bool = False
  form: Literal["loss", "spread"] = "loss"

  def __post_init__(self):
    super().__post_init__()
    self.check_least(s=0, weight=0)
    # Equal runs have equal configurations.
    unused = {
      "none": ("s", "metric", "half_space", "layers", "weight", "relative", "form"),
      "orthonormal": ("s", "metric", "half_space"),
      "authors": ("relative", "form"),
    }
    for name in unused.get(self.kind, ()):
      value = getattr(self, name)
      if value != getattr(type(self), name):
        raise InputError(f"regularizer {self.kind!r} has no {name}, got {value!r}.")
    if self.form == "spread" and (self.relative or self.layers != "both"):
      raise InputError("regularizer of form 'spread' is relative, and of all layers.")

  @property
  def name(self) -> str:
    """As the paper calls it."""
    if self.kind == "none":
      return "baseline"
    if self.kind == "orthonormal":
      text = "orthonormal"
    else:
      text = "A-MHE" if self.metric == "geodesic" else "MHE"
      text = f"half-space {text}" if self.half_space else text
      text = f"{text}, s = {self.s:g}"
    if self.relative:
      text = f"{text}, relative"
    if self.form == "spread":
      text = f"spread of {text}"
    return f"{text}, authors' constants" if self.kind == "authors" else text

  @property
  def weighted_name(self) -> str:
    """Its name and its weight, for tables in whose rows that differs."""
    factor = "share" if self.form == "spread" else "weight"
    return (
      self.name if self.kind == "none" else f"{self.name}, {factor} {self.weight:g}"
    )

  @property
  def label(self) -> str:
    """Its name, as it stands in the names of runs."""
    text = self.name.replace("half-space ", "half-").replace("'", "")
    return text.replace(", s = ", "-s").replace(", ", "-").replace(" ", "-").lower()

  @property
  def unweighted(self) -> "Regularizer":
    """It with weight 1."""
    return dataclasses.replace(self, weight=1.0)

  @property
  def _objective(self):
    if self.kind == "orthonormal":
      return Orthonormality()
    return Riesz(self.s, self.metric)

  def around(
    self, optimizer: optax.GradientTransformation, output: str = OUTPUT
  ) -> optax.GradientTransformationExtraArgs:
    """An optimizer with it: what is a part of the loss comes first.

    Args:
      optimizer: all of it.
      output: path of the output layer's kernel.
    """
    if self.form == "loss":
      return optax.chain(self._transformation(output), optimizer)
    rules = (LayerRule(output, role="output"),)
    return spread(
      optimizer, self.weight, self._objective, half_space=self.half_space, rules=rules
    )

  def _transformation(self, output):
    rules = (LayerRule(output, role="output"),)
    of_hidden, of_output = (
      float(self.layers in (kind, "both")) for kind in ("hidden", "output")
    )
    if self.kind == "none":
      return optax.with_extra_args_support(optax.identity())
    if self.kind in ("mhe", "orthonormal"):
      objective = self._objective
      if self.relative:
        objective = RelativeExcess(objective, log=True)
      return add_hyperspherical_energy(
        self.weight,
        objective,
        half_space=self.half_space,
        hidden_weight=of_hidden,
        output_weight=of_output,
        rules=rules,
      )
    of_output = 10.0 * of_output
    if self.metric == "geodesic" and self.s > 0:
      of_hidden, of_output = 0.1 * of_hidden, 0.1 * of_output

    def energy(params):
      total = jnp.zeros(())
      for path, w in neuron_matrices(params, rules).items():
        factor = of_output if path == output else of_hidden
        half_space = self.half_space and path != output
        layer = authors_energy(w, self.s, self.metric, half_space=half_space)
        total = total + factor * layer
      return self.weight * total

    return add_gradient(energy)


def add_gradient(
  energy: Callable[[Any], jax.Array],
) -> optax.GradientTransformationExtraArgs:
  """Adds the gradient of a function of the parameters to the updates."""

  def update(updates, params):
    return jax.tree.map(jnp.add, updates, jax.grad(energy)(params))

  return optax.with_extra_args_support(optax.stateless(update))


def authors_energy(
  neurons: jax.Array, s: float, metric: str, *, half_space: bool
) -> jax.Array:
  """The energy as the authors' code computes it, with its constants.

  Args:
    neurons: ``[n, d]``.
    s: 0, 1 or 2.
    metric: ``"chordal"`` or ``"geodesic"``.
    half_space: of the neurons and their negatives.

  References:
    https://github.com/wy1iu/MHE
  """
  if half_space:
    neurons = jnp.concatenate([neurons, -neurons])
  n = len(neurons)
  norms = jnp.sqrt(jnp.sum(neurons**2, 1, keepdims=True) + 1e-4)
  units = neurons / norms
  cosines = jnp.matmul(units, units.T, precision="highest")
  off_diagonal = ~jnp.eye(n, dtype=bool)
  if metric == "geodesic":
    # Where their arccos would be NaN, at |t| >= 1 by rounding, it is clipped.
    cosines = jnp.clip(jnp.where(off_diagonal, cosines, 0.0), -1 + 1e-6, 1 - 1e-6)
    z = jnp.arccos(cosines) / jnp.pi + 1e-4
    energies = -jnp.log(z) if s == 0 else z**-s
  else:
    squared = jnp.where(off_diagonal, 2.0 - 2.0 * cosines, 1.0)
    energies = -jnp.log(squared) if s == 0 else squared ** (-s / 2)
  return jnp.sum(jnp.where(off_diagonal, energies, 0.0)) / (n * (n - 1))
