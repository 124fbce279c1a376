"""A GAN: what the runner is told of it."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import Data, load
from experiments.data.batches import ORDER, training_batches
from experiments.errors import InputError
from experiments.gan import training
from experiments.gan.critic import Critic, Judge, held_out, judge
from experiments.gan.images import encoded, squares, tiled
from experiments.gan.presets import GRID, Config, preset
from experiments.gan.scores import (
  NEIGHBORS,
  Scores,
  classifier_score,
  frechet_distance,
  scores,
  standard_errors,
)
from experiments.models.gan import Discriminator, Generator
from experiments.runs.task import Diverged, Task
from experiments.runs.train import number
from mhe_jax import Riesz, layer_excess

LEAST = 0.01  # Precision and recall of a run that did not collapse.


class Run:
  """A generator and a discriminator in training on a data set.

  Attributes:
    config: its settings.
    state: what an update changes.
  """

  def __init__(self, config: Config, data: Data, critic: Judge):
    self.config, self._data, self._judge = config, data, critic
    network = Discriminator(config.width, config.spectral_norm)
    self._generator = Generator(config.width, data.image_shape[-1])
    self._key = jax.random.key(config.seed)
    optimizers, self._update = _compiled(
      dataclasses.replace(config, seed=0), data.image_shape[-1]
    )
    discriminator, spectral, generator = training.init(
      network, self._generator, self._key
    )
    tx_discriminator, tx_generator = optimizers
    self.state = training.State(
      discriminator,
      spectral,
      generator,
      jax.tree.map(jnp.copy, generator),  # An update consumes both.
      (tx_discriminator.init(discriminator), tx_generator.init(generator)),
      jnp.zeros(2, jnp.float32),
    )

  @property
  def data_source(self) -> dict[str, str]:
    """Where the images are from, a fingerprint, their order, and the critic's print."""
    return {
      "from": self._data.source,
      "fingerprint": self._data.fingerprint,
      "order": ORDER,
      "critic": self._judge.fingerprint,
    }

  def steps(self, first: int, last: int) -> Iterator[int]:
    """Trains; yields the number of each step, ``first + 1`` to ``last``."""
    config = self.config
    batches = training_batches(
      self._data.train, np.arange(len(self._data.train)), config.batch_size,
      config.seed, steps=(first, last), augment=False,
    )  # fmt: skip
    for step, (images, _) in enumerate(batches, first + 1):
      self.state = self._update(self.state, images, self._key, step)
      yield step

  def measure(self, step: int) -> dict:
    """An entry of the history: mean losses since the last, scores, excess, samples.

    The samples are those of the same latents each time: 8, at the end 64, as a JPEG.

    Raises:
      Diverged: losses or parameters are not finite.
    """
    self._check(step)
    config, state = self.config, self.state
    means = np.asarray(state.losses) / config.steps_between if step else [np.nan] * 2
    self.state = state._replace(losses=jnp.zeros(2, jnp.float32))
    images = self._samples(config.curve_samples)
    seen = self._judge.look(images)
    excess = _excess(state.discriminator)
    shown = images[: GRID if step == config.steps else 8]
    return {
      "step": step,
      "discriminator_loss": number(means[0]),
      "generator_loss": number(means[1]),
      "frechet": number(
        frechet_distance(self._judge.reference.features, seen.features)
      ),
      "classifier_score": number(classifier_score(seen.probabilities)),
      "excess": {layer: number(x) for layer, x in excess.items()},
      "samples": encoded(tiled(shown, 8)),
    }

  def _check(self, step):
    # Adam's too: once its moments are infinite, finite parameters stand still.
    if not training.all_finite(self.state):
      raise Diverged(
        "losses, parameters or moments of the optimizer were no longer finite at step "
        f"{step}; try a smaller learning_rate, spectral_norm, or another weight of the "
        "regularizer."
      )

  def final_measures(self) -> dict:
    """Scores of the samples, their standard errors, and scores to compare them with.

    ``frechet``, ``classifier_score``, ``precision`` and ``recall`` of samples against
    the test images; ``real_*`` of held-out training images against these;
    ``noise_frechet`` of noise; the critic's test error in percent. ``collapsed`` is 1
    of a run whose samples are no closer to the test images than noise is, or whose
    precision or recall is less than 1%: whatever its numbers are, it makes no images,
    or a few only.
    """
    seen = self._judge.look(self._samples(self.config.samples))
    reference = self._judge.reference
    found, noise = scores(reference, seen), self._judge.frechet_of_noise
    measures = {
      **_named("", found),
      **_named("error_of_", standard_errors(reference, seen)),
      **_named("real_", self._judge.of_real_images),
      "noise_frechet": noise,
      "critic_error": self._judge.error,
      "collapsed": float(has_collapsed(found, noise)),
    }
    return {name: number(value) for name, value in measures.items()}

  def _samples(self, count):
    """Images of the average generator, bytes ``[count, 32, 32, channels]``.

    Their latents follow from the seed: the first of many are those of few.
    """
    key, params = jax.random.fold_in(self._key, 0), self.state.average  # No step is 0.
    stats = training.statistics(self._generator, params, jax.random.fold_in(key, 0))
    batches = [
      training.sampled(self._generator, params, stats, jax.random.fold_in(key, i + 1))
      for i in range(-(-count // training.BATCH))
    ]
    return np.concatenate(batches)[:count]


def has_collapsed(found: Scores, frechet_of_noise: float) -> bool:
  """Whether a run makes no images, or a few only; see :meth:`Run.final_measures`."""
  far = found.frechet >= frechet_of_noise
  return far or found.precision < LEAST or found.recall < LEAST


def _named(prefix, found):
  names = ("frechet", "classifier_score", "precision", "recall")
  return {f"{prefix}{name}": value for name, value in zip(names, found)}


@jax.jit
def _excess(params):
  """Relative excess of the convolutions, s = 2, in half-space."""
  return layer_excess(params, Riesz(2.0))


@functools.lru_cache(maxsize=64)
def _compiled(config: Config, channels: int):
  """Optimizers and update: one for all seeds, so that it compiles once."""
  optimizers = config.optimizers()
  update = training.make_update(
    Discriminator(config.width, config.spectral_norm),
    Generator(config.width, channels),
    optimizers,
    config.decay,
  )
  return optimizers, update


@functools.lru_cache(maxsize=2)
def _data_and_judge(dataset: str, critic: Critic, data_root: pathlib.Path | None):
  """Of a process: a critic's view of the test images is the same for all runs."""
  data = squares(load(dataset, data_root))
  for images, name in ((data.test, "test"), (held_out(data), "held-out training")):
    if len(images) <= NEIGHBORS:
      raise InputError(
        f"dataset must have more than {NEIGHBORS} {name} images, a third of all but "
        f"the test images being held out, got {len(images)}."
      )
  return data, judge(critic, data)


def start(config: Config, data_root: pathlib.Path | None) -> Run:
  """A run on its data set.

  Raises:
    InputError: of :func:`experiments.data.load`; or there is no place for the critic.
  """
  return Run(config, *_data_and_judge(config.dataset, config.critic, data_root))


def tell(result: dict) -> str:
  """The final scores, in words."""
  text = (
    f"Frechet distance {result['frechet']:.2f} (real images "
    f"{result['real_frechet']:.2f}), precision {result['precision']:.2f}, recall "
    f"{result['recall']:.2f}"
  )
  return f"{text}, collapsed" if result["collapsed"] else text


TASK = Task("experiments.gan", Config, preset, start, tell)
