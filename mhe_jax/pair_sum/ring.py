"""Sums over pairs whose rows are sharded over devices, in O(N d / D) memory of each.

The schedule: the devices stand in a ring, and each sends its block of rows on, half
round. On the way every device meets every block of the half behind it, and the block
the pull of those it has met; at the end that is sent home. So every pair is computed
once, by one of the devices of its rows: N^2 / 2D pairs each.

With an even number of devices those opposite each other meet twice, and compute two
of the four quarters of their pairs each.
"""

import functools
from collections.abc import Hashable
from typing import Any

import jax
import jax.numpy as jnp

from mhe_jax.pair_sum import tiles
from mhe_jax.pair_sum.layout import block_size_of, map_sets
from mhe_jax.pair_sum.mask import Mask
from mhe_jax.pair_sum.tiled import add, fold_between, no_sums, sum_tiles

AxisName = Hashable  # Or a tuple of them.


def pair_sums(
  axis_name: AxisName,
  energy: tiles.CosineEnergy,
  units: jax.Array,
  mask: Mask = Mask(),
  *,
  block_size: int | None = None,
  with_gradient: bool,
) -> tuple[jax.Array, jax.Array | None]:
  """As :func:`mhe_jax.pair_sum.tiled.pair_sums`, of the rows of all devices.

  Args:
    axis_name: axes of the mesh, of :func:`jax.shard_map`.
    energy: of a pair.
    units: unit vectors of this device ``[*batch, n, d]``; all have as many.
    mask: of these rows.
    block_size: most rows of a tile.
    with_gradient: if not, the gradient is ``None``.

  Returns:
    The sums ``[*batch]``, on all devices the same, and gradients ``[*batch, n, d]``
    for the rows of this device.
  """
  *batch, n, _ = units.shape
  size, at_once = block_size_of(n, block_size)
  function = functools.partial(
    _go_round, axis_name, energy, size, with_gradient=with_gradient
  )
  value, gradient = map_sets(function, (units, mask), tuple(batch), at_once)
  return psum(value, axis_name), gradient


def psum(x: Any, axis_name: AxisName | None) -> Any:
  """The sum over the devices, if there is an axis of them."""
  return x if axis_name is None else jax.lax.psum(x, axis_name)


def num_devices(axis_name: AxisName | None) -> int:
  """How many devices there are along these axes."""
  return 1 if axis_name is None else jax.lax.axis_size(axis_name)


def numbers(own: jax.Array, count: int, axis_name: AxisName | None) -> jax.Array:
  """Numbers among all devices, of things of which each device has ``count``."""
  if axis_name is None:
    return own
  return own + count * jax.lax.axis_index(axis_name).astype(own.dtype)


def num_rows(units: jax.Array, axis_name: AxisName | None) -> Any:
  """The number of rows of a set, of all devices."""
  return units.shape[-2] * num_devices(axis_name)


def gather(x: jax.Array, axis_name: AxisName | None, axis: int = 0) -> jax.Array:
  """What the devices have, along one axis, on all of them.

  A sum and not ``all_gather``, after which all devices have the same, but its type
  denies it.
  """
  if axis_name is None:
    return x
  size, me = num_devices(axis_name), jax.lax.axis_index(axis_name)
  dtype = jnp.int32 if x.dtype == jnp.bool_ else x.dtype
  every = jnp.zeros((size, *x.shape), dtype).at[me].set(x.astype(dtype))
  every = jnp.moveaxis(jax.lax.psum(every, axis_name), 0, axis)
  shape = (*x.shape[:axis], size * x.shape[axis], *x.shape[axis + 1 :])
  return every.reshape(shape).astype(x.dtype)


def gather_mask(mask: Mask, axis_name: AxisName | None) -> Mask:
  """The mask of the rows of all devices: N numbers, where the rows are N d."""
  return jax.tree.map(lambda x: gather(x, axis_name, x.ndim - 1), mask)


def gather_rows(
  units: jax.Array, rows: jax.Array, axis_name: AxisName | None
) -> jax.Array:
  """Rows ``[m, d]`` of all ``[N, d]`` there are, by their numbers ``[m]``."""
  if axis_name is None:
    return units[rows]
  n = len(units)
  own = rows - numbers(jnp.zeros_like(rows), n, axis_name)
  is_own = (own >= 0) & (own < n)
  chosen = jnp.where(is_own[:, None], units[jnp.clip(own, 0, n - 1)], 0.0)
  return jax.lax.psum(chosen, axis_name)


def _go_round(axis_name, energy, size, units, mask, *, with_gradient):
  """What this device adds to the sum over one set, and the gradient for its rows."""
  size_of_ring, own = num_devices(axis_name), (units, mask)
  in_mesh_order = _in_mesh_order(axis_name)
  value, gradient = sum_tiles(energy, size, *own, with_gradient=with_gradient)
  if size_of_ring == 1:
    return value, gradient

  def send(tree, by=1):
    to = [(i, (i + by) % size_of_ring) for i in range(size_of_ring)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, in_mesh_order, to), tree)

  def receive(sums, pull, given):
    more, to_own, to_visitor = given
    return add(sums, (more, to_own)), add(pull, to_visitor)

  start = functools.partial(no_sums, with_gradient=with_gradient)

  between = functools.partial(
    fold_between,
    functools.partial(tiles.energy_between, energy, with_gradient=with_gradient),
    size,
    start=start,
  )

  def step(state, _):
    sums, visitor, pull = state
    # The next block comes, and the pull follows its block, while this one computes.
    coming, pull = send(visitor), send(pull)
    sums, pull = receive(sums, pull, between(own, visitor))
    return (sums, coming, pull), None

  num_steps = size_of_ring // 2
  _, pull = start(*own)
  state = ((value, gradient), send(own), pull)
  state, _ = jax.lax.scan(step, state, length=(size_of_ring - 1) // 2)
  sums, visitor, pull = state
  if size_of_ring % 2 == 0:
    # By comparison, for devices stand in the ring in the order of the mesh, which is
    # not that of their index along several axes.
    index = jax.lax.axis_index(axis_name)
    is_second = index > send(index, num_steps)
    given = _half_between(between, own, visitor, is_second)
    sums, pull = receive(sums, send(pull), given)
  value, gradient = sums
  return value, add(gradient, send(pull, -num_steps))


def _in_mesh_order(axis_name):
  """The axes in the only order that ``ppermute`` knows.

  It takes no other since JAX 0.12, and took any for that of the mesh before.
  """
  order = jax.sharding.get_abstract_mesh().axis_names
  if not isinstance(axis_name, tuple) or not {*axis_name} <= {*order}:
    return axis_name
  return tuple(sorted(axis_name, key=order.index))


def _half_between(between, own, visitor, is_second):
  """Of the four quarters of the pairs with the opposite device, two.

  The first of the two devices takes the first halves of the rows with each other, and
  the last ones; the second takes what is left.
  """
  n = len(own[0])
  swap = lambda x: jnp.where(is_second, x[::-1], x)  # noqa: E731
  own_halves = jax.tree.map(_halves, own)
  halves = jax.tree.map(lambda x: swap(_halves(x)), visitor)
  values, to_own, to_visitor = jax.lax.map(lambda x: between(*x), (own_halves, halves))
  whole = lambda x: x.reshape(-1, *x.shape[2:])[:n]  # noqa: E731
  return (
    values.sum(),
    jax.tree.map(whole, to_own),
    jax.tree.map(lambda x: whole(swap(x)), to_visitor),
  )


def _halves(x):
  """``[n, ...]`` as ``[2, n / 2, ...]``; a row of zeros is added where n is odd."""
  x = jnp.pad(x, [(0, len(x) % 2)] + [(0, 0)] * (x.ndim - 1))
  return x.reshape(2, -1, *x.shape[1:])
