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
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import custom_partitioning
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mhe_jax.arrays import is_explicit
from mhe_jax.pair_sum import ring, tiled, tiles
from mhe_jax.pair_sum.mask import Mask

Sums = TypeVar("Sums")

# To send fewer rows than these takes longer than to compute their pairs.
FEWEST_ROWS = 64


def by_type(
  function: Callable[[jax.Array, Mask, ring.AxisName | None], Sums],
  units: jax.Array,
  mask: Mask = Mask(),
) -> Sums:
  """Sums over the pairs of rows whose type says how they are sharded.

  Args:
    function: of the units and the mask of a device, and the axes over which the rows
      are sharded, to the sums ``[*batch]``.
    units: ``[*batch, n, d]``, sharded over explicit axes of a mesh.
    mask: the pairs that count.

  Returns:
    The sums ``[*batch]``.
  """
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
    return function(units, mask, None)
  return jax.shard_map(
    lambda units, mask: function(units, mask, rows),
    mesh=mesh,
    in_specs=(spec, of_row),
    out_specs=P(*batch),
    axis_names=names,
  )(units, mask)


def pair_sums(
  energy: tiles.PairEnergy,
  units: jax.Array,
  mask: Mask = Mask(),
  *,
  block_size: int | None = None,
  with_gradient: bool,
) -> tuple[jax.Array, jax.Array | None]:
  """As :func:`mhe_jax.pair_sum.tiled.pair_sums`, however the compiler shards the rows.

  Args:
    energy: of a pair.
    units: unit vectors ``[*batch, n, d]``.
    mask: the pairs that count.
    block_size: most rows of a tile.
    with_gradient: if not, the gradient is ``None``.

  Returns:
    The sums ``[*batch]``, and gradients ``[*batch, n, d]``.
  """
  if not _is_divisible(units):
    return tiled.pair_sums(
      energy, units, mask, block_size=block_size, with_gradient=with_gradient
    )
  value, *gradient = _for_compiler(energy, block_size, with_gradient)(units, mask)
  return value, gradient[0] if gradient else None


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
  for names in (tuple(of_both), tuple(of_rows)):
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
  if jax.device_count() == 1 or is_explicit(units):
    return False
  if not all(isinstance(size, int) for size in units.shape):
    return False  # Symbolic, under jax.export.
  is_local = jax.sharding.get_abstract_mesh().manual_axes  # Inside jax.shard_map.
  return not is_local and units.shape[-2] >= 2 * FEWEST_ROWS


@functools.cache
def _for_compiler(energy, block_size, with_gradient):
  """Sums and perhaps gradients of units and mask, with a rule how to divide them."""

  def compute(pair_sums, units, mask):
    value, gradient = pair_sums(
      energy, units, mask, block_size=block_size, with_gradient=with_gradient
    )
    return (value, gradient) if with_gradient else (value,)

  def partition(mesh, operands, results):
    del results
    constants, units, mask = operands
    spec = division(units.sharding.spec, units.shape, mesh.shape)
    *batch, rows, _ = spec
    place = functools.partial(NamedSharding, mesh)
    sums = tiled.pair_sums
    if rows is not None:
      sums = functools.partial(ring.pair_sums, rows)
    return (
      mesh,
      lambda _, units, mask: compute(sums, units, mask),
      (place(P(*batch)), place(spec))[: 1 + with_gradient],
      (
        [place(P()) for _ in constants],
        place(spec),
        jax.tree.map(lambda _: place(P(*batch, rows)), mask),
      ),
    )

  @custom_vmap
  def batched(units, mask):
    # A function that is partitioned may not have constants, such as a potential's.
    function = functools.partial(compute, tiled.pair_sums)
    jaxpr, shapes = jax.make_jaxpr(function, return_shape=True)(units, mask)

    @custom_partitioning
    def whole(constants, units, mask):
      leaves = jax.tree.leaves((units, mask))
      results = jaxpr_as_fun(ClosedJaxpr(jaxpr.jaxpr, constants))(*leaves)
      return jax.tree.unflatten(jax.tree.structure(shapes), results)

    rule = _rule(jaxpr.consts, units, mask, with_gradient)
    whole.def_partition(partition, sharding_rule=rule)
    return whole(jaxpr.consts, units, mask)

  @batched.def_vmap
  def _(axis_size, is_batched, *operands):
    stack = lambda x, is_stack: (  # noqa: E731
      x if is_stack else jnp.broadcast_to(x, (axis_size, *x.shape))
    )
    results = batched(*jax.tree.map(stack, operands, tuple(is_batched)))
    return results, (True,) * len(results)

  return batched


def _rule(constants, units, mask, with_gradient):
  """Which axes of operands and results are one, in the notation of einsum."""
  batch = " ".join(f"b{i}" for i in range(units.ndim - 2))
  operands = [
    " ".join(f"c{number}x{axis}" for axis in range(jnp.ndim(x)))
    for number, x in enumerate(constants)
  ]
  operands += [f"{batch} n d"] + [f"{batch} n"] * len(jax.tree.leaves(mask))
  results = [batch] + [f"{batch} n d"] * with_gradient
  return f"{', '.join(operands)} -> {', '.join(results)}"
