"""Turns of neurons: what an optimizer's step is, and a further one that is bounded."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mhe_jax.sphere import project


class Step(NamedTuple):
  """A step of an optimizer, of the neurons of sets, seen from the sphere.

  Attributes:
    before: directions before it, ``[*batch, n, d]``; zeros for a neuron of zeros.
    after: directions after it.
    length: the smaller of a neuron's norms before and after it, ``[*batch, n, 1]``.
    turns: of the neurons, in radians, ``[*batch, n, 1]``.
  """

  before: jax.Array
  after: jax.Array
  length: jax.Array
  turns: jax.Array


def step_of(neurons: jax.Array, updates: jax.Array) -> Step:
  r"""The step from ``neurons`` to ``neurons + updates``.

  The turn of a neuron w by an update u is :math:`\lVert u_\perp \rVert / \max(\lVert w
  \rVert, \lVert w + u \rVert)`, with the part of u that is orthogonal to w. It is no
  more than the angle between w and w + u, whose sine is :math:`\lVert u_\perp \rVert /
  \lVert w + u \rVert`, and nearly that where the step is small. A neuron that is
  zeros before or after has no direction, and a turn of 0.

  Args:
    neurons: ``[*batch, n, d]``, float32 or float64.
    updates: likewise; infinities and NaN count as 0.
  """
  before, inverse_norm = project(neurons)
  updates = jnp.where(jnp.isfinite(updates), updates, 0.0)
  relative = updates * inverse_norm
  along = jnp.sum(relative * before, -1, keepdims=True)
  across = jnp.sum((relative - along * before) ** 2, -1, keepdims=True)
  # The norm after the step, in units of that before. Where its square overflows, the
  # neuron was as good as zero.
  growth = jnp.sqrt((1.0 + along) ** 2 + across)
  usable = (inverse_norm > 0.0) & (growth > 0.0) & jnp.isfinite(growth)
  growth = jnp.where(usable, growth, 1.0)
  turns = jnp.where(usable, jnp.sqrt(across) / jnp.maximum(growth, 1.0), 0.0)
  length = jnp.minimum(growth, 1.0) / jnp.where(usable, inverse_norm, 1.0)
  return Step(
    before=before,
    after=jnp.where(usable, (before + relative) / growth, 0.0),
    length=jnp.where(usable, length, 0.0),
    turns=turns,
  )


def turn_further(step: Step, turns: jax.Array) -> tuple[jax.Array, jax.Array]:
  r"""An update that turns neurons after the step of an optimizer.

  A neuron of direction v after the step is given a vector that is orthogonal to v and
  at most :math:`\varphi` times as long as the neuron, before and after the step. That
  turns it by at most the arctangent of :math:`\varphi`, and adds at most
  :math:`\varphi^2 / 2` of its norm to its norm.

  Args:
    step: of the optimizer.
    turns: of each neuron, ``[*batch, n, d]``, a vector that is :math:`\varphi` long; of
      it the part that is orthogonal to v is taken. Neurons with an infinity or NaN in
      theirs are not turned.

  Returns:
    The update ``[*batch, n, d]``, and the root mean square of its turns, ``[*batch]``.
  """
  along = jnp.sum(turns * step.after, -1, keepdims=True)
  turns = turns - along * step.after
  size = jnp.sum(turns**2, -1, keepdims=True)
  usable = jnp.isfinite(size) & jnp.isfinite(step.length)
  update = jnp.where(usable, turns * step.length, 0.0)
  return update, root_mean_square(jnp.sqrt(jnp.where(usable, size, 0.0)))


def across(x: jax.Array, direction: jax.Array) -> jax.Array:
  """The part of vectors that is orthogonal to directions; both ``[..., d]``."""
  return x - jnp.sum(x * direction, -1, keepdims=True) * direction


def root_mean_square(turns: jax.Array) -> jax.Array:
  """Over neurons, ``[*batch, n, 1]``."""
  return jnp.sqrt(jnp.mean(turns**2, (-2, -1)))
