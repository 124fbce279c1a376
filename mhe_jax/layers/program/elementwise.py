"""What is added to, multiplied with, and summed over: elementwise, and reductions."""

import dataclasses
from collections.abc import Sequence

from mhe_jax.layers.program.digits import foreign
from mhe_jax.layers.program.products import commit, move, placed
from mhe_jax.layers.program.uses import ADDED, PRODUCT, Use
from mhe_jax.layers.program.values import (
  Value,
  View,
  distinct,
  long_axes,
  shape_of,
  union,
)

# What scales, what adds, what only passes on, and all else.
SCALING = {"mul", "div"}
ADDING = {"add", "add_any", "sub"}
PASSING = set(
  "convert_element_type neg real imag complex conj reduce_precision select_n pvary "  # noqa: SIM905
  "pcast reshard mesh_cast sharding_constraint layout_constraint name".split()
)
NONLINEAR = set(
  "abs acos acosh and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil "  # noqa: SIM905
  "clamp cos cosh digamma eq erf erf_inv erfc exp exp2 expm1 floor ge gt "
  "igamma igammac integer_pow is_finite le lgamma log log1p log2 logistic lt max min "
  "ne nextafter not one_minus_square or polygamma polynomial pow rem round rsqrt "
  "regularized_incomplete_beta shift_left shift_right_arithmetic shift_right_logical "
  "sign sin sinh sqrt square tan tanh xor zeta".split()
)
ELEMENTWISE = SCALING | ADDING | PASSING | NONLINEAR
REDUCING = set(
  "reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or reduce_xor "  # noqa: SIM905
  "argmax argmin".split()
)


def _stretched(value: Value, old: Sequence[int], new: Sequence[int]) -> Value:
  """An operand of an elementwise primitive at the shape of the output."""
  if tuple(old) == tuple(new):
    return value
  if len(old) != len(new):  # A scalar.
    return Value(
      data=value.data,
      sources=value.sources,
      stopped=value.stopped,
      last=value.last,
      constant=long_axes(new),
    )
  axes = frozenset(a for a in range(len(new)) if old[a] != new[a])
  views = tuple(
    dataclasses.replace(
      view,
      axes=tuple(foreign(new[a]) if a in axes else x for a, x in enumerate(view.axes)),
    )
    for view in value.views
  )
  return value.replace(views=views, constant=value.constant | axes)


def elementwise(uses, eqn, values) -> Value:
  """A function of the entries of its operands."""
  name, shape = eqn.primitive.name, shape_of(eqn.outvars[0])
  values = [
    _stretched(v, shape_of(x), shape) for v, x in zip(values, eqn.invars, strict=True)
  ]
  values = _settle_products(uses, name, values, shape)
  data = any(v.data for v in values)
  constant = frozenset.intersection(*(v.constant for v in values))
  if not data:
    views = [view for v in values for view in v.views]
    if name in NONLINEAR:
      views = [dataclasses.replace(view, linear=False) for view in views]
    views, scales = _weights(uses, views)
    sources = frozenset().union(*(v.sources for v in values)) - scales
    stopped = next((v.stopped for v in values if v.stopped), "")
    return Value(views=views, sources=sources, stopped=stopped, constant=constant)
  views = []
  for i, value in enumerate(values):
    others = [v for k, v in enumerate(values) if k != i]
    if not value.data:
      uses.elementwise(value)
    frozen = not value.constant  # Not so a table for all of a batch.
    adds = name not in SCALING and any(
      v.data and not (frozen and _is_input(v)) for v in others
    )
    for view in value.views:
      now = view.free.intersection(*(v.constant for v in others if _varies(v, view)))
      linear = view.linear and name not in NONLINEAR
      if name in SCALING:
        linear = linear and not any(_varies_with(view, v) for v in others)
      added = view.added or (adds and not view.product)
      views.append(dataclasses.replace(view, free=now, linear=linear, added=added))
  last = _last(name, values)
  one_hot = _one_hot(name, values)
  return Value(
    data=True, views=distinct(views), last=last, constant=constant, one_hot=one_hot
  )


def _varies(value: Value, view: View) -> bool:
  """Whether data vary otherwise than a parameter's view beside them does already."""
  return value.data and all(v.param != view.param for v in value.weights)


def _varies_with(view: View, value: Value) -> bool:
  """Whether a factor has other neurons on all axes that a view has some on."""
  axes = [a for a, x in enumerate(view.axes) if x.own]
  return any(v.product and all(v.axes[a].own for a in axes) for v in value.views)


def _settle_products(uses, name, values, shape) -> list[Value]:
  """Operands, of which products of parameters may turn out to be activations."""
  if not any(v.is_composite for v in values):
    return values
  others = [v for v in values if not v.is_composite]
  if name in ADDING and any(_is_matrix(v) for v in others):  # w + a @ b.
    return [
      v.replace(views=tuple(dataclasses.replace(x, merged=True) for x in v.views))
      for v in values
    ]
  is_scaled = name in SCALING and all(v.is_constant for v in others)
  if name in PASSING or is_scaled:
    return values
  axes = [a for a in long_axes(shape) if any(a not in v.constant for v in others)]
  return [commit(uses, v, axes) for v in values]


def _is_input(value: Value) -> bool:
  """Whether data can be weights that somebody gave as an input: frozen ones."""
  return not value.last and not value.views and not value.constant


def _is_matrix(value: Value) -> bool:
  """Whether it can be a matrix of weights: of a parameter, frozen, or given as data."""
  return not value.constant and not value.last and not value.is_composite


def _weights(uses, views) -> tuple[tuple[View, ...], frozenset[int]]:
  """Of parameters that are combined those that are weights, and those that scale.

  Weights have all the axes, and enter linearly if one does: not the logarithms of
  noise, nor the scores of a mask.
  """
  views = distinct(views)
  axes = {v: frozenset(a for a, x in enumerate(v.axes) if x.own) for v in views}
  factors = [v for v in views if v.inner]
  full = [v for v in views if not v.inner and not any(axes[v] < axes[w] for w in views)]
  nonlinear = {v.param for v in full if not v.linear}
  linear = [v for v in full if v.param not in nonlinear] or full
  kept = (*linear, *factors)
  scales = frozenset(v.param for v in views) - {v.param for v in kept}
  for param in scales:
    uses.add(param, Use(ADDED))
  return kept, scales


def _last(name, values):
  """Matrices that a sum, or another function of values, came through last."""
  if name in ADDING and not any(map(_has_neurons, values)):
    # Terms of a loss, of each sample or of all: outputs of their own.
    return frozenset(s for v in values for s in v.last)
  shifts = [v for v in values if name in ADDING and _is_shift(v, values)]
  found = [v.last for v in values if v.last and v not in shifts]
  return found[0] if len(found) == 1 else union(found)


def _has_neurons(value: Value) -> bool:
  """Whether an axis is that of the neurons of a matrix that a value came through."""
  return any(x.own for view in value.views if view.product for x in view.axes)


def _is_shift(value: Value, values) -> bool:
  """Whether it is the same for all neurons it is added to: a norm, in a distance."""
  neurons = [
    {a for a, x in enumerate(view.axes) if x.own}
    for other in values
    for view in other.views
    if other is not value and view.product
  ]
  return any(axes and axes <= value.constant for axes in neurons)


def _one_hot(name, values) -> int | None:
  """The axis along which a value, a comparison with a counter, has a single one."""
  hot = {v.one_hot for v in values if v.one_hot is not None}
  if len(hot) == 1 and name in PASSING | ADDING | SCALING:
    return hot.pop()
  if name != "eq" or len(values) != 2:
    return None
  for counter, data in (values, values[::-1]):
    if counter.is_constant and data.data:
      axes = [a for a in data.constant if a not in counter.constant]
      if len(axes) == 1:
        return axes[0]
  return None


def reduce(uses, eqn, values) -> list[Value]:
  """A sum, or the like, over axes: of products with parameters, or of parameters."""
  (value,) = values
  axes, old = tuple(eqn.params["axes"]), shape_of(eqn.invars[0])
  shape = shape_of(eqn.outvars[0])
  kept = [a for a in range(len(old)) if a not in axes]
  places = {a: i for i, a in enumerate(kept)}
  constant = frozenset(places[a] for a in value.constant if a in places)
  if not value.data:
    stopped = eqn.primitive.name if value.sources else ""
    if value.views and not any(v.digits(axes) for v in value.views):
      return [placed(value, places, shape)]
    return [Value(sources=value.sources, stopped=stopped, constant=constant)]
  views, used = [], set()
  for view in value.views:
    moved = move(view, places, shape)
    if not view.product and _is_product(view, axes, kept):
      features = view.digits(axes)
      neurons = view.digits(a for a in kept if a in view.free)
      stack = view.stack + view.digits(a for a in kept if a not in view.free)
      uses.add(view.param, Use(PRODUCT, features, neurons, stack, view.fixed))
      uses.cut(view)
      used.add(view.param)
      moved = View(view.param, moved.axes, product=True, stack=stack)
    if any(x.own for x in moved.axes):
      views.append(moved)
  if used:
    uses.feed(value, used)
  last = frozenset({frozenset(used)}) if used else value.last
  hot = places.get(value.one_hot) if value.one_hot is not None else None
  return [
    Value(data=True, views=tuple(views), last=last, constant=constant, one_hot=hot)
    for _ in eqn.outvars
  ]


def _is_product(view, axes, kept) -> bool:
  """Whether data along the axes of a reduction met neurons along others.

  Data that vary along another axis of the parameter, too, meet a set for each entry.
  """
  varied = any(view.axes[a].own and a not in view.free for a in axes)
  return varied and any(view.axes[a].own and a in view.free for a in kept)
