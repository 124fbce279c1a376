"""Faces: what the runner is told of them."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import Split
from experiments.data.batches import ORDER, training_batches
from experiments.data.faces import Faces, load
from experiments.errors import InputError
from experiments.excess import excess
from experiments.faces import protocol, training
from experiments.faces.presets import Config, preset
from experiments.faces.split import separate, split
from experiments.models import OUTPUT
from experiments.runs.task import Diverged, Task
from experiments.runs.train import number

BATCH = 250  # Images that are embedded at a time.
FALSE_ACCEPT_RATES = ("1e-2", "1e-3")
DISTRACTORS = (0, 10, 100, 1000, 10_000, 100_000, 1_000_000)
ANGLES = np.arange(0, 181, 4)  # Edges of the histograms, in degrees.


class Run:
  """A network in training on faces.

  Attributes:
    config: its settings.
    state: what an update changes.
  """

  def __init__(self, config: Config, faces: Faces, others: Faces | None = None):
    self.config, self._faces, self._tested = config, faces, others or faces
    options: dict[str, Any] = {
      "folds": config.test_folds, "least_images": config.least_images,
    }  # fmt: skip
    self._training, self._testing = (
      split(faces, **options) if others is None else separate(faces, others, **options)
    )
    self._model = config.model()
    tx, self._update = _compiled(dataclasses.replace(config, seed=0))
    params = training.init(
      self._model,
      self._training.num_classes,
      jax.random.key(config.seed),
      faces.images[:1],
    )
    self.state = training.State(
      params, tx.init(params), jnp.zeros(()), jnp.zeros((), jnp.int32)
    )

  @property
  def data_source(self) -> dict[str, str]:
    """Where the images are from, a fingerprint of them, and their order."""
    sets = dict.fromkeys([self._faces.source, self._tested.source])
    prints = dict.fromkeys([self._faces.fingerprint, self._tested.fingerprint])
    return {"from": ", ".join(sets), "fingerprint": "-".join(prints), "order": ORDER}

  def steps(self, first: int, last: int) -> Iterator[int]:
    """Trains; yields the number of each step, ``first + 1`` to ``last``."""
    config = self.config
    images = Split(self._faces.images, self._training.labels)
    batches = training_batches(
      images, self._training.rows, config.batch_size, config.seed,
      steps=(first, last), augment=False,
    )  # fmt: skip
    for step, (pixels, labels) in enumerate(batches, first + 1):
      rng = np.random.default_rng([config.seed, step])
      seen = _flipped(pixels, rng) if config.flip else pixels
      self.state = self._update(self.state, seen, labels, np.int32(step))
      yield step

  def measure(self, step: int) -> dict[str, Any]:
    """An entry of the history: mean loss since the last, class weights, redundancy.

    Raises:
      Diverged: a loss or a parameter is not finite.
    """
    config, params = self.config, self.state.params
    classes = training.look(params)
    self._check(step, bool(classes.finite))
    loss = self.state.loss / config.steps_between if step else np.nan
    self.state = self.state._replace(loss=jnp.zeros(()))
    return {
      "step": step,
      "train_loss": number(loss),
      "energy": number(classes.energy),
      "smallest_angle": number(classes.smallest),
      "nearest_angle": number(classes.nearest),
      "excess": {k: number(v) for k, v in excess(params).items()},
    }

  def _check(self, step, finite):
    """That there is something to go on with."""
    failed = int(self.state.failed)
    if not failed and finite:
      return
    config = self.config
    weight = config.energy.weight if config.energy.kind != "none" else 0.0
    what = (
      f"the loss was not finite at step {failed}"
      if failed
      else f"parameters were not finite after step {step}"
    )
    raise Diverged(
      f"{what} ({config.head.name}, weight of the energy {weight:g}, learning rate "
      f"{config.learning_rate:g}); try a smaller weight of the energy, a later start "
      "of it, a smaller learning rate, a longer warm-up or, of SphereFace, a longer "
      "annealing (a smaller gamma)."
    )

  def final_measures(self) -> dict[str, Any]:
    """What is measured of people who were not trained on, and of the class weights.

    Errors and rates are in percent, angles in degrees. The training error is that of
    up to 5,000 images, without the margin.
    """
    params, testing = self.state.params, self._testing
    embeddings = self._embeddings(testing.rows)
    if not np.isfinite(embeddings).all():  # The last update has no loss after it.
      raise Diverged(
        f"features were not finite after step {self.config.steps}; try a smaller "
        "learning rate, or a longer warm-up."
      )

    def of(rows):
      return embeddings[np.searchsorted(testing.rows, rows)]

    pairs = testing.pairs
    scores = np.sum(of(pairs.first) * of(pairs.second), -1)
    verification = protocol.verify(scores, pairs.same, pairs.folds)
    probes, distractors = of(testing.probes), of(testing.distractors)
    counts = [count for count in DISTRACTORS if count < len(distractors)]
    counts.append(len(distractors))
    shares = protocol.rank_one(
      probes @ of(testing.gallery).T, testing.owners, probes @ distractors.T, counts
    )
    classes = training.look(params)
    return {
      "verification_error": number(100 * (1 - verification.accuracy)),
      "verification_standard_error": number(100 * verification.standard_error),
      "equal_error_rate": number(100 * protocol.equal_error_rate(scores, pairs.same)),
      "rank_one_error": number(100 * (1 - shares[-1])),
      "train_error": number(100 * self._train_error()),
      "smallest_angle": number(classes.smallest),
      "nearest_angle": number(classes.nearest),
      "mean_angle": number(training.mean_angle(params["score"]["kernel"].T)),
      "class_excess": number(excess(params)[OUTPUT]),
      "classes": self._training.num_classes,
      "true_accept_rates": {
        rate: number(100 * protocol.true_accept_rate(scores, pairs.same, float(rate)))
        for rate in FALSE_ACCEPT_RATES
      },
      "rank_one": {
        "distractors": counts,
        "accuracy": [number(100 * share) for share in shares],
      },
      "roc": _thinned(protocol.roc(scores, pairs.same), (~pairs.same).sum()),
      "angles": _histograms(scores, pairs.same),
    }

  def _embeddings(self, rows):
    """Directions of images of who is tested, ``[len(rows), features]``."""
    return self._batched(training.embed, self._tested.images, rows)

  def _train_error(self):
    rows = np.sort(np.random.default_rng(0).permutation(self._training.rows)[:5000])
    found = self._batched(training.classify, self._faces.images, rows)
    return np.mean(found != self._training.labels[rows])

  def _batched(self, function, images, rows):
    """Of all batches; the last is filled up, so that there is one shape."""
    size = min(BATCH, len(rows))
    filled = np.concatenate([rows, np.repeat(rows[:1], -len(rows) % size)])
    outcomes = [
      np.asarray(function(self._model, self.state.params, images[batch]))
      for batch in filled.reshape(-1, size)
    ]
    return np.concatenate(outcomes)[: len(rows)]


def _flipped(images, rng):
  """Each mirrored, or not."""
  mirrored = rng.random(len(images)) < 0.5
  return np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)


def _thinned(curve, count):
  """Some points of a curve for a picture, evenly spaced in the logarithm of the FAR."""
  rates = np.unique(np.append(np.geomspace(1 / count, 1.0, 60), 1 / count))
  true = [curve.true[curve.false <= rate * (1 + 1e-12)].max() for rate in rates]
  return {"false": [number(x) for x in rates], "true": [number(x) for x in true]}


def _histograms(scores, same):
  """How many pairs of the same and of two people have which angle, in degrees."""
  angles = np.degrees(np.arccos(np.clip(scores, -1.0, 1.0)))
  counts = {
    name: np.histogram(angles[which], ANGLES)[0].tolist()
    for name, which in (("same", same), ("different", ~same))
  }
  return {"edges": ANGLES.tolist(), **counts}


@functools.lru_cache(maxsize=64)
def _compiled(config):
  """Optimizer and update: one for all seeds, so that it compiles once."""
  tx = config.optimizer()
  return tx, training.make_update(
    config.model(), config.head, config.energy, config.steps, tx
  )


def start(config: Config, data_root: pathlib.Path | None) -> Run:
  """A run on its data set.

  Raises:
    InputError: of :func:`experiments.data.faces.load`; settings that do not fit it.
  """
  faces = load(config.dataset, data_root, config.image_size)
  if not config.tested_on:
    return Run(config, faces)
  others = load(config.tested_on, data_root, config.image_size)
  if others.images.shape[-1] != faces.images.shape[-1]:
    kinds = {1: "gray", 3: "color"}
    here, there = (kinds[x.images.shape[-1]] for x in (faces, others))
    raise InputError(
      f"dataset and tested_on must both be gray or both in color, got {here} images of "
      f"{config.dataset} and {there} ones of {config.tested_on}."
    )
  return Run(config, faces, others)


def tell(result: dict) -> str:
  """The final measures, in words."""
  last = result["rank_one"]["distractors"][-1]
  return (
    f"verification accuracy {100 - result['verification_error']:.2f}%, rank-1 accuracy "
    f"{100 - result['rank_one_error']:.2f}% among {last:,} distractors, training error "
    f"{result['train_error']:.2f}%"
  )


TASK = Task("experiments.faces", Config, preset, start, tell)
