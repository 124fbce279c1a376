"""Points of least value on a sphere, within an objective: its adversaries."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from mhe_jax.sphere import normalize


def descend(
  function: Callable[[jax.Array], jax.Array],
  start: jax.Array,
  num_steps: int,
  num_axes: int,
) -> jax.Array:
  """Unit vectors of little value, a given number of steps of steepest descent away.

  Each step turns by an angle of its own, whatever the scale of the function: half a
  radian at first, and four fifths of the one before from then on. All together can
  turn by 2.5, and end within four times the last.

  Args:
    function: of such vectors, ``[*batch, *shape]`` to ``[*batch]``.
    start: ``[*batch, *shape]``, of any norm.
    num_steps: how many.
    num_axes: of ``shape``, whose numbers together are one vector.

  Returns:
    Vectors ``[*batch, *shape]``, constants to derivatives. That is what they are to
    the derivative of the least value, where they have it.
  """

  def unit(x):
    flat = x.reshape(*x.shape[: x.ndim - num_axes], -1)
    return normalize(flat).reshape(x.shape)

  def step(x, angle):
    gradient = jax.grad(lambda x: jnp.sum(function(x)))(x)
    axes = tuple(range(-num_axes, 0))
    radial = jnp.sum(unit(gradient) * x, axes, keepdims=True)
    return unit(x - angle * unit(unit(gradient) - radial * x)), None

  angles = 0.5 * 0.8 ** jnp.arange(num_steps, dtype=start.dtype)
  end, _ = jax.lax.scan(step, jax.lax.stop_gradient(unit(start)), angles)
  return jax.lax.stop_gradient(end)
