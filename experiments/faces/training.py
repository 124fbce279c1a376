"""Compiled functions of training: networks and settings are hashable."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.faces.energy import Energy
from experiments.faces.heads import Head
from experiments.models.faces import SphereFace
from mhe_jax import Riesz, hyperspherical_energy, nearest_neurons
from mhe_jax.sphere import normalize


class State(NamedTuple):
  """What an update changes.

  Attributes:
    params: ``{"network": ..., "score": {"kernel": [features, classes]}}``.
    opt_state: of the optimizer.
    loss: sum of the losses of the batches, the energy not among them, since it was last
      set to 0.
    failed: the first step whose loss was not finite; 0 if none was.
  """

  params: Any
  opt_state: Any
  loss: jax.Array
  failed: jax.Array


def as_floats(images: jax.typing.ArrayLike) -> jax.Array:
  """Bytes to -1 to 1."""
  return jnp.asarray(images, jnp.float32) / 127.5 - 1.0


def init(
  model: SphereFace, num_classes: int, key: jax.Array, images: jax.typing.ArrayLike
) -> dict:
  """Parameters of a new network and new class weights."""
  network_key, class_key = jax.random.split(key)
  shape = (model.features, num_classes)
  kernel = jax.nn.initializers.glorot_uniform()(class_key, shape, jnp.float32)
  return {
    "network": _init_network(model, network_key, images),
    "score": {"kernel": kernel},
  }


@functools.partial(jax.jit, static_argnums=0)
def _init_network(model, key, images):
  """Compiled once, however many classes there are."""
  return model.init(key, as_floats(images))["params"]


def features_of(
  model: SphereFace, params: Any, images: jax.typing.ArrayLike
) -> jax.Array:
  """What the network makes of images of bytes, ``[batch, features]``."""
  return jnp.asarray(model.apply({"params": params["network"]}, as_floats(images)))


def cosines_and_norms(params: Any, features: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Of features and class weights ``[batch, classes]``; of the features ``[batch]``."""
  units = normalize(features)
  classes = normalize(params["score"]["kernel"].T)
  cosines = jnp.matmul(units, classes.T, precision="highest")
  # The gradient of a norm is the direction, of a feature of zeros too.
  norms = jnp.sum(features * jax.lax.stop_gradient(units), -1)
  return cosines, norms


def make_update(
  model: SphereFace,
  head: Head,
  energy: Energy,
  steps: int,
  tx: optax.GradientTransformationExtraArgs,
) -> Callable[..., State]:
  """A compiled ``update(state, images, labels, step)``, which consumes the state.

  Args:
    model: the network.
    head: the margin.
    energy: of the class weights.
    steps: of the whole run, for the schedules of both.
    tx: optimizer.
  """

  @functools.partial(jax.jit, donate_argnums=0)
  def update(state, images, labels, step):
    def total(params):
      cosines, norms = cosines_and_norms(params, features_of(model, params, images))
      logits = head.logits(cosines, norms, labels, step - 1)
      losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
      loss = losses.mean()
      weight = energy.weight_at(step - 1, steps).astype(loss.dtype)
      return loss + weight * energy(params["score"]["kernel"].T, labels), loss

    (value, loss), grads = jax.value_and_grad(total, has_aux=True)(state.params)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    fails = ~jnp.isfinite(value) & (state.failed == 0)
    failed = jnp.where(fails, step, state.failed)
    return State(params, opt_state, state.loss + loss, failed)

  return update


@functools.partial(jax.jit, static_argnums=0)
def embed(model: SphereFace, params: Any, images: jax.typing.ArrayLike) -> jax.Array:
  """Directions of the mean of an image's features and its mirror's.

  Returns:
    ``[batch, features]``, of norm 1.
  """
  images = jnp.asarray(images)
  mirrored = images[:, :, ::-1]
  return normalize(
    features_of(model, params, images) + features_of(model, params, mirrored)
  )


@functools.partial(jax.jit, static_argnums=0)
def classify(model: SphereFace, params: Any, images: jax.typing.ArrayLike) -> jax.Array:
  """The class whose weights are closest, ``[batch]``; there is no margin."""
  cosines, _ = cosines_and_norms(params, features_of(model, params, images))
  return cosines.argmax(-1)


class Classes(NamedTuple):
  """What the class weights look like.

  Attributes:
    energy: with s = 2, whatever was trained with.
    smallest: angle between two of them, in degrees.
    nearest: mean over the classes of the angle to the nearest other one.
    finite: whether all parameters are finite, those of the network too.
  """

  energy: jax.Array
  smallest: jax.Array
  nearest: jax.Array
  finite: jax.Array


@jax.jit
def look(params: Any) -> Classes:
  """At the class weights."""
  neurons = params["score"]["kernel"].T
  angles = jnp.rad2deg(nearest_neurons(neurons)[0][:, 0])
  finite = jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(params)])
  energy = hyperspherical_energy(neurons, Riesz(2.0))
  return Classes(energy, angles.min(), angles.mean(), finite.all())


def mean_angle(neurons: np.ndarray) -> float:
  """Over all pairs, in degrees; some rows at a time, for there may be many.

  Args:
    neurons: ``[n, d]``.
  """
  units = np.asarray(neurons, np.float64)
  units = units / np.linalg.norm(units, axis=1, keepdims=True)
  total = 0.0
  for first in range(0, len(units), 1000):
    cosines = np.clip(units[first : first + 1000] @ units.T, -1.0, 1.0)
    rows = np.arange(len(cosines))
    cosines[rows, first + rows] = 1.0  # The angle with itself is 0.
    total += np.arccos(cosines).sum()
  return float(np.degrees(total / (len(units) * (len(units) - 1))))
