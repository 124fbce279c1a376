"""Each method in training: the deep, narrow CNN of ``experiments.quickstart``."""

import functools
import itertools
import math
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
import optax
import rich.progress

from experiments import digits
from experiments.benchmarks.timing import ratio, time_in_turns
from experiments.digits import CNN, RULES, Config, State
from mhe_jax import (
  KoLeo,
  Objective,
  Orthonormality,
  RelativeExcess,
  Riesz,
  with_hyperspherical_energy,
)

_ENERGY = RelativeExcess(Riesz(2.0), log=True)
# What is added to the loss; weight, units and rate are those of experiments.quickstart.
OBJECTIVES: dict[str, Objective] = {
  "energy": _ENERGY,
  "orthonormal": RelativeExcess(Orthonormality(), log=True),
  "koleo": RelativeExcess(KoLeo(), log=True),
  "muon_energy": _ENERGY,
}
ARMS = (
  "without", "energy", "orthonormal", "koleo", "spectral", "muon", "muon_energy"
)  # fmt: skip
MUON = ("muon", "muon_energy")

_COMMON = {"rate": 0.1, "weight": 0.1, "adam_rate": 0.01}
SETTINGS = {
  "cpu": {
    "depth": 15, "width": 8, "images_per_class": 50, "steps": 200,
    "seeds": list(range(800, 808)), **_COMMON,
  },
  "smoke": {
    "depth": 1, "width": 4, "images_per_class": 4, "steps": 2, "seeds": [800, 801],
    **_COMMON,
  },
}  # fmt: skip
# Muon's rates are chosen on seeds that are not reported.
MUON_RATES = {
  "cpu": {
    "rates": [0.1, 0.3, 1.0], "adam_rates": [0.003, 0.01, 0.03],
    "seeds": [850, 851, 852],
  },
  "smoke": {"rates": [0.1], "adam_rates": [0.01], "seeds": [850]},
}  # fmt: skip
OF_COST = ("depth", "width", "steps", "rate", "weight", "adam_rate")
COST_ROUNDS = {"cpu": 41, "smoke": 1}


class SpectralCNN(CNN):
  """The CNN, its convolutions divided by their largest singular values."""

  def convolve(self, i: int, x: jax.Array, train: bool) -> jax.Array:
    norm = nn.SpectralNorm(self.convolution(i), name=f"spectral{i}")
    return norm(x, update_stats=train)


def optimizer(
  arm: str, steps: int, rate: float, weight: float, adam_rate: float
) -> optax.GradientTransformationExtraArgs:
  """SGD with momentum, or Muon; a warm-up and a cosine; and what the arm adds.

  Args:
    arm: of ARMS.
    steps: of the schedule.
    rate: the largest learning rate, of SGD or of Muon.
    weight: of what is added to the loss.
    adam_rate: of Adam, which Muon leaves the head and the batch norms to.
  """
  shape = optax.warmup_cosine_decay_schedule(0.0, 1.0, steps // 10, steps)
  if arm in MUON:
    tx = optax.contrib.muon(
      lambda count: rate * shape(count),
      adam_learning_rate=lambda count: adam_rate * shape(count),
      muon_weight_dimension_numbers=_as_matrices,
    )
  else:
    tx = optax.sgd(lambda count: rate * shape(count), momentum=0.9, nesterov=True)
  if arm not in OBJECTIVES:
    return optax.with_extra_args_support(tx)
  return with_hyperspherical_energy(tx, weight, OBJECTIVES[arm], rules=RULES)


def _as_matrices(params):
  """Kernels of convolutions as matrices [inputs, neurons]; None is left to Adam."""
  spec = optax.contrib.MuonDimensionNumbers((0, 1, 2), 3)
  return jax.tree.map(lambda x: spec if x.ndim == 4 else None, params)


class Trainer(NamedTuple):
  """What trains the networks of an arm; its step is ``(state, images, labels)``."""

  model: CNN
  tx: optax.GradientTransformationExtraArgs
  train_step: Callable[[State, Any, Any], State]

  def start(self, seed: int) -> State:
    """Before training."""
    params, stats = digits.init(self.model, jax.random.key(seed))
    return State(params, stats, self.tx.init(params))


@functools.cache  # Compiled once for all seeds.
def trainer(
  arm: str,
  depth: int,
  width: int,
  steps: int,
  rate: float,
  weight: float,
  adam_rate: float,
) -> Trainer:
  """Of an arm of ARMS; its other arguments are those of :func:`compute`."""
  model = (SpectralCNN if arm == "spectral" else CNN)(depth, width)
  tx = optimizer(arm, steps, rate, weight, adam_rate)

  @functools.partial(jax.jit, donate_argnums=0)
  def train_step(state, images, labels):
    grads, stats = jax.grad(digits.batch_loss, argnums=1, has_aux=True)(
      model, state.params, state.batch_stats, images, labels
    )
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    return State(optax.apply_updates(state.params, updates), stats, opt_state)

  return Trainer(model, tx, train_step)


def compute(
  arm: str,
  depth: int,
  width: int,
  images_per_class: int,
  steps: int,
  rate: float,
  weight: float,
  adam_rate: float,
  seeds: list[int],
) -> dict[str, Any]:
  """Trains all seeds of an arm.

  Args:
    arm: of ARMS.
    depth: convolutions.
    width: their channels.
    images_per_class: that are trained on.
    steps: of training.
    rate: as of :func:`optimizer`, like the next two.
    weight: of what is added to the loss.
    adam_rate: of Adam beside Muon.
    seeds: of images, initialization, and order of the data.

  Returns:
    By seed ``"test_error"`` and ``"other_error"`` in percent, the latter on images
    of neither split; and ``"excess"``, the median of the convolutions' relative excess
    (half-space, s = 2) at the end.
  """
  images, labels = digits.load_digits()
  of_arm = trainer(arm, depth, width, steps, rate, weight, adam_rate)
  runs = {"test_error": [], "other_error": [], "excess": []}
  for seed in seeds:
    train_rows, test_rows = digits.split(labels, images_per_class, seed)
    rest = np.setdiff1d(np.arange(len(labels)), [*train_rows, *test_rows])
    state = of_arm.start(seed)
    rng = np.random.default_rng([seed, 0])
    for batch in digits.batches(train_rows, Config.batch_size, steps, rng):
      state = of_arm.train_step(state, images[batch], labels[batch])
    for name, rows in (("test_error", test_rows), ("other_error", rest)):
      error, _ = digits.evaluate(of_arm.model, state, images[rows], labels[rows])
      runs[name].append(round(float(error), 3))
    found = digits.excess(state.params)
    layers = [float(x) for path, x in found.items() if path != "head/kernel"]
    runs["excess"].append(round(statistics.median(layers), 4))
  return runs


def choose_rates(
  rates: list[float], adam_rates: list[float], seeds: list[int], **settings: Any
) -> dict[str, Any]:
  """The rates of Muon with the fewest errors on images of neither split.

  Args:
    rates: of Muon, to choose from.
    adam_rates: of Adam beside it, likewise.
    seeds: that are not reported.
    **settings: of :func:`compute`; its rates and seeds do not count.

  Returns:
    ``"errors"``, by pair of rates, those of all seeds; the ``"rate"`` and the
    ``"adam_rate"``.
  """
  errors, best, least = {}, {}, math.inf
  for rate, adam_rate in itertools.product(rates, adam_rates):
    chosen = {"rate": rate, "adam_rate": adam_rate}
    found = compute("muon", **{**settings, **chosen, "seeds": seeds})["other_error"]
    errors[f"{rate:g}, {adam_rate:g}"] = found
    if statistics.mean(found) < least:
      best, least = chosen, statistics.mean(found)
  return {"errors": errors, **best}


def measure_cost(
  rounds: int,
  depth: int,
  width: int,
  steps: int,
  rate: float,
  weight: float,
  adam_rate: float,
  progress: rich.progress.Progress,
) -> dict[str, Any]:
  """Time of a training step of every arm, in turns.

  Args:
    rounds: in each of which every arm has a turn.
    depth: convolutions.
    width: their channels.
    steps: as of :func:`optimizer`, like the next three.
    rate: of SGD and of Muon.
    weight: of what is added to the loss.
    adam_rate: of Adam beside Muon.
    progress: that is shown.

  Returns:
    ``"seconds"``, ``{arm: [rounds]}``, and ``"ratio"``, of every arm the median over
    the rounds of its time divided by that without anything.
  """
  images, labels = (x[: Config.batch_size] for x in digits.load_digits())
  calls = {}
  for arm in ARMS:
    of_arm = trainer(arm, depth, width, steps, rate, weight, adam_rate)
    calls[arm] = _stepper(of_arm, images, labels)
  seconds = time_in_turns(calls, rounds, progress, "steps of every method")
  return {
    "seconds": seconds,
    "ratio": {arm: round(ratio(seconds, arm, "without"), 4) for arm in ARMS},
  }


def _stepper(of_arm, images, labels):
  """A function that makes one more step at each call."""
  state = of_arm.start(0)

  def step():
    nonlocal state
    state = of_arm.train_step(state, images, labels)
    return state

  return step
