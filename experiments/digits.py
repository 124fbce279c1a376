"""A task that several experiments share: a deep, narrow CNN on few digits.

It is that of ``experiments.quickstart``, in parts that can be taken one by one: another
network, another step, another measure. That they are the same is tested.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import mhe_jax
from experiments.data.digits import read_digits
from mhe_jax import LayerRule, Orthonormality, RelativeExcess, Riesz

RULES = [LayerRule("head/kernel", role="output")]
# What is added to the loss, in units of what can be gained: docs/objectives.md.
ARMS = {
  "without": None,
  "energy": RelativeExcess(Riesz(2.0), log=True),
  "orthonormal": RelativeExcess(Orthonormality(), log=True),
}


@dataclasses.dataclass(frozen=True)
class Config:
  """What is trained; the weight is that of the arms that have one.

  How it was chosen says ``experiments.quickstart``.
  """

  learning_rates: tuple[float, ...] = (0.1,)
  depth: int = 15
  width: int = 8
  images_per_class: int = 50
  seeds: tuple[int, ...] = tuple(range(500, 520))
  steps: int = 200
  batch_size: int = 40
  weight: float = 0.1
  measure_every: int = 20


class CNN(nn.Module):
  """Convolutions in three stages, batch norm, a global average, and the classifier."""

  depth: int
  width: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Logits ``[batch, 10]`` of images ``[batch, 14, 14, 1]``."""
    stage = self.depth // 3
    for i in range(self.depth):
      x = self.convolve(i, x, train)
      x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name=f"norm{i}")(x)
      x = nn.relu(x)
      if i + 1 in (stage, 2 * stage):
        x = nn.max_pool(x, (2, 2), (2, 2))
    return nn.Dense(10, name="head")(x.mean((1, 2)))

  def convolve(self, i: int, x: jax.Array, train: bool) -> jax.Array:
    """What convolution i makes of the channels ``[batch, ...]``."""
    del train
    return self.convolution(i)(x)

  def convolution(self, i: int) -> nn.Conv:
    """Convolution i, a module."""
    init = nn.initializers.he_normal()
    return nn.Conv(
      self.width, (3, 3), use_bias=False, kernel_init=init, name=f"conv{i}"
    )


def load_digits() -> tuple[np.ndarray, np.ndarray]:
  """5,000 images ``[5000, 14, 14, 1]``, standardized, and labels 0 to 9."""
  images, labels = read_digits()
  images = images.reshape(-1, 14, 2, 14, 2, 1).mean((2, 4)) / 255.0
  images = (images - images.mean()) / images.std()
  return images.astype(np.float32), labels


def split(labels: np.ndarray, images_per_class: int, seed: int):
  """Indices of the training images of a seed, and of the fixed test images."""
  rng = np.random.default_rng(seed)
  train, test = [], []
  for label in range(10):
    indices = np.flatnonzero(labels == label)
    train.append(rng.permutation(indices[:200])[:images_per_class])
    test.append(indices[200:])
  return np.concatenate(train), np.concatenate(test)


class State(NamedTuple):
  """What a step changes."""

  params: Any
  batch_stats: Any
  opt_state: Any


@functools.partial(jax.jit, static_argnums=0)
def init(model: CNN, key: jax.Array) -> tuple[Any, Any]:
  """Parameters and statistics of batch norm."""
  variables = model.init(key, jnp.zeros((1, 14, 14, 1)))
  return variables["params"], variables["batch_stats"]


def batch_loss(
  model: CNN, params: Any, batch_stats: Any, images: jax.Array, labels: jax.Array
) -> tuple[jax.Array, Any]:
  """Mean loss of a batch in training, and the new statistics of batch norm."""
  logits, new = model.apply(
    {"params": params, "batch_stats": batch_stats},
    images, train=True, mutable=["batch_stats"],
  )  # fmt: skip
  losses = optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(logits), labels)
  return losses.mean(), new["batch_stats"]


def batches(
  rows: np.ndarray, batch_size: int, steps: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
  """The rows of each step's batch: one permutation of all after another."""
  order = np.array([], int)
  for _ in range(steps):
    if len(order) < batch_size:
      order = np.concatenate([order, rng.permutation(rows)])
    batch, order = order[:batch_size], order[batch_size:]
    yield batch


def make_train_step(config: Config, arm: str) -> Callable[..., State]:
  """A compiled ``train_step(state, rate, images, labels)`` of an arm of ARMS."""
  model = CNN(config.depth, config.width)

  @functools.partial(jax.jit, donate_argnums=0)
  def train_step(state, rate, images, labels):
    grads, stats = jax.grad(batch_loss, argnums=1, has_aux=True)(
      model, state.params, state.batch_stats, images, labels
    )
    tx = optimizer(config, arm, rate)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    return State(optax.apply_updates(state.params, updates), stats, opt_state)

  return train_step


def optimizer(
  config: Config, arm: str, rate: jax.typing.ArrayLike
) -> optax.GradientTransformationExtraArgs:
  """SGD with momentum, a warm-up and a cosine; and what the arm adds to the loss."""
  shape = optax.warmup_cosine_decay_schedule(0.0, 1.0, config.steps // 10, config.steps)
  tx = optax.sgd(lambda count: rate * shape(count), momentum=0.9, nesterov=True)
  tx = optax.with_extra_args_support(tx)
  objective = ARMS[arm]
  if objective is None:
    return tx
  # The one line.
  return mhe_jax.with_hyperspherical_energy(tx, config.weight, objective, rules=RULES)


@functools.partial(jax.jit, static_argnums=0)
def evaluate(
  model: CNN, state: State, images: jax.typing.ArrayLike, labels: jax.typing.ArrayLike
) -> tuple[jax.Array, jax.Array]:
  """Error in percent, and loss."""
  variables = {"params": state.params, "batch_stats": state.batch_stats}
  logits = jnp.asarray(model.apply(variables, images))
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  return 100.0 * (logits.argmax(-1) != labels).mean(), losses.mean()


@jax.jit
def excess(params: Any) -> dict[str, jax.Array]:
  """Relative excess of every layer, s = 2."""
  return mhe_jax.layer_excess(params, Riesz(2.0), rules=RULES)
