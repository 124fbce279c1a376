"""What moves, merges, splits, cuts and joins axes."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

from mhe_jax.layers.program import digits as dg
from mhe_jax.layers.program.digits import Axis, Cut
from mhe_jax.layers.program.products import commit, opaque, placed
from mhe_jax.layers.program.uses import Uses
from mhe_jax.layers.program.values import (
  Value,
  View,
  distinct,
  long_axes,
  shape_of,
  union,
)


def transpose(uses, eqn, values):
  """Axes in another order."""
  del uses
  order = eqn.params["permutation"]
  places = {old: new for new, old in enumerate(order)}
  return [placed(values[0], places, shape_of(eqn.outvars[0]))]


def squeeze(uses, eqn, values):
  """Without axes of one entry."""
  del uses
  gone = eqn.params["dimensions"]
  kept = [a for a in range(len(shape_of(eqn.invars[0]))) if a not in gone]
  places = {a: i for i, a in enumerate(kept)}
  value = placed(values[0], places, shape_of(eqn.outvars[0]))
  return [value]


def broadcast_in_dim(uses, eqn, values):
  """With new axes, along which it is constant."""
  value, old, shape = values[0], shape_of(eqn.invars[0]), shape_of(eqn.outvars[0])
  dims = eqn.params["broadcast_dimensions"]
  places = {a: to for a, to in enumerate(dims) if old[a] == shape[to]}
  moved = placed(value, places, shape)
  return [commit(uses, moved) if moved.constant else moved]


def reshape(uses, eqn, values):
  """Axes merged and split, in another order if the equation says one."""
  value, old, new = values[0], shape_of(eqn.invars[0]), shape_of(eqn.outvars[0])
  order = eqn.params.get("dimensions")
  if order is not None:
    old = tuple(old[a] for a in order)
    value = placed(value, {a: i for i, a in enumerate(order)}, old)
    values = [value]
  views = []
  for view in value.views:
    axes = dg.reshape(view.axes, old, new)
    if axes is None:
      if not view.product:
        return opaque(uses, eqn, values)
      continue
    free = _reshaped(view.free | {a for a, n in enumerate(old) if n == 1}, old, new)
    views.append(dataclasses.replace(view, axes=axes, free=free))
  hot = None if value.one_hot is None else _reshaped({value.one_hot}, old, new)
  return [
    value.replace(
      views=tuple(views),
      constant=_reshaped(value.constant, old, new),
      one_hot=next(iter(hot), None) if hot else None,
    )
  ]


def _reshaped(axes, old, new) -> frozenset[int]:
  """The axes that come from these alone."""
  if 0 in old:
    return frozenset()
  return frozenset(
    j
    for ins, outs in dg.shared(old, new)
    if (sources := [i for i in ins if old[i] != 1]) and {*sources} <= {*axes}
    for j in outs
    if new[j] != 1
  )


def _cut(value: Value, old, starts, stops, strides) -> Value:
  views = []
  for view in value.views:
    left = view
    for a, size in enumerate(old):
      cutting = dg.cut(view.axes[a], size, starts[a], stops[a], strides[a])
      left = left.taken(a, cutting)
    views.append(left)
  return value.replace(views=tuple(views))


def slice_(uses, eqn, values):
  """A part of each axis."""
  old, p = shape_of(eqn.invars[0]), eqn.params
  strides = p["strides"] or (1,) * len(old)
  value = _cut(values[0], old, p["start_indices"], p["limit_indices"], strides)
  return [_recorded(uses, value)]


def split(uses, eqn, values):
  """All parts of an axis."""
  old, axis, start = shape_of(eqn.invars[0]), eqn.params["axis"], 0
  out = []
  for size in eqn.params["sizes"]:
    starts, stops = [0] * len(old), [*old]
    starts[axis], stops[axis] = start, start + size
    value = _cut(values[0], old, starts, stops, (1,) * len(old))
    out.append(_recorded(uses, value))
    start += size
  return out


def _recorded(uses, value: Value) -> Value:
  """With the parts of products that are used by themselves noted."""
  for view in value.views:
    if view.product:
      uses.cut(view)
  return value


def concatenate(uses, eqn, values):
  """Values one after the other along an axis."""
  return [joined(uses, values, eqn.params["dimension"], shape_of(eqn.outvars[0]))]


def stack(uses, eqn, values):
  """Values one after the other along a new axis."""
  axis, shape = eqn.params["axis"], shape_of(eqn.outvars[0])
  places = {a: a + (a >= axis) for a in range(len(shape) - 1)}
  single = (*shape[:axis], 1, *shape[axis + 1 :])
  values = [placed(value, places, single) for value in values]
  return [joined(uses, values, axis, shape)]


def unstack(uses, eqn, values):
  """All entries of an axis."""
  axis, old = eqn.params["axis"], shape_of(eqn.invars[0])
  places = {a: a - (a > axis) for a in range(len(old)) if a != axis}
  out = []
  for i, variable in enumerate(eqn.outvars):
    starts, stops = [0] * len(old), [*old]
    starts[axis], stops[axis] = i, i + 1
    value = _recorded(uses, _cut(values[0], old, starts, stops, (1,) * len(old)))
    out.append(placed(value, places, shape_of(variable)))
  return out


def tile(uses, eqn, values):
  """A value several times along its axes."""
  value, old, new = values[0], shape_of(eqn.invars[0]), shape_of(eqn.outvars[0])
  value = value.replace(
    views=tuple(inexact(view, old, new) for view in value.views),
    constant=value.constant | {a for a in range(len(old)) if old[a] == 1 != new[a]},
  )
  return [commit(uses, value) if value.constant else value]


def pad(uses, eqn, values):
  """With entries around it."""
  value, old, new = values[0], shape_of(eqn.invars[0]), shape_of(eqn.outvars[0])
  views = tuple(inexact(view, old, new) for view in value.views)
  last = union(v.last for v in values)
  return [value.replace(data=any(v.data for v in values), views=views, last=last)]


def inexact(view: View, old: Sequence[int], new: Sequence[int]) -> View:
  """A view of a value whose axes have got other sizes."""
  axes = tuple(
    x if old[a] == new[a] else x._replace(exact=False) for a, x in enumerate(view.axes)
  )
  return dataclasses.replace(view, axes=axes)


def joined(
  uses: Uses, values: Sequence[Value], axis: int, shape: Sequence[int]
) -> Value:
  """Values one after the other along an axis that all of them have."""
  if len(values) == 1:
    return values[0]
  data = any(v.data for v in values)
  if data:
    values = [v if v.data else commit(uses, v) for v in values]
    for value in values:
      if not value.data:
        uses.elementwise(value)
  views = []
  for view in (v for value in values for v in value.views):
    if data and not view.product:
      continue
    digits = view.axes[axis].digits
    axes = (*view.axes[:axis], Axis(digits, exact=False), *view.axes[axis + 1 :])
    views.append(dataclasses.replace(view, axes=axes))
  views = rejoined(uses, views, axis)
  constant = frozenset.intersection(*(v.constant for v in values)) - {axis}
  return Value(
    data=data,
    views=distinct(views),
    sources=frozenset().union(*(v.sources for v in values)),
    stopped=next((v.stopped for v in values if v.stopped), ""),
    last=frozenset(s for v in values for s in v.last),  # As several outputs.
    constant=constant & long_axes(shape),
  )


def rejoined(
  uses: Uses, views: Sequence[View], axis: int | None = None
) -> tuple[View, ...]:
  """Views whose parts are put together again, as rotary embeddings do: no parts.

  Along the axis that was cut; or along a new one, if the parts were single neurons
  that take turns; or, without an axis, anywhere.
  """
  mixed = [view for view in views if view.linear or not view.product]
  here = {
    (view.param, d.axis)
    for view in mixed
    for d in view.digits(range(len(view.axes)) if axis is None else [axis])
  }
  parts = defaultdict(set)
  for view in mixed:
    for cut in view.cuts:
      along, period, start, stop = cut
      if (view.param, along) in here or (not here and stop == start + 1):
        parts[view.param, along, period].add(cut)
    if axis is None and not view.cuts:  # Parts go back to where they were cut.
      parts.update({key: parts[key] | {(*key[1:], 0, key[2])} for key in parts})
  gone = {
    (param, cut)
    for (param, _, period), cuts in parts.items()
    if len(cuts) > 1 and _covers(cuts, period)
    for cut in cuts
  }
  for param, cut in gone:
    uses.rejoined[param].add(cut)
  return tuple(
    dataclasses.replace(
      view, cuts=tuple(c for c in view.cuts if (view.param, c) not in gone)
    )
    for view in views
  )


def _covers(cuts: set[Cut], period: int) -> bool:
  end = 0
  for _, _, start, stop in sorted(cuts, key=lambda c: c[2:]):
    end = max(end, stop) if start <= end else end
  return end >= period
