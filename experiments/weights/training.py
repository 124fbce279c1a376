"""Many runs of a network as one program: seeds, weights and forms side by side."""

import dataclasses
import functools
import math
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import mhe_jax
from experiments.environment import environment
from experiments.weights.data import Images
from experiments.weights.forms import energies, regularizer, scales
from experiments.weights.networks import RULES, SIZE, build
from experiments.weights.presets import (
  FORMS,
  LEARNING_RATES,
  OUTPUT,
  Cell,
  Network,
  Training,
)


def train(cell: Cell, images: Images, at_once: int | None = None) -> dict:
  """Trains all runs of a cell.

  Args:
    cell: what is trained.
    images: at least as many as it wants are used.
    at_once: runs that are computed side by side; by default one after the other on a
      CPU, whose cores one fills, and 30 elsewhere.

  Returns:
    What the JSON of the cell holds.
  """
  start = time.perf_counter()
  training = cell.training
  if at_once is None:
    at_once = 1 if jax.default_backend() == "cpu" else 30
  channels = images.images.shape[-1]
  program = _program(cell.network, cell.width, channels, training, at_once)
  shapes = _shapes(cell.network, cell.width, channels)
  arms = training.arms
  weights = np.zeros((len(arms), len(FORMS)), np.float32)
  for row, (form, weight) in zip(weights, arms):
    if form != "none":
      row[FORMS.index(form)] = weight
  seeds = training.seeds
  used = (
    images.images[: training.train_images],
    images.labels[: training.train_images],
    images.test_images[: training.test_images],
    images.test_labels[: training.test_images],
  )
  measured = program(
    np.repeat(weights, len(seeds), 0),
    np.tile(np.array(seeds, np.uint32), len(arms)),
    scales(shapes, cell.s, cell.space, OUTPUT),
    tuple(map(jnp.asarray, used)),
  )
  measured = jax.tree.map(np.asarray, measured)
  runs = [
    {name: _rounded(values[i]) for name, values in measured.items()}
    for i in range(len(arms) * len(seeds))
  ]
  return {
    "command": f"python -m experiments.weights: {cell.name}",
    "config": dataclasses.asdict(cell),
    **environment(),
    "seconds": round(time.perf_counter() - start, 1),
    "data": {"from": images.source, "train": len(used[0]), "test": len(used[2])},
    "layers": {path: list(shape) for path, shape in shapes.items()},
    "arms": [
      {
        "form": form,
        "weight": weight,
        "runs": [
          {"seed": seed, **run} for seed, run in zip(seeds, runs[i * len(seeds) :])
        ],
      }
      for i, (form, weight) in enumerate(arms)
    ],
  }


def _rounded(x):
  """For JSON, which has no NaN: None."""
  if np.ndim(x):
    return [_rounded(value) for value in x]
  return float(f"{x:.5g}") if math.isfinite(x) else None


def _matrices(params):
  return mhe_jax.neuron_matrices(params, RULES)


@functools.cache
def _shapes(network: Network, width: int, channels: int):
  """``{path: (n, d)}`` of the layers."""
  image = jax.ShapeDtypeStruct((1, SIZE, SIZE, channels), np.float32)

  def matrices(key, image):
    variables = build(network, width).init(key, image, train=True)
    return _matrices(variables["params"])

  layers = jax.eval_shape(matrices, jax.random.key(0), image)
  return {path: w.shape for path, w in sorted(layers.items())}


def _optimizer(network: Network, steps: int) -> optax.GradientTransformation:
  rate = LEARNING_RATES[network]
  schedule = optax.warmup_cosine_decay_schedule(0.0, rate, steps // 10, steps)
  if network == "vit":
    return optax.adamw(schedule, weight_decay=0.05)
  sgd = optax.sgd(schedule, momentum=0.9, nesterov=True)
  return optax.chain(optax.add_decayed_weights(5e-4), sgd)


@functools.lru_cache(maxsize=1)
def _program(
  network: Network, width: int, channels: int, training: Training, at_once: int
):
  """A compiled function of all runs: it serves every potential and space."""
  model = build(network, width)
  tx = _optimizer(network, training.steps)

  def floats(images):
    return (images.astype(jnp.float32) - 127.5) / 64.0

  def init(seed):
    image = jnp.zeros((1, SIZE, SIZE, channels), jnp.float32)
    variables = dict(model.init(jax.random.key(seed), image, train=True))
    params = variables.pop("params")
    return params, variables, tx.init(params)

  def run(weights, seed, scales, data):
    images, labels, test_images, test_labels = data

    def loss(params, stats, batch):
      logits, stats = model.apply(
        {"params": params, **stats}, floats(images[batch]), train=True, mutable=True
      )
      losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels[batch])
      energy = regularizer(_matrices(params), scales, weights)
      return losses.mean() + energy, {k: v for k, v in stats.items() if k != "params"}

    def step(state, key):
      params, stats, opt_state = state
      batch = jax.random.randint(key, (training.batch_size,), 0, len(labels))
      gradients, stats = jax.grad(loss, has_aux=True)(params, stats, batch)
      updates, opt_state = tx.update(gradients, opt_state, params)
      return (optax.apply_updates(params, updates), stats, opt_state), None

    def tested(params, stats):
      """Error in percent and loss; the last images that fill no batch are left out."""
      size = min(len(test_labels), 250)
      parts = len(test_labels) // size
      batches = jax.tree.map(
        lambda x: x[: parts * size].reshape(parts, size, *x.shape[1:]),
        (test_images, test_labels),
      )

      def part(batch):
        variables = {"params": params, **stats}
        logits = jnp.asarray(model.apply(variables, floats(batch[0]), train=False))
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch[1])
        return (logits.argmax(-1) != batch[1]).mean() * 100.0, losses.mean()

      return jax.tree.map(jnp.mean, jax.lax.map(part, batches))

    state = init(seed)
    first = _matrices(state[0])
    # The same batches in all runs of a seed.
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1), training.steps)
    (params, stats, _), _ = jax.lax.scan(step, state, keys)
    last = _matrices(params)
    error, loss_ = tested(params, stats)
    initial_error, _ = tested(*state[:2])
    return {
      "test_error": jnp.where(jnp.isfinite(loss_), error, jnp.nan),
      "test_loss": loss_,
      "initial_error": initial_error,
      "excess": energies(last, scales)[1],
      "initial_excess": energies(first, scales)[1],
      "norm_growth": jnp.stack(
        [_mean_norm(last[p]) / _mean_norm(first[p]) for p in sorted(first)]
      ),
    }

  @jax.jit
  def runs(weights, seeds, scales, data):
    return jax.lax.map(
      lambda x: run(x[0], x[1], scales, data),
      (weights, seeds),
      batch_size=min(at_once, len(seeds)) if at_once > 1 else None,
    )

  return runs


def _mean_norm(w):
  return jnp.linalg.norm(w, axis=1).mean()
