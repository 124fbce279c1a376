"""Small encoders that learn from views of digits, and their nearest neighbors."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.features import views
from experiments.features.forms import FORMS, loss_of

# What is tuned: the weight, or InfoNCE's temperature; as many values for each form.
# The ranges were set in trials, on seeds of tuning, around what was best there.
WEIGHTS = {
  "none": [1.0],
  "orthonormality": [0.003, 0.01, 0.03, 0.1, 0.3],
  "decorrelation": [0.1, 0.3, 1.0, 3.0, 10.0],
  "VICReg": [1.0, 3.0, 10.0, 30.0, 100.0],
  "KoLeo": [0.1, 0.3, 1.0, 3.0, 10.0],
  "InfoNCE": [0.05, 0.1, 0.2, 0.4, 0.8],
  "uniformity": [0.1, 0.3, 1.0, 3.0, 10.0],
  "energy": [0.03, 0.1, 0.3, 1.0, 3.0],
}
_COMMON = {"rate": 0.003, "neighbors": 10}
SETTINGS = {
  "cpu": {
    "dimensions": [3, 8, 32],
    "images": [2000, 1000],
    "num_views": 8,
    "width": 64,
    "batch_size": 128,
    "steps": 500,
    "weights": WEIGHTS,
    "tuning_seeds": [100, 101],
    "seeds": [0, 1, 2, 3, 4],
    **_COMMON,
  },
  "smoke": {
    "dimensions": [4],
    "images": [40, 20],
    "num_views": 2,
    "width": 8,
    "batch_size": 8,
    "steps": 3,
    "weights": {form: weights[:2] for form, weights in WEIGHTS.items()},
    "tuning_seeds": [100],
    "seeds": [0, 1, 2],
    **_COMMON,
  },
}


class Encoder(nn.Module):
  """Two hidden layers, and unit features ``[batch, d]`` of pixels."""

  width: int
  d: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    for _ in range(2):
      x = nn.relu(nn.Dense(self.width)(x))
    x = nn.Dense(self.d)(x)
    return x * jax.lax.rsqrt(jnp.sum(x**2, -1, keepdims=True) + 1e-12)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _descend(form, model, rate, params, weight, pixels, rows):
  loss = loss_of(form)
  tx = optax.adam(optax.cosine_decay_schedule(rate, len(rows)))

  def step(carry, of_step):
    params, state = carry

    def of_both(params):
      first, second = jnp.split(model.apply(params, pixels[of_step]), 2)
      return loss(first, second, weight)

    updates, state = tx.update(jax.grad(of_both)(params), state, params)
    return (optax.apply_updates(params, updates), state), None

  (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), rows)
  return params


@functools.partial(jax.jit, static_argnums=0)
def _init(model, key, pixels):
  return model.init(key, pixels)


@functools.partial(jax.jit, static_argnums=0)
def _features(model, params, pixels):
  return model.apply(params, pixels)


def pairs_of_views(
  images: int, num_views: int, batch_size: int, steps: int, rng: np.random.Generator
) -> np.ndarray:
  """Of each step, images and two different views of each: first ones, then second ones.

  Returns:
    Rows of the views of all images, ``[steps, 2 batch_size]``.
  """
  rows = num_views * rng.integers(0, images, (steps, batch_size))
  first = rng.integers(0, num_views, (steps, batch_size))
  second = (first + rng.integers(1, num_views, (steps, batch_size))) % num_views
  return np.concatenate([rows + first, rows + second], 1)


def accuracy(
  known: np.ndarray, labels: np.ndarray, asked: np.ndarray, answers: np.ndarray, k: int
) -> float:
  """Of the most frequent label among the k nearest, in percent.

  Args:
    known: unit features ``[n, d]``.
    labels: of these, below 10.
    asked: unit features of other images.
    answers: their labels.
    k: neighbors.
  """
  nearest = np.argpartition(-(asked @ known.T), k - 1, 1)[:, :k]
  votes = np.eye(10, dtype=int)[labels[nearest]].sum(1)
  return float(100.0 * np.mean(votes.argmax(1) == answers))


def train(
  form: str,
  d: int,
  weight: float,
  seed: int,
  images: list[int],
  num_views: int,
  width: int,
  batch_size: int,
  steps: int,
  rate: float,
  neighbors: int,
) -> float:
  """Trains an encoder without labels; accuracy of its nearest neighbors, in percent.

  Args:
    form: of FORMS.
    d: features.
    weight: what is tuned of the form.
    seed: of parameters and batches.
    images: that are learned from, and that are tried.
    num_views: of each image.
    width: of the hidden layers.
    batch_size: pairs of views.
    steps: of Adam.
    rate: its first learning rate, which falls to nothing as a cosine.
    neighbors: that vote.
  """
  digits = views.load(*images, num_views)
  pixels = digits.views.reshape(-1, digits.views.shape[-1])
  model = Encoder(width, d)
  params = _init(model, jax.random.key(seed), digits.train[:1])
  rng = np.random.default_rng(seed)
  rows = pairs_of_views(images[0], num_views, batch_size, steps, rng)
  params = _descend(form, model, rate, params, np.float32(weight), pixels, rows)
  known, asked = (
    np.asarray(_features(model, params, x)) for x in (digits.train, digits.test)
  )
  return accuracy(known, digits.train_labels, asked, digits.test_labels, neighbors)


def compute(
  d: int,
  weights: dict[str, list[float]],
  tuning_seeds: list[int],
  seeds: list[int],
  **settings: Any,
) -> dict[str, Any]:
  """Every form: tuned on some seeds, and trained on others with what was best.

  Args:
    d: features.
    weights: of each form, what is tried.
    tuning_seeds: on which it is chosen.
    seeds: that are reported.
    **settings: of :func:`train`.

  Returns:
    ``{form: {"tuning": [weights][tuning_seeds], "weight": the best mean of these,
    "accuracy": [seeds]}}`` under ``"forms"``.
  """
  found = {}
  for form in FORMS:
    tuning = [
      [round(train(form, d, weight, seed, **settings), 2) for seed in tuning_seeds]
      for weight in weights[form]
    ]
    best = weights[form][int(np.argmax(np.mean(tuning, 1)))]
    reached = [round(train(form, d, best, seed, **settings), 2) for seed in seeds]
    found[form] = {"tuning": tuning, "weight": best, "accuracy": reached}
  return {"forms": found}
