"""Compiled functions of training: networks are hashable, so each compiles once."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax


class State(NamedTuple):
  """What an update changes.

  Attributes:
    params: parameters.
    batch_stats: statistics of batch normalization.
    opt_state: of the optimizer.
    loss: sum of the losses of the batches since it was last set to 0.
  """

  params: Any
  batch_stats: Any
  opt_state: Any
  loss: jax.Array


def standardize(images: jax.typing.ArrayLike, shrink: int) -> jax.Array:
  """Images of bytes to about -1 to 1, squares of pixels averaged into one.

  Args:
    images: ``[batch, height, width, channels]``, 0 to 255.
    shrink: side of the squares.
  """
  x = (jnp.asarray(images, jnp.float32) - 127.5) / 128.0
  return nn.avg_pool(x, (shrink, shrink), (shrink, shrink))


@functools.partial(jax.jit, static_argnums=(0, 1))
def init(model: nn.Module, shrink: int, key: jax.Array, images: jax.typing.ArrayLike):
  """Parameters and statistics of a new network."""
  variables = model.init(key, standardize(images, shrink))
  return variables["params"], variables.get("batch_stats", {})


def rounded_otherwise(params: Any, seed: int) -> Any:
  """Every parameter moved to one of the two numbers next to it, at random."""
  leaves, structure = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(seed), len(leaves))
  moved = [
    jnp.nextafter(
      x, jnp.where(jax.random.bernoulli(key, shape=x.shape), 1, -1) * jnp.inf
    )
    for key, x in zip(keys, leaves)
  ]
  return jax.tree.unflatten(structure, moved)


def cross_entropy(logits: jax.Array, targets: jax.Array, floor: float) -> jax.Array:
  """The mean of ``-sum(targets * log(softmax(logits) + floor))``.

  Args:
    logits: ``[batch, classes]``.
    targets: likewise, rows that sum to 1.
    floor: 0, or the authors' 1e-4, below which a probability does not count.
  """
  if not floor:
    return optax.softmax_cross_entropy(logits, targets).mean()
  return -jnp.sum(targets * jnp.log(jax.nn.softmax(logits) + floor), -1).mean()


def make_update(
  model: nn.Module,
  shrink: int,
  tx: optax.GradientTransformationExtraArgs,
  label_smoothing: float,
  floor: float,
) -> Callable[[State, jax.typing.ArrayLike, jax.typing.ArrayLike], State]:
  """A compiled ``update(state, images, labels)``, which consumes the state."""

  @functools.partial(jax.jit, donate_argnums=0)
  def update(state, images, labels):
    def loss(params):
      logits, new = model.apply(
        {"params": params, "batch_stats": state.batch_stats},
        standardize(images, shrink),
        train=True,
        mutable=["batch_stats"],
      )
      targets = jax.nn.one_hot(labels, jnp.shape(logits)[-1])
      targets = optax.smooth_labels(targets, label_smoothing)
      loss = cross_entropy(jnp.asarray(logits), targets, floor)
      return loss, new.get("batch_stats", {})

    (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return State(params, stats, opt_state, state.loss + value)

  return update


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def features(
  model: nn.Module,
  shrink: int,
  classifier: str,
  params: Any,
  batch_stats: Any,
  images: jax.typing.ArrayLike,
) -> jax.Array:
  """What the classifier, the layer of that name, is given: ``[batch, features]``."""
  seen = []

  def look(call, arguments, options, context):
    if context.module.name == classifier:
      seen.append(arguments[0])
    return call(*arguments, **options)

  with nn.intercept_methods(look):
    variables = {"params": params, "batch_stats": batch_stats}
    model.apply(variables, standardize(images, shrink))
  (x,) = seen
  return x


@functools.partial(jax.jit, static_argnums=(0, 1))
def evaluate(
  model: nn.Module,
  shrink: int,
  params: Any,
  batch_stats: Any,
  images: jax.typing.ArrayLike,
  labels: jax.typing.ArrayLike,
) -> tuple[jax.Array, jax.Array]:
  """Errors (bool) and losses of a batch; of rows with label -1, False and 0."""
  variables = {"params": params, "batch_stats": batch_stats}
  logits = jnp.asarray(model.apply(variables, standardize(images, shrink)))
  losses = optax.softmax_cross_entropy_with_integer_labels(
    logits, jnp.maximum(jnp.asarray(labels), 0)
  )
  real = jnp.asarray(labels) >= 0
  return real & (logits.argmax(-1) != labels), jnp.where(real, losses, 0.0)
