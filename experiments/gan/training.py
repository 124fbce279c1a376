"""Compiled functions of a GAN: networks are hashable, so each compiles once."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.gan.images import from_bytes, to_bytes
from experiments.models.gan import LATENT, SIDE, Discriminator, Generator

BATCH = 500  # Images that are made at a time, for scores.
STANDING = 1000  # Images whose statistics batch normalization has then.


class State(NamedTuple):
  """What an update changes.

  Attributes:
    discriminator: its parameters.
    spectral: statistics of its spectral normalization: a vector and a number a layer.
    generator: its parameters. Batch normalization has those of the batch in training
      and those of :func:`statistics` for scores, hence no state.
    average: exponential moving average of the generator's parameters.
    optimizers: states of both optimizers, the discriminator's first.
    losses: sums of both losses since they were last set to 0, ``[2]``.
  """

  discriminator: Any
  spectral: Any
  generator: Any
  average: Any
  optimizers: tuple[Any, Any]
  losses: jax.Array


@functools.partial(jax.jit, static_argnums=(0, 1))
def init(
  discriminator: Discriminator, generator: Generator, key: jax.Array
) -> tuple[Any, Any, Any]:
  """Parameters and spectral statistics of a discriminator; a generator's parameters."""
  first, second = jax.random.split(key)
  images = jnp.zeros((1, SIDE, SIDE, generator.channels), jnp.float32)
  variables = discriminator.init(first, images)
  params = generator.init(second, jnp.zeros((1, LATENT), jnp.float32))["params"]
  return variables["params"], variables.get("batch_stats", {}), params


def latents(key: jax.Array, count: int) -> jax.Array:
  """Standard normal, ``[count, 128]``."""
  return jax.random.normal(key, (count, LATENT), jnp.float32)


def discriminator_loss(
  discriminator: Discriminator,
  params: Any,
  spectral: Any,
  real: jax.Array,
  fake: jax.Array,
) -> tuple[jax.Array, Any]:
  """Loss, and the spectral statistics after one more step of their power iteration.

  Both halves go through the network at once, so that an update makes one step.
  """
  logits, new = discriminator.apply(
    {"params": params, "batch_stats": spectral},
    jnp.concatenate([real, fake]),
    update_stats=True,
    mutable=["batch_stats"],
  )
  on_real, on_fake = jnp.split(jnp.asarray(logits), [len(real)])
  loss = jax.nn.softplus(-on_real).mean() + jax.nn.softplus(on_fake).mean()
  return loss, new.get("batch_stats", {})


def generated(generator: Generator, params: Any, z: jax.Array) -> jax.Array:
  """Images as in training: batch normalization has the statistics of the batch."""
  images, _ = generator.apply(
    {"params": params}, z, train=True, mutable=["batch_stats"]
  )
  return images


def kept(decay: float, step: jax.typing.ArrayLike) -> jax.Array:
  """How much of the average a step keeps: ``decay``, and less at first.

  Or it would keep what training began with, for ``1 / (1 - decay)`` steps.

  Args:
    decay: at last.
    step: number of the step, from 1 on.
  """
  return jnp.minimum(decay, step / (step + 9))


def make_update(
  discriminator: Discriminator,
  generator: Generator,
  optimizers: tuple[
    optax.GradientTransformationExtraArgs, optax.GradientTransformationExtraArgs
  ],
  decay: float,
) -> Callable[[State, jax.typing.ArrayLike, jax.Array, jax.typing.ArrayLike], State]:
  """A compiled ``update(state, images, key, step)``, which consumes the state.

  A step of the discriminator, then one of the generator, on other latents.

  Args:
    discriminator: network.
    generator: network.
    optimizers: of both; that of the discriminator has the regularizer.
    decay: of the average; see :func:`kept`.
  """
  tx_discriminator, tx_generator = optimizers

  @functools.partial(jax.jit, donate_argnums=0)
  def update(state, images, key, step):
    real = from_bytes(images)
    first, second = jax.random.split(jax.random.fold_in(key, step))
    fake = generated(generator, state.generator, latents(first, len(real)))

    def loss_of_discriminator(params):
      return discriminator_loss(discriminator, params, state.spectral, real, fake)

    (loss_d, spectral), grads = jax.value_and_grad(loss_of_discriminator, has_aux=True)(
      state.discriminator
    )
    updates, opt_d = tx_discriminator.update(
      grads, state.optimizers[0], state.discriminator
    )
    params = optax.apply_updates(state.discriminator, updates)

    def loss_of_generator(params_g):
      fake = generated(generator, params_g, latents(second, len(real)))
      variables = {"params": params, "batch_stats": spectral}
      # The statistics stay: the discriminator is not the one that learns.
      logits = discriminator.apply(variables, fake, update_stats=False)
      return jax.nn.softplus(-jnp.asarray(logits)).mean()

    loss_g, grads = jax.value_and_grad(loss_of_generator)(state.generator)
    updates, opt_g = tx_generator.update(grads, state.optimizers[1], state.generator)
    params_g = optax.apply_updates(state.generator, updates)
    change = 1.0 - kept(decay, step)
    average = optax.incremental_update(params_g, state.average, change)
    losses = state.losses + jnp.stack([loss_d, loss_g])
    return State(params, spectral, params_g, average, (opt_d, opt_g), losses)

  return update


@functools.partial(jax.jit, static_argnums=0)
def statistics(generator: Generator, params: Any, key: jax.Array) -> Any:
  """Of batch normalization, for making images one by one: of 1,000 latents.

  An average of parameters needs its own: averages over time of the statistics that its
  terms had are those of other networks. So they are computed anew, layer by layer, in
  one pass, as *standing statistics* (Brock et al., Large Scale GAN Training, ICLR 2019,
  section 4). With a momentum of 0, running averages are those of that batch.
  """
  fresh = generator.clone(momentum=0.0)
  _, new = fresh.apply(
    {"params": params}, latents(key, STANDING), train=True, mutable=["batch_stats"]
  )
  return new["batch_stats"]


@functools.partial(jax.jit, static_argnums=0)
def sampled(generator: Generator, params: Any, stats: Any, key: jax.Array) -> jax.Array:
  """500 images, bytes, by parameters and their :func:`statistics`."""
  variables = {"params": params, "batch_stats": stats}
  return to_bytes(jnp.asarray(generator.apply(variables, latents(key, BATCH))))


@jax.jit
def all_finite(tree: Any) -> jax.Array:
  """Whether every number of a tree is."""
  leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
  return jnp.stack([jnp.isfinite(x).all() for x in leaves]).all()
