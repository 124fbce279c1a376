"""Functions of directions: projection to the unit sphere, and gradients through it."""

import functools
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mhe_jax.arrays import compute_dtype


@jax.custom_jvp
def normalize(x: jax.Array) -> jax.Array:
  """Rows of ``x`` projected to the unit sphere, in float32 or better.

  A row whose largest magnitude is below the smallest normal number becomes
  zeros, with zero gradient. NaN or infinity in a row makes the whole row NaN.

  Args:
    x: ``[..., d]``, any real float dtype.

  Returns:
    ``[..., d]`` of dtype float64 (for float64) or float32.
  """
  return project(x)[0]


@normalize.defjvp
def _normalize_jvp(primals, tangents):
  """The tangent (I - u u^T) dw / ||w||, from u, so that w is not read again."""
  (x,), (x_dot,) = primals, tangents
  units = normalize(x)
  # Reverse mode goes from the last line to the first: what overflows, where norms are
  # 1e-30, becomes infinite last of all and not, by a difference of infinities, NaN.
  turn = x_dot.astype(units.dtype) * project(x)[1]
  return units, turn - units * jnp.sum(units * turn, -1, keepdims=True)


def project(x):
  """Unit vectors, and the reciprocals of the norms (0 for a row of zeros).

  As :func:`normalize`, without a rule for derivatives.
  """
  x = x.astype(compute_dtype(x.dtype))
  if x.shape[-1] == 0:
    return x, jnp.zeros_like(x, shape=(*x.shape[:-1], 1))
  # Scaling by the largest magnitude first keeps the squares of rows of norm
  # 1e30 or 1e-30 in range. The scale cancels, so it needs no gradient.
  scale = jax.lax.stop_gradient(jnp.max(jnp.abs(x), -1, keepdims=True))
  tiny = float(jnp.finfo(x.dtype).tiny)
  is_zero = scale < tiny  # False for NaN, which goes through, as infinity does.
  # XLA divides by it with its reciprocal, which it would round to zero below ``tiny``.
  scale = jnp.where(jnp.isinf(scale), scale, jnp.minimum(scale, 1.0 / tiny))
  scale = jnp.where(is_zero, 1.0, scale)
  y = jnp.where(is_zero, 0.0, x) / scale
  squared_norm = jnp.where(is_zero, 1.0, jnp.sum(y * y, -1, keepdims=True))
  inverse_norm = 1.0 / jnp.sqrt(squared_norm)
  return y * inverse_norm, jnp.where(is_zero, 0.0, inverse_norm / scale)


def has_direction(x: jax.Array) -> np.ndarray:
  """Which rows ``[*batch, n]`` of ``[*batch, n, d]`` are not zero, to normalize().

  On the host, where subnormal numbers are what they are.
  """
  w = np.asarray(x).astype(compute_dtype(x.dtype), copy=False)
  # Not >=: NaN is no direction, but not zero.
  return ~(np.max(np.abs(w), -1, initial=0.0) < jnp.finfo(w.dtype).tiny)


def evaluate(
  function: Callable[..., jax.Array],
  neurons: jax.Array,
  *operands: Any,
  axis_name: Hashable | None = None,
) -> jax.Array:
  """A function of the directions of neurons, with a gradient that saturates.

  Args:
    function: of neurons and operands, hashable, to ``[*batch]``; it calls
      :func:`normalize`.
    neurons: ``[*batch, n, d]``, any real float dtype.
    *operands: trees of arrays, that are not differentiated.
    axis_name: axes of :func:`jax.shard_map` over which the rows are sharded; what the
      function returns is the same on all devices.

  Returns:
    What ``function`` returns.
  """
  alone = _Alone(function)
  return evaluate_with_aux(alone, neurons, *operands, axis_name=axis_name)[0]


class _Alone(NamedTuple):
  """A function without auxiliary data, hashable."""

  function: Callable[..., jax.Array]

  def __call__(self, *arguments):
    return self.function(*arguments), ()


# Jitted here, so that eager calls are fast, and a network traces each distinct
# shape once: jit caches the inner trace.
@functools.partial(jax.jit, static_argnums=0, static_argnames="axis_name")
def evaluate_with_aux(
  function: Callable[..., tuple[jax.Array, Any]],
  neurons: jax.Array,
  *operands: Any,
  axis_name: Hashable | None = None,
) -> tuple[jax.Array, Any]:
  """As :func:`evaluate`, of a function that returns auxiliary data, too.

  These, a tree of floating-point arrays, are constants to derivatives.
  """
  return _saturating(function, axis_name, neurons, operands)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _saturating(function, axis_name, neurons, operands):
  del axis_name
  return function(neurons, *operands)


@_saturating.defjvp
def _saturating_jvp(function, axis_name, primals, tangents):
  """The tangent <gradient, dw>, with a gradient that is saturated where it overflows.

  Coincident neurons, or neurons of norm 1e-30, can have gradients that float16, or
  even float32, cannot hold. An infinity there would become NaN in the next update.
  """
  (neurons, operands), (tangent, _) = primals, tangents
  dtype = compute_dtype(neurons.dtype)
  value, pullback, aux = jax.vjp(
    lambda neurons: function(neurons, *operands), neurons.astype(dtype), has_aux=True
  )
  (gradient,) = pullback(jnp.ones_like(value))
  largest = float(jnp.finfo(neurons.dtype).max)
  gradient = jnp.clip(gradient, -largest, largest)
  turn = jnp.sum(gradient * tangent.astype(dtype), (-2, -1))
  turn = turn if axis_name is None else jax.lax.psum(turn, axis_name)
  return (value, aux), (turn, jax.tree.map(jnp.zeros_like, aux))
