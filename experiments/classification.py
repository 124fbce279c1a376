"""Image classification with and without hyperspherical energy: one run.

  python -m experiments.classification --preset smoke
  python -m experiments.classification --preset cpu --data-root FOLDER --seed 1
  python -m experiments.classification --preset paper --regularizer.kind mhe

The presets: smoke (handwritten digits, seconds), cpu (a narrow CNN-9 on a small part of
CIFAR, minutes on two cores), paper (the paper's schedule, for an accelerator).
Every setting of a preset can be changed. A run that is stopped, at any moment and in
any way, goes on from its last measurement when the same command is given again, and
ends with the same numbers. It writes OUTPUT/NAME.json, NAME being made of its settings.
"""

import argparse
import dataclasses
import functools
import hashlib
import json
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import rich.progress
import tyro
from rich.console import Console

import mhe_jax
from experiments import models
from experiments.batches import test_batches, training_batches
from experiments.checkpoints import Checkpoints
from experiments.data import Data, Split, load, select
from experiments.environment import environment
from experiments.regularizers import Regularizer
from mhe_jax import Riesz


@dataclasses.dataclass(frozen=True)
class Config:
  """Everything that the numbers of a run depend on.

  Attributes:
    dataset: digits, cifar10, cifar100 or imagenet.
    images_per_class: drawn for the training set by the seed; 0 for all of them.
    shrink: side of the squares of pixels that are averaged into one: 2 makes 16 x 16
      images of those of CIFAR.
    dropped: of which classes which share is taken away: class imbalance.
    model: cnn-6, cnn-9, cnn-15, resnet-32, ..., or resnet-18 and resnet-34.
    width: channels of its first stage.
    regularizer: what is added to the loss.
    learning_rate: of SGD with momentum.
    warmup: steps in which it rises to that.
    decay_at: shares of the steps after which it is divided by 10.
    steps: updates.
    batch_size: images of an update.
    weight_decay: the loss has half of it times the squared norm of all parameters
      but the biases.
    label_smoothing: share of the label that all classes have.
    augment: crop and flip at random.
    curve_images: images on which the test error is measured on the way.
    measurements: how often that is done, the energies are measured and the state is
      saved.
    seed: of initialization, choice and order of the images, augmentation.
  """

  dataset: str = "cifar100"
  images_per_class: int = 0
  shrink: int = 1
  dropped: tuple[tuple[int, float], ...] = ()
  model: str = "cnn-9"
  width: int = 64
  regularizer: Regularizer = dataclasses.field(default_factory=Regularizer)
  learning_rate: float = 0.1
  warmup: int = 0
  decay_at: tuple[float, ...] = (20 / 42.5, 30 / 42.5, 37.5 / 42.5)
  steps: int = 42500
  batch_size: int = 128
  weight_decay: float = 5e-4
  label_smoothing: float = 0.01
  augment: bool = True
  curve_images: int = 10000
  measurements: int = 85
  seed: int = 0

  def __post_init__(self):
    for name in (
      "shrink",
      "width",
      "steps",
      "batch_size",
      "curve_images",
      "measurements",
    ):
      if getattr(self, name) < 1:
        raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
    if self.steps % self.measurements:
      raise ValueError(
        f"steps must be a multiple of measurements, got {self.steps} and "
        f"{self.measurements}."
      )

  @property
  def name(self) -> str:
    """Name of the run: readable, and different for different settings."""
    kind = self.regularizer.name.replace("half-space ", "half-").replace("'", "")
    kind = kind.replace(", s = ", "-s").replace(", ", "-").replace(" ", "-").lower()
    text = json.dumps(dataclasses.asdict(self), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    model = f"{self.model}-w{self.width}"
    return f"{self.dataset}_{model}_{kind}_seed{self.seed}_{digest}"


PRESETS = {
  "smoke": Config(
    dataset="digits", images_per_class=8, model="cnn-3", width=2, steps=4,
    batch_size=16, curve_images=64, measurements=2,
  ),
  "cpu": Config(
    images_per_class=50, shrink=2, width=16, learning_rate=0.05, warmup=100,
    steps=4000, batch_size=64, curve_images=2000, measurements=10,
  ),
  "paper": Config(),
}  # fmt: skip


class State(NamedTuple):
  """What an update changes."""

  params: Any
  batch_stats: Any
  opt_state: Any
  loss: jax.Array  # Sum since the last measurement.


class Functions(NamedTuple):
  """Compiled functions of a run."""

  init: Callable
  update: Callable
  evaluate: Callable
  excess: Callable


def learning_rate(config: Config) -> optax.Schedule:
  """Steps down, after a rise."""
  boundaries = {round(config.steps * share): 0.1 for share in config.decay_at}
  steps_down = optax.piecewise_constant_schedule(config.learning_rate, boundaries)

  def schedule(count):
    if not config.warmup:
      return steps_down(count)
    return steps_down(count) * jnp.minimum(1.0, (count + 1) / config.warmup)

  return schedule


def decayed(params: Any) -> Any:
  """Which parameters decay: all but the biases of layers, as the authors' do."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: jax.tree_util.keystr(path) != "['score']['bias']", params
  )


@functools.lru_cache(maxsize=4)
def functions_of(config: Config, num_classes: int, shape: tuple[int, ...]) -> Functions:
  """Functions of a configuration, whose seed does not matter.

  Args:
    config: the run.
    num_classes: outputs.
    shape: of an image.
  """
  model = models.build(config.model, width=config.width, num_classes=num_classes)
  tx = optax.chain(
    config.regularizer.transformation(),
    optax.add_decayed_weights(config.weight_decay, mask=decayed),
    optax.sgd(learning_rate(config), momentum=0.9),
  )

  def inputs(images):
    side = (config.shrink, config.shrink)
    return nn.avg_pool((images.astype(jnp.float32) - 127.5) / 128.0, side, side)

  @jax.jit
  def init(key):
    variables = model.init(key, inputs(jnp.zeros((1, *shape))))
    params = variables["params"]
    stats = variables.get("batch_stats", {})
    return State(params, stats, tx.init(params), jnp.zeros(()))

  @functools.partial(jax.jit, donate_argnums=0)
  def update(state, images, labels):
    targets = optax.smooth_labels(
      jax.nn.one_hot(labels, num_classes), config.label_smoothing
    )

    def loss(params):
      logits, new = model.apply(
        {"params": params, "batch_stats": state.batch_stats},
        inputs(images),
        train=True,
        mutable=["batch_stats"],
      )
      losses = optax.softmax_cross_entropy(jnp.asarray(logits), targets)
      return losses.mean(), new.get("batch_stats", {})

    (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return State(params, stats, opt_state, state.loss + value)

  @jax.jit
  def evaluate(state, images, labels):
    """Errors and losses of a batch; of filling, which has label -1, 0."""
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    logits = jnp.asarray(model.apply(variables, inputs(images)))
    losses = optax.softmax_cross_entropy_with_integer_labels(
      logits, jnp.maximum(labels, 0)
    )
    real = labels >= 0
    return real & (logits.argmax(-1) != labels), jnp.where(real, losses, 0.0)

  @jax.jit
  def excess(params):
    """Relative excess of each layer, by one measure whatever the regularizer is."""
    return {
      path: mhe_jax.relative_excess(w, Riesz(2.0), half_space=path != models.OUTPUT)
      for path, w in mhe_jax.neuron_matrices(params, models.OUTPUT_RULES).items()
    }

  return Functions(init, update, evaluate, excess)


def evaluate(
  functions: Functions, state: State, split: Split, rows: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
  """Errors (bool) and losses of some images, ``[len(rows)]`` each."""
  outcomes = [
    functions.evaluate(state, images, labels)
    for images, labels in test_batches(split, rows, 500, size=size)
  ]
  errors, losses = (np.concatenate(values)[: len(rows)] for values in zip(*outcomes))
  return errors, losses


def train(
  config: Config,
  output: pathlib.Path,
  data_root: pathlib.Path | None = None,
  on_step: Callable[[int], None] = lambda step: None,
) -> dict:
  """Trains one network, or goes on with it, or returns what is finished already.

  Args:
    config: the run.
    output: folder for NAME.json, and for NAME.checkpoint while the run lasts.
    data_root: folder of the folders cifar10, cifar100, imagenet.
    on_step: is told the number of finished steps.

  Returns:
    What the JSON holds.
  """
  path = output / f"{config.name}.json"
  if path.exists():
    on_step(config.steps)
    return json.loads(path.read_text())
  data = load(config.dataset, data_root)
  rows = select(
    data.train.labels,
    config.seed,
    images_per_class=config.images_per_class or None,
    dropped=dict(config.dropped),
  )
  shape = (data.size, data.size, 3) if data.size else data.train.images.shape[1:]
  functions = functions_of(
    dataclasses.replace(config, seed=0), len(data.classes), shape
  )
  state = functions.init(jax.random.key(config.seed))
  curve = np.random.default_rng(0).permutation(len(data.test))[: config.curve_images]

  def measure(step):
    errors, _ = evaluate(functions, state, data.test, np.sort(curve), data.size)
    return {
      "step": step,
      "train_loss": number(state.loss / steps_between) if step else None,
      "test_error": number(100 * errors.mean()),
      "excess": {k: number(v) for k, v in functions.excess(state.params).items()},
    }

  steps_between = config.steps // config.measurements
  checkpoints = Checkpoints(output / f"{config.name}.checkpoint")
  log = {"seconds": 0.0, "history": []}
  if checkpoints.exist():
    state, log = checkpoints.restore(state)
  else:
    log["history"].append(measure(0))
  first = log["history"][-1]["step"]
  on_step(first)
  start = time.perf_counter() - log["seconds"]
  batches = training_batches(
    data.train, rows, config.batch_size, config.seed, steps=(first, config.steps),
    size=data.size, augment=config.augment,
  )  # fmt: skip
  for step, (images, labels) in enumerate(batches, first + 1):
    state = functions.update(state, images, labels)
    on_step(step)
    if step % steps_between == 0:
      log["history"].append(measure(step))
      state = state._replace(loss=jnp.zeros(()))
      log["seconds"] = round(time.perf_counter() - start, 2)
      checkpoints.save(step, state, log)

  result = {
    "command": "python -m experiments.classification",
    "config": dataclasses.asdict(config),
    "name": config.name,
    **final_measures(config, functions, state, data, rows),
    **log,
    **environment(),
  }
  partial = path.with_suffix(".partial")
  partial.write_text(json.dumps(result) + "\n")
  partial.rename(path)
  checkpoints.remove()
  return result


def final_measures(
  config: Config, functions: Functions, state: State, data: Data, rows: np.ndarray
) -> dict:
  """Errors in percent, of the whole test set and of up to 5,000 training images."""
  everything = np.arange(len(data.test))
  errors, losses = evaluate(functions, state, data.test, everything, data.size)
  measures = {
    "test_error": number(100 * errors.mean()),
    "test_loss": number(losses.mean()),
  }
  for label, _ in config.dropped:
    of_class = errors[data.test.labels == label]
    measures[f"test_error_class_{label}"] = number(100 * of_class.mean())
  some = np.sort(np.random.default_rng(0).permutation(rows)[:5000])
  errors, losses = evaluate(functions, state, data.train, some, data.size)
  measures["train_error"] = number(100 * errors.mean())
  measures["train_loss"] = number(losses.mean())
  return measures


def number(x: Any) -> float | None:
  """For the JSON; not all of its readers know NaN, which diverged runs have."""
  return round(float(x), 5) if np.isfinite(x) else None


@dataclasses.dataclass(frozen=True)
class Arguments:
  """Arguments of the command.

  Attributes:
    config: the run.
    output: folder for the results.
    data_root: folder of local copies of the data sets, called as these are; without
      it, the Hugging Face hub is asked.
  """

  config: Annotated[Config, tyro.conf.arg(name="")]
  output: pathlib.Path = pathlib.Path("runs/classification")
  data_root: pathlib.Path | None = None


def main() -> None:
  """Trains one network."""
  parser = argparse.ArgumentParser(add_help=False)
  parser.add_argument("--preset", choices=PRESETS, default="cpu")
  chosen, rest = parser.parse_known_args()
  arguments = tyro.cli(
    Arguments,
    args=rest,
    default=Arguments(PRESETS[chosen.preset]),
    description=__doc__,
  )
  config = arguments.config
  console = Console()
  arguments.output.mkdir(parents=True, exist_ok=True)
  columns = (*rich.progress.Progress.get_default_columns(), "{task.completed}")
  try:
    with rich.progress.Progress(*columns, console=console) as progress:
      task = progress.add_task(config.regularizer.name, total=config.steps)
      result = train(
        config,
        arguments.output,
        arguments.data_root,
        lambda step: progress.update(task, completed=step),
      )
  except ValueError as error:
    console.print(f"[red]{error}[/red]")
    sys.exit(2)
  console.print(
    f"test error {result['test_error']:.2f}%, training error "
    f"{result['train_error']:.2f}%, {result['seconds']:.0f} s; wrote "
    f"{arguments.output}/{config.name}.json.",
    highlight=False,
    soft_wrap=True,
  )


if __name__ == "__main__":
  main()
