"""What is trained: the CNN of experiments.quickstart, and the excess of its layers.

The excess is a metric of the training step. With the energy it is what the loss is made
of; without, it is evaluated for the log alone.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.quickstart import training as quickstart
from experiments.quickstart.training import CNN, RULES, State
from mhe_jax import RelativeExcess, Riesz, layer_energies

Arm = Literal["without", "energy"]
ARMS: tuple[Arm, ...] = get_args(Arm)
RATE = 0.1  # Of experiments.quickstart.
SETTINGS: dict[str, dict[str, Any]] = {
  "full": {
    "depth": 15, "width": 8, "images_per_class": 50, "steps": 200, "every": 5,
    "seeds": [800, 801, 802, 803, 804],
  },
  "smoke": {
    "depth": 3, "width": 4, "images_per_class": 4, "steps": 5, "every": 3,
    "seeds": [800, 801],
  },
}  # fmt: skip
_OBJECTIVE = RelativeExcess(Riesz(2.0), log=True)


def config_of(depth: int, width: int, steps: int) -> quickstart.Config:
  """Of the network, its optimizer and the weight; the rest is not used here."""
  return quickstart.Config(
    learning_rates=(RATE,), depth=depth, width=width, steps=steps
  )


@functools.cache  # To be compiled once, for training and for timing.
def make_train_step(
  config: quickstart.Config, arm: Arm, *, logged: bool = True
) -> Callable[..., tuple[State, dict[str, jax.Array]]]:
  """A compiled ``train_step(state, images, labels)``: the new state and the metrics.

  Args:
    config: of :func:`config_of`.
    arm: with the energy in the loss or without.
    logged: whether there are metrics: the excess of every layer at the parameters
      before the step.
  """
  model = CNN(config.depth, config.width)
  tx = quickstart.optimizer(config, "without", RATE)

  @jax.jit
  def train_step(state, images, labels):
    def loss(params):
      total, stats = quickstart.batch_loss(
        model, params, state.batch_stats, images, labels
      )
      values = {}
      if arm == "energy":
        values = layer_energies(params, _OBJECTIVE, rules=RULES)
        total = total + config.weight * sum(value for value in values.values())
      elif logged:
        # Only looked at: no gradient is to be prepared.
        values = layer_energies(jax.lax.stop_gradient(params), _OBJECTIVE, rules=RULES)
      # The objective is log(1 + excess).
      excess = {path: jnp.expm1(value) for path, value in values.items()}
      return total, (stats, excess if logged else {})

    grads, (stats, metrics) = jax.grad(loss, has_aux=True)(state.params)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return State(params, stats, opt_state), metrics

  return train_step


def new_state(config: quickstart.Config, seed: int) -> State:
  """What is trained, at its initialization."""
  params, stats = quickstart.init(CNN(config.depth, config.width), jax.random.key(seed))
  tx = quickstart.optimizer(config, "without", RATE)
  return State(params, stats, tx.init(params))


def compute(
  depth: int,
  width: int,
  images_per_class: int,
  steps: int,
  every: int,
  seeds: list[int],
  on_run: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
  """Trains on handwritten digits, with the energy and without.

  Args:
    depth: convolutions of the network.
    width: their channels.
    images_per_class: that are trained on.
    steps: of training.
    every: how many steps it is from one log to the next; the last step is logged, too.
    seeds: of images, initialization and order of the data.
    on_run: is called after every run.

  Returns:
    ``{"steps": [logged], "runs": {arm: [{"seed": seed, "test_error": percent,
    "excess": {path: [excess at each logged step]}}]}}``, seeds in their order.
  """
  config = config_of(depth, width, steps)
  images, labels = quickstart.load_digits()
  logged = [s for s in range(steps) if s % every == 0 or s == steps - 1]
  runs = {arm: [] for arm in ARMS}
  for arm in ARMS:
    train_step = make_train_step(config, arm, logged=True)
    for seed in seeds:
      split = quickstart.split(labels, images_per_class, seed)
      runs[arm].append(_train(config, train_step, images, labels, split, seed, logged))
      on_run()
  return {"steps": logged, "runs": runs}


def _train(config, train_step, images, labels, split, seed, logged):
  """One run, with the images, initialization and order of experiments.quickstart."""
  train_rows, test_rows = split
  rng = np.random.default_rng(1000 + seed)
  state, history = new_state(config, seed), []
  of_steps = quickstart.batches(train_rows, config.batch_size, config.steps, rng)
  for step, batch in enumerate(of_steps):
    state, metrics = train_step(state, images[batch], labels[batch])
    if step in logged:
      history.append(jax.device_get(metrics))
  error, _ = quickstart.evaluate(
    CNN(config.depth, config.width), state, images[test_rows], labels[test_rows]
  )
  return {
    "seed": seed,
    "test_error": round(float(error), 3),
    "excess": {
      path: [round(float(metrics[path]), 4) for metrics in history]
      for path in history[0]
    },
  }
