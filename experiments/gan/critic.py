"""The classifier whose features and probabilities samples are scored by.

It is trained here, on the data set itself: nothing need be downloaded, and no score is
that of another network. All runs must be scored by the same one, so that it is trained
once, kept in the user's cache, and found there by whoever comes next.
"""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import zipfile
from typing import Any

import filelock
import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.special
from flax import traverse_util

from experiments import models
from experiments.classification import training
from experiments.data import Data
from experiments.data.batches import training_batches
from experiments.errors import InputError, make_folder
from experiments.gan.scores import Scores, Seen, frechet_distance, scores
from experiments.gan.training import all_finite
from experiments.runs.settings import Settings

BATCH = 500


@dataclasses.dataclass(frozen=True)
class Critic(Settings):
  """A classifier and its training, by SGD with momentum and a cosine schedule.

  Attributes:
    model: cnn-3, cnn-6, ...; its features have 256 dimensions.
    width: channels of its first stage.
    steps: updates.
    batch_size: images of an update.
    learning_rate: the highest.
    augment: crop and flip at random; no good for digits.
  """

  model: str = "cnn-9"
  width: int = 64
  steps: int = 20_000
  batch_size: int = 128
  learning_rate: float = 0.1
  augment: bool = True

  def __post_init__(self):
    super().__post_init__()
    self.check_least(steps=1, width=1, batch_size=1)
    if not self.model.startswith("cnn-"):
      raise InputError(f"model of a critic must be cnn-N, got {self.model!r}.")
    models.build(self.model, width=self.width, num_classes=1)  # Or it is named.
    if self.learning_rate <= 0:
      raise InputError(f"learning_rate must be positive, got {self.learning_rate}.")


def held_out(data: Data) -> np.ndarray:
  """Sorted rows of the training images that the critic does not learn from.

  A third of them, at most 10,000: they are what real images are scored by, and a
  classifier is surer of images that it has learned.
  """
  count = len(data.train)
  rows = np.random.default_rng(0).permutation(count)[: min(count // 3, 10_000)]
  return np.sort(rows)


class Judge:
  """A trained critic and the data set that it knows.

  Attributes:
    fingerprint: of its parameters.
  """

  def __init__(self, settings: Critic, variables: dict[str, Any], data: Data):
    self._model = _network(settings, data)
    self._variables, self._data = variables, data
    self.fingerprint = _digest(*jax.tree.leaves(variables))

  def look(self, images: np.ndarray) -> Seen:
    """Features and probabilities of images, bytes ``[n, 32, 32, channels]``."""
    classifier, _, _ = models.OUTPUT.partition("/")
    params = self._variables["params"]
    found = []
    for start in range(0, len(images), BATCH):
      some = images[start : start + BATCH]
      filled = np.pad(some, [(0, BATCH - len(some)), (0, 0), (0, 0), (0, 0)])
      features = training.features(
        self._model, 1, classifier, params, self._variables["batch_stats"], filled
      )
      found.append(np.asarray(features)[: len(some)])
    features = np.concatenate(found)
    logits = features @ params[classifier]["kernel"] + params[classifier]["bias"]
    return Seen(features, scipy.special.softmax(logits, -1))

  @functools.cached_property
  def reference(self) -> Seen:
    """The test images, which samples are compared with."""
    return self.look(self._data.test.images)

  @functools.cached_property
  def error(self) -> float:
    """Its test error, percent."""
    guesses = self.reference.probabilities.argmax(-1)
    return 100.0 * float(np.mean(guesses != self._data.test.labels))

  @functools.cached_property
  def of_real_images(self) -> Scores:
    """Scores of images that are none of the test images: as good as it gets."""
    images = self._data.train.images[held_out(self._data)]
    return scores(self.reference, self.look(images))

  @functools.cached_property
  def frechet_of_noise(self) -> float:
    """Frechet distance of images whose pixels are independent and uniform."""
    shape = (2000, *self._data.image_shape)
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return frechet_distance(self.reference.features, self.look(noise).features)


def judge(settings: Critic, data: Data) -> Judge:
  """The critic of a data set: from the cache, or trained now.

  Of several processes that need it one trains, and the others wait for its lock. It is
  not told apart by device or version: rounding would make it another one.

  Raises:
    InputError: the cache cannot be written, or what is there cannot be read; or the
      critic diverged.
  """
  folder = cache_folder()
  text = json.dumps(dataclasses.asdict(settings), sort_keys=True)
  path = folder / f"{_digest(text.encode(), data.fingerprint.encode())}.npz"
  if not path.exists():
    make_folder(folder, "the cache of critics")
    with filelock.FileLock(path.with_suffix(".lock")):
      if not path.exists():
        _keep(_trained(settings, data), path)
  return Judge(settings, _kept(path, settings, data), data)


def _keep(variables, path):
  """Complete, or not there."""
  partial = path.with_suffix(".partial")
  with partial.open("wb") as file:
    arrays: dict[str, Any] = {**traverse_util.flatten_dict(variables, sep="/")}
    np.savez(file, allow_pickle=False, **arrays)
  partial.rename(path)


def _kept(path, settings, data):
  """Variables, of the shapes that they are to have."""
  wanted = jax.eval_shape(lambda: _initial(_network(settings, data), data))
  try:
    with path.open("rb") as file, np.load(file) as arrays:
      variables = traverse_util.unflatten_dict(dict(arrays), sep="/")
    if jax.tree.map(np.shape, variables) != jax.tree.map(np.shape, wanted):
      raise ValueError("its arrays are others")
    if not all_finite(variables):
      raise ValueError("its numbers are not finite")
  except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
    raise InputError(
      f"{path} is not a readable critic: {error}. Delete it, and it is trained again."
    ) from error
  return variables


def _initial(model, data):
  image = np.zeros((1, *data.image_shape), np.uint8)
  # Random bits of this kind compile in a fifth of the time.
  params, stats = training.init(model, 1, jax.random.key(0, impl="rbg"), image)
  return {"params": params, "batch_stats": stats}


def cache_folder() -> pathlib.Path:
  """Of critics: in ``XDG_CACHE_HOME``, or ``~/.cache``."""
  root = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  return pathlib.Path(root) / "mhe_jax" / "critics"


def _network(settings, data):
  num_classes = len(data.classes)
  return models.build(settings.model, width=settings.width, num_classes=num_classes)


def _trained(settings, data):
  """Parameters and statistics, NumPy arrays."""
  model = _network(settings, data)
  rate = optax.cosine_decay_schedule(settings.learning_rate, settings.steps)
  warmup = min(100, settings.steps)
  tx = optax.chain(
    optax.add_decayed_weights(5e-4),
    optax.sgd(lambda i: rate(i) * jnp.minimum(1.0, (i + 1) / warmup), momentum=0.9),
  )
  variables = _initial(model, data)
  params, stats = variables["params"], variables["batch_stats"]
  state = training.State(params, stats, tx.init(params), jnp.zeros(()))
  update = training.make_update(model, 1, tx, label_smoothing=0.0, floor=0.0)
  rows = np.setdiff1d(np.arange(len(data.train)), held_out(data))
  for images, labels in training_batches(
    data.train, rows, settings.batch_size, 0, steps=(0, settings.steps),
    augment=settings.augment,
  ):  # fmt: skip
    state = update(state, images, labels)
  variables = {"params": state.params, "batch_stats": state.batch_stats}
  if not all_finite(variables):
    raise InputError(
      "the critic's parameters were no longer finite; critic.learning_rate must be "
      f"smaller than {settings.learning_rate:g}."
    )
  return jax.tree.map(np.asarray, variables)


def _digest(*parts):
  """Of bytes and arrays."""
  digest = hashlib.sha256()
  for part in parts:
    digest.update(part if isinstance(part, bytes) else np.asarray(part).tobytes())
  return digest.hexdigest()[:16]
