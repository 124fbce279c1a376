"""Image classification: what the runner is told of it."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from experiments import models
from experiments.classification import training
from experiments.classification.presets import Config, preset
from experiments.data import Data, Split, load, select
from experiments.data.batches import ORDER, test_batches, training_batches
from experiments.errors import InputError
from experiments.excess import effective_rank, excess, norms
from experiments.runs.task import Task
from experiments.runs.train import number


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
    tx, self._update = _compiled(
      dataclasses.replace(config, seed=0, rounding=0), self._model
    )
    image = np.zeros((1, *data.image_shape), np.uint8)
    params, stats = training.init(
      self._model, config.shrink, jax.random.key(config.seed), image
    )
    if config.rounding:
      params = training.rounded_otherwise(params, config.rounding)
    self.state = training.State(params, stats, tx.init(params), jnp.zeros(()))

  @property
  def data_source(self) -> dict[str, str]:
    """Where the images are from, a fingerprint of them, and their order."""
    return {
      "from": self._data.source, "fingerprint": self._data.fingerprint, "order": ORDER,
    }  # fmt: skip

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
    """An entry of the history: mean loss since the last, error, redundancy, norms."""
    config, data = self.config, self._data
    some = np.random.default_rng(0).permutation(len(data.test))[: config.curve_images]
    errors, _ = self._evaluate(data.test, np.sort(some))
    loss = self.state.loss / config.steps_between if step else np.nan
    self.state = self.state._replace(loss=jnp.zeros(()))
    return {
      "step": step,
      "train_loss": number(loss),
      "test_error": number(100 * errors.mean()),
      "excess": {k: number(v) for k, v in excess(self.state.params).items()},
      "norm": {k: number(v) for k, v in norms(self.state.params).items()},
    }

  def final_measures(self) -> dict:
    """Errors in percent and losses, of all test images and up to 5,000 that it saw.

    Also the effective rank of what the classifier is given, of 5,000 test images.
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
      "feature_rank": effective_rank(self._features(data.test)),
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

  def _features(self, split: Split):
    """What the classifier is given, ``[5000, features]``, or fewer."""
    rows = np.sort(np.random.default_rng(0).permutation(len(split))[:5000])
    batch_size = 100 if self._data.size else 500
    classifier, _, _ = models.OUTPUT.partition("/")
    variables = self.state.params, self.state.batch_stats
    found = [
      training.features(self._model, self.config.shrink, classifier, *variables, images)
      for images, _ in test_batches(split, rows, batch_size, size=self._data.size)
    ]
    return np.concatenate(found)[: len(rows)]

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
  return tx, training.make_update(
    model, config.shrink, tx, config.label_smoothing, config.floor
  )


def start(config: Config, data_root: pathlib.Path | None) -> Run:
  """A run on its data set.

  Raises:
    InputError: of :func:`experiments.data.load`; or settings that do not fit the data.
  """
  return Run(config, load(config.dataset, data_root))


def tell(result: dict) -> str:
  """The final errors, in words."""
  test, train = (result[f"{split}_error"] for split in ("test", "train"))
  return f"test error {test:.2f}%, training error {train:.2f}%"


TASK = Task("experiments.classification", Config, preset, start, tell)
