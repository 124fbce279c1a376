"""One run: a CNN is trained, its channels are removed, and it is tested again."""

import dataclasses
import functools
import json
import math
import pathlib
import time
from typing import Any, Literal, get_args

import jax
import numpy as np

from experiments import digits
from experiments.digits import CNN, State
from experiments.environment import environment
from experiments.errors import InputError
from experiments.pruning.orders import CRITERIA, Layer
from experiments.pruning.removal import remove, statistics_of
from mhe_jax import nearest_neurons, neuron_matrices

Arm = Literal["without", "energy"]
ARMS: tuple[Arm, ...] = get_args(Arm)
# What is done to the batch norms after the removal.
STATISTICS = ("kept", "estimated")


@dataclasses.dataclass(frozen=True)
class Config:
  """What is trained and removed.

  Attributes:
    training: of the digits; the weight is that of the arm with energy.
    shares: of the channels of every convolution that are removed.
    draws: random orders, over whose errors the mean is taken.
    statistics_images: training images that statistics are estimated from.
  """

  training: digits.Config
  shares: tuple[float, ...]
  draws: int = 3
  statistics_images: int = 500

  def __post_init__(self):
    width = self.training.width
    counts = [share * width for share in self.shares]
    if not all(0 < c < width and c == int(c) for c in counts):
      raise InputError(
        f"shares must leave whole channels of {width}, and remove some, got "
        f"{self.shares}."
      )


PRESETS = {
  "smoke": Config(
    digits.Config(depth=3, width=4, images_per_class=4, seeds=(700, 701), steps=4),
    shares=(0.25,),
    draws=1,
    statistics_images=20,
  ),
  "cpu": Config(
    digits.Config(depth=6, width=32, seeds=tuple(range(700, 706))),
    shares=(1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2),
  ),
}


def run(config: Config, arm: Arm, seed: int) -> dict[str, Any]:
  """Trains, removes and tests; returns what the JSON of the run holds.

  Args:
    config: what is trained and removed.
    arm: with the energy or without.
    seed: of images, initialization, order of the data, and random removal.

  Returns:
    Test errors in percent: ``"test_error"`` of the whole network, and ``"pruned"``,
    ``{statistics: {criterion: [error of every share]}}``; of every convolution its
    relative excess (half-space, s = 2), and the angle in degrees from a neuron to its
    nearest, the smallest and the median.
  """
  start = time.perf_counter()
  images, labels = digits.load_digits()
  training = config.training
  train_rows, test_rows = digits.split(labels, training.images_per_class, seed)
  state = train(training, arm, seed)
  rng = np.random.default_rng([seed, 1])
  some = rng.permutation(train_rows)[: config.statistics_images]
  test = images[test_rows], labels[test_rows]

  def error_of(state, width):
    return float(digits.evaluate(CNN(training.depth, width), state, *test)[0])

  def errors_of(criterion, draw):
    orders = [CRITERIA[criterion](layer) for layer in _layers(state, seed, draw)]
    errors = {name: [] for name in STATISTICS}
    for share in config.shares:
      count = round(share * training.width)
      width = training.width - count
      pruned = remove(state, [order[:count] for order in orders])
      again = _estimated(CNN(training.depth, width), pruned, images[some])
      errors["kept"].append(error_of(pruned, width))
      errors["estimated"].append(error_of(again, width))
    return errors

  pruned = {name: {} for name in STATISTICS}
  for criterion in CRITERIA:
    draws = config.draws if criterion == "random" else 1
    errors = [errors_of(criterion, draw) for draw in range(draws)]
    for name in STATISTICS:
      mean = np.mean([e[name] for e in errors], 0)
      pruned[name][criterion] = [round(float(x), 3) for x in mean]
  return {
    "config": as_json(config),
    "arm": arm,
    "seed": seed,
    "test_error": round(error_of(state, training.width), 3),
    "pruned": pruned,
    **_redundancy(state),
    **environment(),
    "seconds": round(time.perf_counter() - start, 1),
  }


def as_json(config: Config) -> dict[str, Any]:
  """As it is read back from a file; without the seeds, which are not of one run."""
  settings = dataclasses.asdict(config)
  del settings["training"]["seeds"]
  return json.loads(json.dumps(settings))


_estimated = functools.partial(jax.jit, static_argnums=0)(statistics_of)


def train(config: digits.Config, arm: Arm, seed: int) -> State:
  """A CNN that is trained on the digits.

  Args:
    config: of one learning rate; its own seeds do not count.
    arm: with the energy or without.
    seed: of images, initialization, and order of the data.
  """
  images, labels = digits.load_digits()
  rows, _ = digits.split(labels, config.images_per_class, seed)
  model = CNN(config.depth, config.width)
  (rate,) = config.learning_rates
  params, stats = digits.init(model, jax.random.key(seed))
  tx = digits.optimizer(config, arm, rate)
  state = State(params, stats, tx.init(params))
  train_step = _train_step(dataclasses.replace(config, seeds=()), arm)
  rng = np.random.default_rng([seed, 0])
  per_epoch = math.ceil(len(rows) / config.batch_size)
  epochs = math.ceil(config.steps / per_epoch)
  # The last batch of an epoch ends in images of the next.
  order = np.concatenate([rng.permutation(rows) for _ in range(epochs + 1)])
  for batch in order[: config.steps * config.batch_size].reshape(config.steps, -1):
    state = train_step(state, rate, images[batch], labels[batch])
  return state


@functools.cache  # Compiled once for all seeds.
def _train_step(config, arm):
  return digits.make_train_step(config, arm)


def _layers(state, seed, draw):
  neurons = _convolutions(state)
  return [
    Layer(
      np.asarray(w),
      np.asarray(state.params[f"norm{i}"]["scale"]),
      (seed, draw, i),
    )
    for i, w in enumerate(neurons.values())
  ]


def _convolutions(state):
  """``{path: neurons [n, d]}``, in the order of the layers."""
  matrices = neuron_matrices(state.params)
  paths = (f"conv{i}/kernel" for i in range(len(matrices) - 1))
  return {path: matrices[path] for path in paths}


def _redundancy(state):
  neurons = _convolutions(state)
  excess = digits.excess(state.params)
  degrees = {
    path: np.degrees(nearest_neurons(w, half_space=True)[0][:, 0])
    for path, w in neurons.items()
  }
  return {
    "excess": {path: round(float(excess[path]), 4) for path in neurons},
    "smallest_angle": {p: round(float(a.min()), 2) for p, a in degrees.items()},
    "median_angle": {p: round(float(np.median(a)), 2) for p, a in degrees.items()},
  }


def read(folder: pathlib.Path) -> list[dict[str, Any]]:
  """The runs of a folder.

  Raises:
    InputError: a file is none, or two have different settings.
  """
  runs = []
  for path in sorted(folder.glob("*.json")):
    try:
      run = json.loads(path.read_text())
      runs.append(run)
      same = run["config"] == runs[0]["config"]
    except (OSError, ValueError, KeyError, TypeError) as error:
      raise InputError(f"{path} is not the result of a run: {error!r}") from error
    if not same:
      raise InputError(
        f"{path} has other settings than the runs beside it: name another folder."
      )
  return runs
