"""Turns of neurons: what an optimizer's step is, and a further one that is bounded."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mhe_jax.sphere import normalize


class Step(NamedTuple):
  """A step of an optimizer, of the neurons of a set, seen from the sphere.

  Attributes:
    before: directions before it, ``[*batch, n, d]``; zeros for a neuron of zeros.
    after: directions after it.
    length: the smaller of a neuron's norms before and after it, ``[*batch, n, 1]``.
    turn: root mean square over the neurons of their turns in radians, ``[*batch]``.
  """

  before: jax.Array
  after: jax.Array
  length: jax.Array
  turn: jax.Array


def step_of(neurons: jax.Array, updates: jax.Array) -> Step:
  r"""The step from ``neurons`` to ``neurons + updates``.

  The turn of a neuron w by an update u is :math:`\lVert u_\perp \rVert / \max(\lVert w
  \rVert, \lVert w + u \rVert)`, with the part of u that is orthogonal to w. It is no
  more than the angle between w and w + u, whose sine is :math:`\lVert u_\perp \rVert /
  \lVert w + u \rVert`, and nearly that where the step is small. A neuron that is
  zeros before or after has no direction, and a turn of 0.

  A set with an infinity or NaN in its neurons or updates has a turn of 0.

  Args:
    neurons: ``[*batch, n, d]``, float32 or float64.
    updates: likewise.
  """
  finite = jnp.all(jnp.isfinite(updates), (-2, -1), keepdims=True)
  updates = jnp.where(finite, updates, 0.0)
  before, after = normalize(neurons), neurons + updates
  norm, norm_after = norm_of(neurons), norm_of(after)
  turns = divide(norm_of(across(updates, before)), jnp.maximum(norm, norm_after))
  turns = jnp.where((norm > 0.0) & (norm_after > 0.0), turns, 0.0)
  turn = root_mean_square(turns)
  return Step(
    before=before,
    after=divide(after, norm_after),
    length=jnp.minimum(norm, norm_after),
    turn=jnp.where(jnp.isfinite(turn), turn, 0.0),
  )


def further(
  step: Step, pull: jax.Array, turn: jax.Array
) -> tuple[jax.Array, jax.Array]:
  r"""An update that turns neurons along a pull, after the step of an optimizer.

  A neuron of direction v after the step is given a vector that is orthogonal to v, at
  most :math:`\varphi` times as long as the neuron, which turns it by at most the
  arctangent of :math:`\varphi`; the root mean square of all :math:`\varphi` is ``turn``.

  Args:
    step: of the optimizer.
    pull: of each neuron, ``[*batch, n, d]``: in which direction it is to be turned, and
      how far compared with others. None, where it is not finite.
    turn: root mean square of the turns to be, in radians, ``[*batch]``.

  Returns:
    The update ``[*batch, n, d]``, and the root mean square of its turns, ``[*batch]``:
    at most ``turn``.
  """
  rows = pull.shape[-2]
  pull = divide(pull, norm_of(pull, (-2, -1))) * (turn * rows**0.5)[..., None, None]
  turns = across(pull, step.after)
  update = turns * step.length
  finite = jnp.all(jnp.isfinite(update), (-2, -1), keepdims=True)
  update, turns = (jnp.where(finite, x, 0.0) for x in (update, turns))
  return update, root_mean_square(norm_of(turns))


def across(x: jax.Array, direction: jax.Array) -> jax.Array:
  """The part of vectors that is orthogonal to directions; both ``[..., d]``."""
  return x - jnp.sum(x * direction, -1, keepdims=True) * direction


def norm_of(x: jax.Array, axes: tuple[int, ...] | int = -1) -> jax.Array:
  """Norms over axes, which are kept; without overflow of the squares."""
  largest = jnp.max(jnp.abs(x), axes, keepdims=True)
  return largest * jnp.sqrt(jnp.sum(divide(x, largest) ** 2, axes, keepdims=True))


def divide(x: jax.Array, norm: jax.Array) -> jax.Array:
  """``x / norm``; 0 where the norm is, or is too small or large to be divided by."""
  info = jnp.finfo(norm.dtype)
  usable = (norm >= float(info.tiny)) & (norm <= float(info.max))
  return jnp.where(usable, x / jnp.where(usable, norm, 1.0), 0.0)


def root_mean_square(turns: jax.Array) -> jax.Array:
  """Over the neurons ``[*batch, n, 1]``."""
  return jnp.sqrt(jnp.mean(turns**2, (-2, -1)))
