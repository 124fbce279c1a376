"""Sums over pairs of arrays that are sharded by their type, or by the compiler.

A schedule of tiles is a loop, and for each tile the compiler would gather its rows on
every device. Here it is told instead how the sums are divided: set by set where axes
of the batch are sharded, by the ring where the rows or their weights are.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import custom_partitioning
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mhe_jax.arrays import is_explicit
from mhe_jax.pair_sum import ring
from mhe_jax.pair_sum.mask import Mask

Sums = TypeVar("Sums")

# To send fewer rows than these takes longer than to compute their pairs.
FEWEST_ROWS = 64


def divide_by_type(
  axis_name: ring.AxisName | None,
  function: Callable[..., Sums],
  units: jax.Array,
  mask: Mask = Mask(),
  *shared: Any,
) -> Sums:
  """Sums over the pairs of rows whose type may say how they are sharded.

  Args:
    axis_name: axes of :func:`jax.shard_map` over which the rows are sharded already,
      so that there is nothing left to divide.
    function: of the axes over which the rows are sharded (``None``: they are not), the
      units and the mask of a device, and what is shared, to sums ``[*batch]``.
    units: ``[*batch, n, d]``.
    mask: the pairs that count.
    *shared: trees of arrays that are the same for all rows and sets.

  Returns:
    The sums.
  """
  if axis_name is not None or not is_explicit(units):
    return function(axis_name, units, mask, *shared)
  sharding = jax.typeof(units).sharding
  mesh = sharding.mesh
  spec = division(sharding.spec, units.shape, mesh.shape)
  *batch, rows, _ = spec
  of_row = P(*batch, rows)
  reshard = lambda x, spec: jax.sharding.reshard(x, NamedSharding(mesh, spec))  # noqa: E731
  units = reshard(units, spec)
  mask = jax.tree.map(lambda x: reshard(x, of_row), mask)
  names = {name for axes in spec for name in _names(axes)}
  if not names:
    return function(None, units, mask, *shared)
  return jax.shard_map(
    functools.partial(function, rows),
    mesh=mesh,
    in_specs=(spec, of_row, *(P() for _ in shared)),
    out_specs=P(*batch),
    axis_names=names,
  )(units, mask, *(jax.tree.map(lambda x: reshard(x, P()), shared)))


def divide_by_compiler(
  axis_name: ring.AxisName | None,
  function: Callable[..., Any],
  units: jax.Array,
  mask: Mask = Mask(),
  *shared: Any,
) -> Any:
  """Sums, and pulls on the rows, of rows that the compiler may have sharded.

  Args:
    axis_name: as of :func:`divide_by_type`.
    function: of the axes over which the rows are sharded (``None``: they are not), the
      units and the mask of a device, and what is shared, to a tree of sums ``[*batch]``
      and of pulls ``[*batch, n, d]``.
    units: unit vectors ``[*batch, n, d]``.
    mask: the pairs that count.
    *shared: trees of arrays that are the same for all rows and sets.

  Returns:
    What the function returns, for all rows.
  """
  if axis_name is not None or not _is_divisible(units):
    return function(axis_name, units, mask, *shared)

  @custom_vmap
  def batched(units, mask, shared):
    # What is partitioned may not have constants, such as those of a potential.
    plain = functools.partial(function, None)
    jaxpr, shapes = jax.make_jaxpr(plain, return_shape=True)(units, mask, *shared)

    @custom_partitioning
    def whole(constants, units, mask, shared):
      leaves = jax.tree.leaves((units, mask, shared))
      results = jaxpr_as_fun(ClosedJaxpr(jaxpr.jaxpr, constants))(*leaves)
      return jax.tree.unflatten(jax.tree.structure(shapes), results)

    operands = (jaxpr.consts, units, mask, shared)
    rule = _rule(*operands, jax.tree.leaves(shapes))
    partition = functools.partial(_partition, function)
    # Not decoded: JAX cannot where parts of an axis of the mesh are meant.
    whole.def_partition(partition, decode_shardings=False, sharding_rule=rule)
    return whole(*operands)

  @batched.def_vmap
  def _(axis_size, is_batched, units, mask, shared):
    if any(jax.tree.leaves(is_batched[2])) or is_explicit(units):
      plain = functools.partial(function, None)
      axes = jax.tree.map(lambda x: 0 if x else None, (*is_batched[:2], *is_batched[2]))
      results = jax.vmap(plain, in_axes=axes)(units, mask, *shared)
    else:
      stack = lambda x, is_stack: (  # noqa: E731
        x if is_stack else jnp.broadcast_to(x, (axis_size, *x.shape))
      )
      stacked = jax.tree.map(stack, (units, mask), tuple(is_batched[:2]))
      results = batched(*stacked, shared)
    return results, jax.tree.map(lambda _: True, results)

  return batched(units, mask, shared)


def division(spec: P, shape: tuple[int, ...], sizes: Mapping[Any, int]) -> P:
  """How rows ``[*batch, n, d]`` are to be divided among devices.

  Args:
    spec: how they are sharded.
    shape: of the array.
    sizes: of the axes of the mesh.

  Returns:
    The axes of the mesh by which each axis is sharded: those of the batch as they are,
    those of the weights given to the rows, if that leaves a device enough of them.
  """
  *batch, rows, weights = (*spec, *[None] * (len(shape) - len(spec)))
  taken = {name for axes in batch for name in _names(axes)}
  of_rows = [name for name in _names(rows) if name not in taken]
  of_both = of_rows + [name for name in _names(weights) if name not in taken]
  for chosen in (of_both, of_rows):
    # In the order of the mesh, which is that of the ring.
    names = tuple(sorted(chosen, key=[*sizes].index))
    count = math.prod(sizes[name] for name in names)
    if count > 1 and shape[-2] % count == 0 and shape[-2] // count >= FEWEST_ROWS:
      return P(*batch, names[0] if len(names) == 1 else names, None)
  return P(*batch, None, None)


def _names(axes):
  """Axes of the mesh, as a tuple."""
  if axes is None or axes is P.UNCONSTRAINED:
    return ()
  return axes if isinstance(axes, tuple) else (axes,)


def _is_divisible(units):
  """Whether a compiler could divide the rows, for all that is known now."""
  if not all(isinstance(size, int) for size in units.shape):
    return False  # Symbolic, under jax.export.
  if jax.device_count() == 1 or units.shape[-2] < 2 * FEWEST_ROWS:
    return False
  context = jax.sharding.get_abstract_mesh()
  if context.manual_axes:  # Inside jax.shard_map.
    return False
  # Where all axes are explicit, types have said all there is to divide.
  meshes = [
    mesh for mesh in (context, jax.typeof(units).sharding.mesh) if mesh.size > 1
  ]
  return not meshes or any(mesh.auto_axes for mesh in meshes)


def _partition(function, mesh, operands, results):
  """What each device computes, of which part of the operands."""
  constants, units, mask, shared = operands
  if mesh.empty:  # Nothing in the whole program is sharded over axes with names.
    whole = lambda _, units, mask, shared: function(None, units, mask, *shared)  # noqa: E731
    as_it_is = jax.tree.map(lambda x: x.sharding, operands)
    return mesh, whole, jax.tree.map(lambda _: units.sharding, results), as_it_is
  seen = _spec(mesh, units)
  spec = division(seen, units.shape, mesh.shape)
  *batch, rows, _ = spec
  function = functools.partial(function, rows)
  # Since JAX 0.11 a compiler that is told to divide rows instead of weights gathers
  # all of them first.
  moved = _names((*seen, *[None] * units.ndim)[units.ndim - 1])
  if moved and _names(rows) == (*_names(seen[-2]), *moved):
    spec, function = seen, _turned(function, moved, units.ndim)
  place = functools.partial(NamedSharding, mesh)
  of_all = lambda tree, spec: jax.tree.map(lambda _: place(spec), tree)  # noqa: E731
  of_results = jax.tree.map(
    lambda x: place(spec if x.ndim == units.ndim else P(*batch)), results
  )
  return (
    mesh,
    lambda _, units, mask, shared: function(units, mask, *shared),
    of_results,
    (
      of_all(constants, P()),
      place(spec),
      of_all(mask, P(*batch, rows)),
      of_all(shared, P()),
    ),
  )


def _turned(function, names, ndim):
  """Of a function of rows, one of columns: each device gets its rows of all devices.

  Args:
    function: of the rows ``[*batch, n / devices, d]`` of a device, and of others.
    names: of the axes of the mesh by which columns are sharded, and rows are then.
    ndim: of the arrays of rows.

  Returns:
    The function of ``[*batch, n, d / devices]``, whose pulls are of this shape.
  """
  rows, columns = ndim - 2, ndim - 1

  def turn(x, split, join):
    return jax.lax.all_to_all(x, names, split, join, tiled=True)

  def turned(units, *others):
    results = function(turn(units, rows, columns), *others)
    return jax.tree.map(
      lambda x: turn(x, columns, rows) if x.ndim == ndim else x, results
    )

  return turned


def _spec(mesh, units):
  """How the compiler sharded an array, by the names of the mesh.

  It may have sharded over parts of an axis, which have no names: a reshape of an axis
  of 1024 over 8 devices to 4 x 256 does. Then the array is as if it were whole.
  """
  indices = units.sharding.devices_indices_map(units.shape)
  starts = np.array([[s.start or 0 for s in indices[d]] for d in mesh.devices.flat])
  starts = starts.reshape(*mesh.devices.shape, units.ndim)
  # From one device to the next along an axis of the mesh: how far in the array.
  steps = [np.take(starts, 1, i) - np.take(starts, 0, i) for i in range(starts.ndim - 1)
           if starts.shape[i] > 1]  # fmt: skip
  names = [name for name in mesh.axis_names if mesh.shape[name] > 1]
  strides = [step.reshape(-1, units.ndim).max(0) for step in steps]
  spec = P(
    *(
      tuple(
        name
        for stride, name in sorted(
          ((stride[axis], name) for stride, name in zip(strides, names)), reverse=True
        )
        if stride
      )
      or None
      for axis in range(units.ndim)
    )
  )
  flat = [name for axes in spec for name in _names(axes)]
  is_it = len({*flat}) == len(flat) and units.sharding.is_equivalent_to(
    NamedSharding(mesh, spec), units.ndim
  )
  return spec if is_it else P()


def _rule(constants, units, mask, shared, results):
  """Which axes of operands and results are one, in the notation of einsum."""
  batch = " ".join(f"b{i}" for i in range(units.ndim - 2))
  whole = lambda name, tree: [  # noqa: E731
    " ".join(f"{name}{number}x{axis}" for axis in range(jnp.ndim(x)))
    for number, x in enumerate(jax.tree.leaves(tree))
  ]
  operands = [*whole("c", constants), f"{batch} n d"]
  operands += [f"{batch} n" for _ in jax.tree.leaves(mask)] + whole("s", shared)
  results = [f"{batch} n d" if x.ndim == units.ndim else batch for x in results]
  return f"{', '.join(operands)} -> {', '.join(results)}"
