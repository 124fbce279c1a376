"""Turns of neurons: what an optimizer's step is, and a further one that is bounded."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Step(NamedTuple):
  """A step of an optimizer, of the neurons of sets, seen from the sphere.

  Attributes:
    before: directions before it, ``[*batch, n, d]``; zeros for a neuron of zeros.
    after: the neurons after it, in units of their norms before: ``[*batch, n, d]``.
    growth: squares of the norms of ``after``, ``[*batch, n, 1]``.
    norm: of the neurons before, ``[*batch, n, 1]``.
    turn: root mean square over the neurons of their turns in radians, ``[*batch]``.
  """

  before: jax.Array
  after: jax.Array
  growth: jax.Array
  norm: jax.Array
  turn: jax.Array


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
  # In units of the largest weight of a set, squares are in range. Rows that are zero
  # beside it count as zeros.
  info = jnp.finfo(neurons.dtype)
  largest = jnp.max(jnp.abs(neurons), (-2, -1), keepdims=True)
  largest = jnp.clip(largest, float(info.tiny), float(info.max))
  neurons = neurons / largest
  squares = jnp.sum(neurons**2, -1, keepdims=True)
  inverse_norm = jnp.where(squares > 0.0, jax.lax.rsqrt(squares), 0.0)
  before = neurons * inverse_norm
  relative = jnp.where(jnp.isfinite(updates), updates, 0.0) / largest * inverse_norm
  # Of a neuron that is as good as zero, not its squares overflow.
  relative = jnp.clip(relative, -_LARGEST, _LARGEST)
  along = jnp.sum(relative * before, -1, keepdims=True)
  across = jnp.sum((relative - along * before) ** 2, -1, keepdims=True)
  growth = (1.0 + along) ** 2 + across
  turn = jnp.sqrt(jnp.mean(across / jnp.maximum(growth, 1.0), (-2, -1)))
  return Step(
    before=before,
    after=before + relative,
    growth=jnp.maximum(growth, float(jnp.finfo(growth.dtype).tiny)),
    norm=largest * jnp.sqrt(squares),
    turn=jnp.where(jnp.isfinite(turn), turn, 0.0),
  )


def turn_further(
  step: Step, pull: jax.Array, scale: jax.Array
) -> tuple[jax.Array, jax.Array]:
  r"""An update that turns neurons along a pull, after the step of an optimizer.

  A neuron of direction v after the step is given a vector that is orthogonal to v and
  at most :math:`\varphi` times as long as the neuron was before the step, and is after
  it. That turns it by at most the arctangent of :math:`\varphi`, and adds at most
  :math:`\varphi^2 / 2` of its norm to its norm.

  Args:
    step: of the optimizer.
    pull: ``[*batch, n, d]``; the part of it that is orthogonal to v counts.
    scale: what it is multiplied by, ``[*batch]``, to be :math:`\varphi` long.

  Returns:
    The update ``[*batch, n, d]``, 0 where it would not be finite, and the root mean
    square over the neurons of :math:`\varphi`, ``[*batch]``.
  """
  along = jnp.sum(pull * step.after, -1, keepdims=True) / step.growth
  pull = pull - along * step.after
  turn = scale * jnp.sqrt(jnp.mean(jnp.sum(pull**2, -1), -1))
  length = step.norm * jnp.sqrt(jnp.minimum(step.growth, 1.0))
  update = pull * (length * scale[..., None, None])
  update = jnp.where(jnp.isfinite(update), update, 0.0)
  return update, jnp.where(jnp.isfinite(turn), turn, 0.0)


def pull_of(gradient: jax.Array, directions: jax.Array) -> jax.Array:
  """Where neurons are pulled by a gradient with respect to directions."""
  pull = -jnp.clip(gradient, -_LARGEST, _LARGEST)
  return pull - jnp.sum(pull * directions, -1, keepdims=True) * directions


_LARGEST = 1e15  # Sums of its squares are in the range of float32.
