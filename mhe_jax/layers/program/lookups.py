"""Lookups: rows of a table at places that data say."""

import dataclasses

from mhe_jax.layers.program.digits import Axis
from mhe_jax.layers.program.products import move, product
from mhe_jax.layers.program.uses import ADDED, LOOKUP, Use
from mhe_jax.layers.program.values import Value, shape_of


def gather(uses, eqn, values):
  """Slices at places that an array says."""
  table, index = values[0], values[1]
  dims, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
  old, shape = shape_of(eqn.invars[0]), shape_of(eqn.outvars[0])
  batching = tuple(dims.operand_batching_dims)
  gone = (*dims.collapsed_slice_dims, *batching)
  passing = [a for a in range(len(old)) if a not in gone]
  indexed = [a for a in range(len(old)) if a not in batching and sizes[a] != old[a]]
  places = {a: to for a, to in zip(passing, dims.offset_dims) if a not in indexed}
  return [_looked_up(uses, table, index, places, indexed, batching, shape)]


def dynamic_slice(uses, eqn, values):
  """One slice, at a place that numbers say."""
  table, *starts = values
  old, sizes = shape_of(eqn.invars[0]), eqn.params["slice_sizes"]
  indexed = [a for a in range(len(old)) if sizes[a] != old[a]]
  start = starts[0].replace(data=any(x.data for x in starts)) if starts else Value()
  places = {a: a for a in range(len(old)) if a not in indexed}
  return [_looked_up(uses, table, start, places, indexed, (), sizes)]


def _looked_up(uses, table, index, places, indexed, batching, shape) -> Value:
  """Rows of a table where an index says."""
  if table.is_constant:
    return Value(data=index.data)
  if table.data:
    views = tuple(move(v, places, shape) for v in table.views if v.product)
    return Value(data=True, views=views, last=table.last)
  views = []
  for view in table.weights:
    rows, rest = view.digits(indexed), view.digits(places)
    stack = view.stack + view.digits(batching)
    moved = dataclasses.replace(move(view, places, shape), stack=stack)
    if not rows:
      views.append(moved)
    elif not index.data and len(indexed) == 1:
      # At constant places: the axis is still there, in some order.
      free = [a for a in range(len(shape)) if a not in places.values()]
      axes = [*moved.axes]
      for a in free[:1]:
        axes[a] = Axis(rows, exact=False)
      chosen = () if free else rows
      views.append(
        dataclasses.replace(moved, axes=tuple(axes), fixed=view.fixed + chosen)
      )
    elif rest:
      if index.data:
        uses.add(view.param, Use(LOOKUP, rest, rows, stack, view.fixed))
        uses.cut(view)
      views.append(dataclasses.replace(moved, chosen=view.chosen + rows))
    else:
      uses.add(view.param, Use(ADDED))
  if not index.data:
    return table.replace(views=tuple(views), constant=frozenset())
  uses.stop(table)
  last = frozenset({frozenset(~v.param for v in views)}) if views else frozenset()
  return Value(data=True, views=tuple(views), last=last)


def lookup_or_product(uses, left, right, shape):
  """A product with a one-hot vector is a lookup of rows."""
  for hot, table in ((left, right), (right, left)):
    if (
      hot.value.one_hot in hot.summed and len(hot.summed) == 1 and not table.value.data
    ):
      (axis,) = table.summed
      views = []
      for view in table.value.weights:
        rows = view.axes[axis].own
        rest, stack = view.digits(table.kept), view.stack + view.digits(table.batch)
        if rows and rest:
          uses.add(view.param, Use(LOOKUP, rest, rows, stack, view.fixed))
          moved = move(view, table.places, shape)
          views.append(dataclasses.replace(moved, chosen=rows, stack=stack))
      if views:
        last = frozenset({frozenset(~v.param for v in views)})
        return Value(data=True, views=tuple(views), last=last)
  return product(uses, left, right, shape)
