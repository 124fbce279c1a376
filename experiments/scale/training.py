"""Training a classifier whose class weights are divided among devices.

The images are features already (identities.py): what is trained are the class weights
alone, for it is they that are many. A network before them would be the same on all
devices, or divided as usual by images.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec as P

from experiments.errors import InputError
from experiments.runs.settings import Settings
from experiments.scale.class_parallel import are_right, cosines, cross_entropy
from experiments.scale.devices import AXIS, by_rows, mesh_of
from experiments.scale.excess import Scale
from experiments.scale.identities import Identities
from mhe_jax import (
  Riesz,
  batch_energy,
  hyperspherical_energy,
  nearest_neurons,
  sampled_energy,
  sampled_energy_and_error,
)

Kind = Literal["none", "sampled", "rows", "exact"]
BIN = 2  # Degrees of a bin of a histogram.


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """What is trained.

  Attributes:
    classes: a multiple of the devices.
    d: of features and class weights.
    devices: among which the class weights are divided.
    batch: images of a step.
    steps: updates.
    measurements: how often it is measured on the way.
    scale: of the cosines, which are the logits.
    rate: of gradient descent.
    momentum: of it.
    decay: of the weights, half the squared norm times this.
    common: length of what all features have in common; that of a person is 1.
    noise: length of the noise of a feature.
    exponent: of Zipf's law.
    energy: of the class weights: estimated from a sample (``sampled``), of the classes
      of the batch with all (``rows``), of all pairs (``exact``), or ``none``.
    s: of the Riesz energy.
    weight: of the energy, in units of what random directions have more than the bound.
    num_samples: of ``sampled``.
    test_images: fresh ones, of the same distribution.
    looked_at: classes that were trained, and that never were, whose nearest others are
      looked for at the end.
    seed: of all that is random.
  """

  classes: int = 100_000
  d: int = 64
  devices: int = 8
  batch: int = 512
  steps: int = 40
  measurements: int = 5
  scale: float = 16.0
  rate: float = 60.0
  momentum: float = 0.9
  decay: float = 2e-4
  common: float = 1.0
  noise: float = 0.5
  exponent: float = 1.0
  energy: Kind = "sampled"
  s: float = 2.0
  weight: float = 0.1
  num_samples: int = 256
  test_images: int = 1024
  looked_at: int = 2000
  seed: int = 0

  def __post_init__(self):
    super().__post_init__()
    self.check_least(
      classes=2, d=4, devices=1, batch=1, steps=1, measurements=1, scale=0, rate=0,
      momentum=0, decay=0, common=0, noise=0, exponent=0, s=0, weight=0, num_samples=1,
      test_images=1, looked_at=1, seed=0,
    )  # fmt: skip
    if self.classes % self.devices:
      raise InputError(
        f"classes must be a multiple of devices, got {self.classes} and {self.devices}."
      )
    if self.steps % self.measurements:
      raise InputError(
        f"steps must be a multiple of measurements, got {self.steps} and "
        f"{self.measurements}."
      )
    if self.s >= self.d - 1:  # Random directions have infinite energy.
      raise InputError(f"s must be less than d - 1 = {self.d - 1}, got {self.s:g}.")

  @property
  def identities(self) -> Identities:
    """The distribution of the images."""
    return Identities(
      self.classes, self.d, self.common, self.noise, self.exponent, self.seed
    )

  @property
  def units(self) -> Scale:
    """Of the energy."""
    return Scale.of(self.classes, self.d, self.s)


class State(NamedTuple):
  """What a step changes: ``weights``, ``[classes, d]``, and the optimizer's state."""

  weights: jax.Array
  opt_state: Any


def energy_of(config: Config, shard: jax.Array, labels: jax.Array, key: jax.Array):
  """Mean energy of all class weights, without its weight; inside ``jax.shard_map``.

  The half-space form is for hidden layers: opposite classes are good.

  Args:
    config: which energy.
    shard: class weights of this device.
    labels: of the batch, ``[batch]``.
    key: of the step.
  """
  potential = Riesz(config.s)
  if config.energy == "sampled":
    return sampled_energy(
      key, shard, potential, num_samples=config.num_samples, axis_name=AXIS
    )
  if config.energy == "rows":
    return batch_energy(shard, labels, potential, axis_name=AXIS)
  return hyperspherical_energy(shard, potential, axis_name=AXIS)


def make_losses(config: Config, mesh: jax.sharding.Mesh) -> Callable[..., Any]:
  """``losses(weights, features, labels, key)``: what is minimized, and the loss alone.

  Args:
    config: what is trained.
    mesh: among whose devices the weights are divided.
  """
  factor = config.weight / config.units.unit

  def of_device(shard, features, labels, key):
    logits = config.scale * cosines(features, shard)
    loss = cross_entropy(logits, labels, AXIS)
    if config.energy == "none":
      return loss, loss
    return loss + factor * energy_of(config, shard, labels, key), loss

  specs = (P(AXIS), P(), P(), P())
  return jax.shard_map(of_device, mesh=mesh, in_specs=specs, out_specs=(P(), P()))


def make_step(config: Config, mesh: jax.sharding.Mesh) -> Any:
  """A jitted ``step(state, labels, number)``, which consumes the state, and its loss.

  Args:
    config: what is trained.
    mesh: among whose devices weights and momentum are divided.
  """
  losses, tx = make_losses(config, mesh), optimizer(config)

  def step(state, labels, number):
    key = jax.random.fold_in(jax.random.key(config.seed), number)
    for_features, for_energy = jax.random.split(key)
    features = config.identities.features(labels, for_features)
    total = lambda weights: losses(weights, features, labels, for_energy)  # noqa: E731
    gradient, loss = jax.grad(total, has_aux=True)(state.weights)
    updates, opt_state = tx.update(gradient, state.opt_state, state.weights)
    weights = jnp.asarray(optax.apply_updates(state.weights, updates))
    return State(weights, opt_state), loss

  return jax.jit(step, donate_argnums=0)


def optimizer(config: Config) -> optax.GradientTransformation:
  """Gradient descent with weight decay and momentum, at a rate that ends with 0."""
  schedule = optax.cosine_decay_schedule(config.rate, config.steps)
  return optax.chain(
    optax.add_decayed_weights(config.decay),
    optax.sgd(schedule, momentum=config.momentum),
  )


def init(config: Config, mesh: jax.sharding.Mesh) -> State:
  """Random directions of norm 1 on average, made where they will be."""
  shape = (config.classes, config.d)
  key = jax.random.fold_in(jax.random.key(config.seed), 2**31)
  start = lambda: jax.random.normal(key, shape) / config.d**0.5  # noqa: E731
  weights = jax.jit(start, out_shardings=by_rows(mesh))()
  return State(weights, optimizer(config).init(weights))


def make_look(config: Config, mesh: jax.sharding.Mesh) -> Callable[..., Any]:
  """``look(weights, labels, key)``: energy and its error, test loss and error.

  Args:
    config: what is trained.
    mesh: of the weights.
  """

  def of_device(shard, features, labels, key):
    energy, error = sampled_energy_and_error(
      key, shard, Riesz(config.s), num_samples=1024, axis_name=AXIS
    )
    logits = config.scale * cosines(features, shard)
    loss = cross_entropy(logits, labels, AXIS)
    wrong = 1.0 - are_right(logits, labels, AXIS).mean()
    return energy, error, loss, wrong

  specs = (P(AXIS), P(), P(), P())
  sharded = jax.shard_map(of_device, mesh=mesh, in_specs=specs, out_specs=P())

  @jax.jit
  def look(weights, labels, key):
    for_features, for_energy = jax.random.split(key)
    features = config.identities.features(labels, for_features)
    return sharded(weights, features, labels, for_energy)

  return look


def memory_of(program: jax.stages.Compiled, config: Config) -> dict[str, int]:
  """Bytes that a device needs for a step, and those of a matrix of pairs.

  What the step consumes and gives back in its place is counted once.
  """
  memory: Any = program.memory_analysis()
  parts = {
    "arguments": memory.argument_size_in_bytes,
    "outputs": memory.output_size_in_bytes - memory.alias_size_in_bytes,
    "temporaries": memory.temp_size_in_bytes,
  }
  pairs = 4 * config.classes**2
  return {**parts, "device": sum(parts.values()), "all_pairs": pairs}


def train(config: Config, on_step: Callable[[int], None]) -> dict[str, Any]:
  """Trains the class weights; returns what the JSON holds beside the environment.

  Args:
    config: what is trained.
    on_step: is told the number of steps so far.

  Raises:
    InputError: there are fewer devices than are asked for.
  """
  mesh = mesh_of(config.devices)
  state, look = init(config, mesh), make_look(config, mesh)
  test_labels = config.identities.labels(config.test_images, key=(0,))
  of_test = jax.random.fold_in(jax.random.key(config.seed), 2**31 + 1)
  labels_of = lambda number: config.identities.labels(config.batch, key=(number,))  # noqa: E731
  program = make_step(config, mesh).lower(state, labels_of(1), np.int32(1)).compile()
  counts = np.zeros(config.classes, np.int64)
  history, seconds, loss = [], [], None
  for number in range(config.steps + 1):
    if number:
      labels = labels_of(number)
      counts += np.bincount(labels, minlength=config.classes)
      start = time.perf_counter()
      state, loss = program(state, labels, np.int32(number))
      jax.block_until_ready(state)
      seconds.append(time.perf_counter() - start)
    if number % (config.steps // config.measurements) == 0:
      numbers = jax.device_get(look(state.weights, test_labels, of_test))
      history.append(_entry(config, number, loss, *map(float, numbers)))
    on_step(number)
  return {
    "history": history,
    "seconds_a_step": statistics.median(seconds),
    "memory": memory_of(program, config),
    "nearest": nearest_classes(
      np.asarray(state.weights), counts, config.looked_at, config.seed
    ),
  }


def _entry(config, number, loss, energy, error, test_loss, wrong):
  units = config.units
  return {
    "step": number,
    "loss": None if loss is None else float(loss),
    "excess": units.excess(energy),
    "excess_error": error / units.unit,
    "test_loss": test_loss,
    "test_error": 100.0 * wrong,
  }


def nearest_classes(
  weights: np.ndarray, counts: np.ndarray, looked_at: int, seed: int
) -> dict[str, Any]:
  """Angles of classes to their nearest others, among all classes.

  Args:
    weights: of all classes, ``[classes, d]``.
    counts: images that each class was trained on, ``[classes]``.
    looked_at: most classes of a kind that are looked at, drawn at random.
    seed: of the draw.

  Returns:
    Of classes that were trained and of those that never were, how many there are and
    were looked at, and quantiles and a histogram of the angles, in degrees.
  """
  rng = np.random.default_rng(seed)
  edges = np.arange(0, 180 + BIN, BIN)
  of_kind = {}
  for kind, is_kind in (("trained", counts > 0), ("never", counts == 0)):
    classes = np.flatnonzero(is_kind)
    chosen = rng.permutation(classes)[:looked_at]
    angles = np.zeros(0)
    if len(chosen):
      angles = np.degrees(nearest_neurons(weights, rows=chosen)[0])[:, 0]
    quantiles = np.quantile(angles, [0.0, 0.05, 0.5]) if len(chosen) else []
    of_kind[kind] = {
      "classes": len(classes),
      "looked_at": len(chosen),
      "quantiles": [round(float(q), 3) for q in quantiles],
      "histogram": np.histogram(angles, edges)[0].tolist(),
    }
  return of_kind
