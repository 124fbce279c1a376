r"""Image classification with and without hyperspherical energy: one run.

  python -m experiments.classification --preset smoke
  python -m experiments.classification --preset cpu --dataset cifar10 --seed 1 \
      --regularizer.kind mhe --regularizer.no-half-space --regularizer.weight 10
  python -m experiments.classification --preset paper --regularizer.kind mhe
  python -m experiments.classification --repeat NAME.json

The presets: smoke (handwritten digits, seconds), cpu (a narrow CNN-9 on a small part of
CIFAR, minutes on two cores), paper (the paper's schedule, for an accelerator). Every
setting of a preset, or of the result whose run is to be repeated, can be changed. The
second command is one of the runs of the cell "MHE, s = 2", CIFAR-10, in
docs/classification.md. What is repeated needs an output of its own.

A run that is stopped, at any moment and in any way, goes on from its last measurement
when the same command is given again, and ends with the same numbers, if the device and
its number of cores are the same. It writes OUTPUT/NAME.json, NAME being made of its
settings.
"""

import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

import filelock
import jax
import jax.numpy as jnp
import numpy as np
import rich.progress
import tyro
from rich.console import Console

from experiments import models
from experiments.classification import training
from experiments.classification.presets import Config, preset, settings_of
from experiments.data import Data, Split, load, select
from experiments.data.batches import test_batches, training_batches
from experiments.environment import environment
from experiments.errors import InputError, make_folder, told_in_a_line
from experiments.runs.checkpoints import Checkpoints


class OccupiedError(InputError):
  """Another process trains this run."""


class Run:
  """A network in training on a data set.

  Attributes:
    config: its settings.
    state: what an update changes.
  """

  def __init__(self, config: Config, data: Data):
    self.config, self._data = config, data
    self._model = models.build(
      config.model,
      width=config.width,
      num_classes=len(data.classes),
      authors=config.authors,
    )
    self._rows = select(
      data.train.labels,
      config.seed,
      images_per_class=config.images_per_class or None,
      dropped=dict(config.dropped),
    )
    if config.shrink > 1 and any(x % config.shrink for x in data.image_shape[:2]):
      raise InputError(
        f"shrink must divide the sides of the images, which are "
        f"{data.image_shape[:2]}, got {config.shrink}."
      )
    least = 8 if isinstance(self._model, models.CNN) else 1  # It halves them thrice.
    if any(x < least * config.shrink for x in data.image_shape[:2]):
      raise InputError(
        f"shrink must leave {least} x {least} pixels or more of the images, which have "
        f"{data.image_shape[:2]}, got {config.shrink}."
      )
    tx, self._update = _compiled(dataclasses.replace(config, seed=0), self._model)
    image = np.zeros((1, *data.image_shape), np.uint8)
    params, stats = training.init(
      self._model, config.shrink, jax.random.key(config.seed), image
    )
    self.state = training.State(params, stats, tx.init(params), jnp.zeros(()))

  @property
  def data_source(self) -> dict[str, str]:
    """Where the images are from, and a fingerprint of them."""
    return {"from": self._data.source, "fingerprint": self._data.fingerprint}

  def steps(self, first: int, last: int) -> Iterator[int]:
    """Trains; yields the number of each step, ``first + 1`` to ``last``."""
    config, data = self.config, self._data
    batches = training_batches(
      data.train, self._rows, config.batch_size, config.seed, steps=(first, last),
      size=data.size, augment=config.augment, reflect=config.authors,
    )  # fmt: skip
    for step, (images, labels) in enumerate(batches, first + 1):
      self.state = self._update(self.state, images, labels)
      yield step

  def measure(self, step: int) -> dict:
    """An entry of the history: mean loss since the last, error, redundancy."""
    config, data = self.config, self._data
    some = np.random.default_rng(0).permutation(len(data.test))[: config.curve_images]
    errors, _ = self._evaluate(data.test, np.sort(some))
    loss = self.state.loss / config.steps_between if step else np.nan
    self.state = self.state._replace(loss=jnp.zeros(()))
    return {
      "step": step,
      "train_loss": number(loss),
      "test_error": number(100 * errors.mean()),
      "excess": {k: number(v) for k, v in training.excess(self.state.params).items()},
    }

  def final_measures(self) -> dict:
    """Errors in percent and losses, of all test images and up to 5,000 that it saw.

    Where only some images of each class are trained on, the validation error is that
    of up to 10,000 of the others.
    """
    data = self._data
    errors, losses = self._evaluate(data.test, np.arange(len(data.test)))
    some = np.sort(np.random.default_rng(0).permutation(self._rows)[:5000])
    train_errors, train_losses = self._evaluate(data.train, some)
    measures = {
      "test_error": 100 * errors.mean(),
      "test_loss": losses.mean(),
      "train_error": 100 * train_errors.mean(),
      "train_loss": train_losses.mean(),
    }
    if self.config.images_per_class:
      others = np.setdiff1d(np.arange(len(data.train)), self._rows)
      some = np.sort(np.random.default_rng(0).permutation(others)[:10_000])
      if len(some):
        validation_errors, _ = self._evaluate(data.train, some)
        measures["validation_error"] = 100 * validation_errors.mean()
    for label, _ in self.config.dropped:
      of_class = errors[data.test.labels == label]
      measures[f"test_error_class_{label}"] = 100 * of_class.mean()
    return {name: number(value) for name, value in measures.items()}

  def _evaluate(self, split: Split, rows: np.ndarray):
    """Errors (bool) and losses of some images, ``[len(rows)]`` each."""
    batch_size = 100 if self._data.size else 500
    variables = self.state.params, self.state.batch_stats
    outcomes = [
      training.evaluate(self._model, self.config.shrink, *variables, images, labels)
      for images, labels in test_batches(split, rows, batch_size, size=self._data.size)
    ]
    return [np.concatenate(values)[: len(rows)] for values in zip(*outcomes)]


@functools.lru_cache(maxsize=64)
def _compiled(config, model):
  """Optimizer and update: one for all seeds, so that it compiles once."""
  tx = config.optimizer()
  return tx, training.make_update(model, config.shrink, tx, config.label_smoothing)


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

  Raises:
    OccupiedError: another process trains it.
    InputError: of :func:`experiments.data.load`; or what is finished has other
      settings, for the defaults were others then.
  """
  path = output / f"{config.name}.json"
  try:
    with filelock.FileLock(path.with_suffix(".lock"), timeout=0):
      checkpoints = Checkpoints(path.with_suffix(".checkpoint"))
      if not path.exists():
        result = _train(
          Run(config, load(config.dataset, data_root)), checkpoints, on_step
        )
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(result) + "\n")
        partial.rename(path)  # Complete, or not there.
      checkpoints.remove()
  except filelock.Timeout:
    raise OccupiedError(f"{config.name} is being trained by another process.") from None
  path.with_suffix(".lock").unlink(missing_ok=True)  # It guards nothing any more.
  on_step(config.steps)
  result = json.loads(path.read_text())
  check_settings(settings_of(path), config, path)
  return result


def check_settings(found: Config, config: Config, path: pathlib.Path) -> None:
  """Names have what differs from the defaults, and these may have changed.

  Raises:
    InputError: what was found under the name of a run has other settings.
  """
  if found != config:
    raise InputError(
      f"{path} must have the settings of the run, {config}, got {found}; name another "
      "output."
    )


def _train(run, checkpoints, on_step):
  """From the last measurement on, if there is one; what the JSON holds."""
  config = run.config
  if checkpoints.exist():
    run.state, log = checkpoints.restore(run.state)
    check_settings(Config.from_json(log["config"]), config, checkpoints.folder)
  else:
    log = {
      "config": dataclasses.asdict(config),
      "seconds": 0.0,
      "environments": [],
      "history": [run.measure(0)],
    }
  if environment() not in log["environments"]:
    log["environments"].append(environment())  # In another one, numbers differ.
  first = log["history"][-1]["step"]
  start = time.perf_counter() - log["seconds"]
  for step in run.steps(first, config.steps):
    on_step(step)
    if step % config.steps_between == 0:
      log["history"].append(run.measure(step))
      log["seconds"] = round(time.perf_counter() - start, 2)
      checkpoints.save(step, run.state, log)
  return {
    "command": f"python -m experiments.classification --repeat {config.name}.json",
    "name": config.name,
    "data": run.data_source,
    **run.final_measures(),
    **log,
    **environment(),
  }


def number(x: Any) -> float | None:
  """For the JSON; not all of its readers know NaN, which diverged runs have."""
  return round(float(x), 5) if np.isfinite(x) else None


_one_of_both = tyro.conf.create_mutex_group(required=False)


@dataclasses.dataclass(frozen=True)
class Start:
  """Where the settings are from that the command does not name.

  Attributes:
    preset: smoke, cpu or paper.
    repeat: result whose run is to be repeated, in an output of its own.
  """

  preset: Annotated[Literal["smoke", "cpu", "paper"], _one_of_both] = "cpu"
  repeat: Annotated[pathlib.Path | None, _one_of_both] = None


@dataclasses.dataclass(frozen=True)
class Arguments:
  """Arguments of the command.

  Attributes:
    config: the run.
    start: where the settings of the run are from.
    output: folder for the results.
    data_root: folder of local copies of the data sets, called as these are; without
      it, the Hugging Face hub is asked.
  """

  config: Annotated[Config, tyro.conf.arg(name="")]
  start: Annotated[Start, tyro.conf.arg(name="")] = dataclasses.field(
    default_factory=Start
  )
  output: pathlib.Path = pathlib.Path("runs/classification")
  data_root: pathlib.Path | None = None


def _settings_to_start_from(
  start: Annotated[Start, tyro.conf.arg(name="")], dataset: str | None = None
) -> Config:
  """Those of a preset depend on the data set."""
  if start.repeat is not None:
    return settings_of(start.repeat)
  return preset(start.preset, dataset)


def main() -> None:
  """Trains one network."""
  console = Console()
  columns = (*rich.progress.Progress.get_default_columns(), "{task.completed}")
  with told_in_a_line(console):
    # They are the defaults of all other arguments, so they are read before these.
    config, _ = tyro.cli(
      _settings_to_start_from, return_unknown_args=True, add_help=False
    )
    arguments = tyro.cli(Arguments, default=Arguments(config), description=__doc__)
    config, output = arguments.config, arguments.output
    if arguments.start.repeat and (output / f"{config.name}.json").exists():
      raise InputError(
        f"output must be a folder that does not hold the run yet, got {output}."
      )
    make_folder(output)
    with rich.progress.Progress(*columns, console=console) as progress:
      task = progress.add_task(config.regularizer.name, total=config.steps)
      result = train(
        config,
        output,
        arguments.data_root,
        lambda step: progress.update(task, completed=step),
      )
  console.print(
    f"test error {result['test_error']:.2f}%, training error "
    f"{result['train_error']:.2f}%, {result['seconds']:.0f} s; wrote "
    f"{output}/{config.name}.json.",
    highlight=False,
    soft_wrap=True,
  )


if __name__ == "__main__":
  main()
