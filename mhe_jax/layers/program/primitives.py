"""What each primitive of a program does to what is known of its operands."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from mhe_jax.layers.program import shapes
from mhe_jax.layers.program.digits import Digit
from mhe_jax.layers.program.elementwise import (
  ELEMENTWISE,
  REDUCING,
  elementwise,
  reduce,
)
from mhe_jax.layers.program.lookups import dynamic_slice, gather, lookup_or_product
from mhe_jax.layers.program.products import Side, opaque, product
from mhe_jax.layers.program.uses import DEPTH, Use, Uses
from mhe_jax.layers.program.values import (
  Value,
  View,
  distinct,
  long_axes,
  shape_of,
  union,
)

Rule = Callable[[Uses, Any, list[Value]], list[Value]]

# Of data, what keeps the axes what they are: sums along one, pooling, flips.
_IN_PLACE = set(
  "rev cumsum cumprod cummax cummin cumlogsumexp reduce_window reduce_window_sum "  # noqa: SIM905
  "reduce_window_max reduce_window_min select_and_gather_add".split()
)
# What gives its operands as they are.
_PASSING = set(
  "optimization_barrier copy copy_p device_put relayout preduced "  # noqa: SIM905
  "with_memory_space_constraint reduced_vary_cast reduced_vary_cast_p "
  "vary_unreduced_cast vary_unreduced_cast_p".split()
)
# What comes from keys is noise, no data.
_RANDOM = set(
  "random_bits random_seed random_wrap random_unwrap random_split random_fold_in "  # noqa: SIM905
  "random_clone threefry2x32 random_gamma rng_bit_generator rng_uniform".split()
)
# What devices exchange, inside shard_map: elementwise, but for sizes.
_COLLECTIVE = set(
  "psum psum2 psum_invariant pmean pmax pmin all_gather all_gather_invariant "  # noqa: SIM905
  "reduce_scatter ppermute all_to_all pbroadcast axis_index psum_scatter".split()
)


def apply(uses: Uses, eqn: Any, values: list[Value]) -> list[Value]:
  """What is known of the outputs of an equation of a jaxpr."""
  name = eqn.primitive.name
  rule = RULES.get(name)
  if rule is not None:
    out = rule(uses, eqn, values)
  elif name in _RANDOM:
    out = [Value() for _ in eqn.outvars]
  elif name in _COLLECTIVE:
    out = _collective(uses, eqn, values)
  elif name in REDUCING:
    out = reduce(uses, eqn, values)
  elif name in ELEMENTWISE:
    out = [elementwise(uses, eqn, values)]
  else:
    out = opaque(uses, eqn, values)
  return [
    value.replace(last=frozenset()) if _is_bool(var.aval) else value  # Masks.
    for value, var in zip(out, eqn.outvars)
  ]


def _is_bool(aval) -> bool:
  return getattr(aval, "dtype", None) == jnp.bool_


def _dot_general(uses, eqn, values):
  (ls, rs), (lb, rb) = eqn.params["dimension_numbers"]
  shapes = [shape_of(x) for x in eqn.invars[:2]]
  shape = shape_of(eqn.outvars[0])
  sides, position = [], len(lb)
  for value, old, summed, batch in zip(values, shapes, (ls, rs), (lb, rb)):
    kept = [a for a in range(len(old)) if a not in (*summed, *batch)]
    places = {a: position + i for i, a in enumerate(kept)}
    position += len(kept)
    runs = {a: i for i, a in enumerate(batch)}
    sides.append(Side(value, tuple(summed), places, runs))
  return [lookup_or_product(uses, sides[0], sides[1], shape)]


def _convolution(uses, eqn, values):
  dims, groups = eqn.params["dimension_numbers"], eqn.params["feature_group_count"]
  lhs, rhs, out = dims.lhs_spec, dims.rhs_spec, dims.out_spec
  data, kernel = values
  if data.sources and not data.data:
    uses.elementwise(data)  # A learned input.
    data = data.replace(data=True)
  is_weights = bool(kernel.weights) and not kernel.data
  one_channel = groups > 1 and shape_of(eqn.invars[1])[rhs[1]] == 1
  # Of an ensemble, whose members are groups, each can have several filters.
  is_one = all(len(view.axes[rhs[0]].own) < 2 for view in kernel.weights)
  if is_weights and one_channel and is_one:
    for view in kernel.weights:
      uses.add(view.param, Use(DEPTH))
    last = frozenset({frozenset(view.param for view in kernel.weights)})
    return [Value(data=True, last=last)]
  if groups > 1:
    views = tuple(_grouped(view, rhs[0], groups) for view in kernel.views)
    kernel = kernel.replace(views=views)
    for view in data.views if is_weights else ():
      _mark_members(uses, view, lhs[1], groups)
  left = Side(data, (lhs[1],), {lhs[0]: out[0]}, {})
  right = Side(kernel, (rhs[1], *rhs[2:]), {rhs[0]: out[1]}, {})
  return [product(uses, left, right, shape_of(eqn.outvars[0]))]


def _mark_members(uses, view, axis, groups) -> None:
  """Members of an ensemble that share an input, and are groups of a convolution."""
  own = view.axes[axis].own
  if (
    view.product and len(own) > 1 and own[0] == Digit(own[0].axis, groups, 1, 0, groups)
  ):
    uses.stacked[view.param].add(own[0].axis)


def _grouped(view: View, axis: int, groups: int) -> View:
  """A kernel's view with the digits of its groups noted as sets."""
  digits, sets, left = [*view.axes[axis].digits], [], groups
  while left > 1 and digits:
    digit = digits.pop(0)
    if digit.size > left:
      pair = digit.split(digit.size // left) if digit.size % left == 0 else None
      if pair is None:
        return view
      digit, rest = pair
      digits.insert(0, rest)
    if left % digit.size:
      return view
    sets.append(digit)
    left //= digit.size
  own = tuple(d for d in sets if d.axis >= 0)
  return dataclasses.replace(view, stack=view.stack + own)


def _ragged_dot(uses, eqn, values):
  p = eqn.params
  dims = p.get("ragged_dot_dimension_numbers")
  if dims is None:
    (ls, rs), (lb, rb), groups = ((1,), (1,)), ((), ()), (0,)
  else:
    (ls, rs), (lb, rb) = dims.dot_dimension_numbers
    groups = tuple(dims.rhs_group_dimensions)
  shapes, shape = [shape_of(x) for x in eqn.invars[:2]], shape_of(eqn.outvars[0])
  right = values[1].replace(
    views=tuple(
      dataclasses.replace(view, stack=view.stack + view.digits(groups))
      for view in values[1].views
    )
  )
  sides, position = [], len(lb)
  skipped = ((), groups)
  for value, old, summed, batch, skip in zip(
    (values[0], right), shapes, (ls, rs), (lb, rb), skipped
  ):
    kept = [a for a in range(len(old)) if a not in (*summed, *batch, *skip)]
    places = {a: position + i for i, a in enumerate(kept)}
    position += len(kept)
    sides.append(
      Side(value, tuple(summed), places, {a: i for i, a in enumerate(batch)})
    )
  return [product(uses, sides[0], sides[1], shape)]


def _scatter(uses, eqn, values):
  """Entries of a value replaced, or added to."""
  operand, updates = values[0], values[2]
  if operand.data or updates.data:
    for value in (operand, updates):
      if not value.data:
        uses.elementwise(value)
    views = tuple(v for v in operand.views if v.product)
    if len(shape_of(eqn.invars[0])) == len(shape_of(eqn.invars[2])):
      parts = tuple(v for v in updates.views if v.product)
      views = shapes.rejoined(uses, distinct(views + parts))
    last = union((operand.last, updates.last))
    return [Value(data=True, views=views, last=last)]
  if operand.is_constant and updates.sources:
    return opaque(uses, eqn, values)
  return [operand]


def _dynamic_update_slice(uses, eqn, values):
  return _scatter(uses, eqn, [values[0], values[1], values[1]])


def _same(uses, eqn, values):
  """Of data, what keeps the axes what they are: sums along one, pooling, flips."""
  if eqn.primitive.name != "rev" and not values[0].data:
    return opaque(uses, eqn, values)
  return [values[0].replace(one_hot=None) for _ in eqn.outvars]


def _passed(uses, eqn, values):
  del uses, eqn
  return values


def _stop_gradient(uses, eqn, values):
  """What is not trained by it is no output, as the advantage of an actor is none."""
  del uses, eqn
  return [value.replace(last=frozenset()) for value in values]


def _made(uses, eqn, values):
  """Of iota: constant along all axes but its own."""
  del uses, values
  shape = shape_of(eqn.outvars[0])
  axes = long_axes(shape) - {eqn.params["dimension"]}
  return [Value(constant=axes)]


def _collective(uses, eqn, values):
  """Of what devices exchange: axes are what they are, sizes may change."""
  out = []
  for value, new in zip(values, eqn.outvars):
    view_axes = lambda view: tuple(x._replace(exact=False) for x in view.axes)  # noqa: E731
    same = [v for v in value.views if len(v.axes) == len(shape_of(new))]
    views = tuple(dataclasses.replace(v, axes=view_axes(v)) for v in same)
    out.append(value.replace(views=views, one_hot=None, constant=frozenset()))
  return out if out else [Value() for _ in eqn.outvars]


def _sort(uses, eqn, values):
  if any(v.sources and not v.data for v in values):
    return opaque(uses, eqn, values)
  data = any(v.data for v in values)
  return [Value(data=data, last=values[0].last) for _ in eqn.outvars]


RULES: dict[str, Rule] = {
  "transpose": shapes.transpose,
  "squeeze": shapes.squeeze,
  "broadcast_in_dim": shapes.broadcast_in_dim,
  "reshape": shapes.reshape,
  "slice": shapes.slice_,
  "split": shapes.split,
  "unstack": shapes.unstack,
  "concatenate": shapes.concatenate,
  "stack": shapes.stack,
  "tile": shapes.tile,
  "pad": shapes.pad,
  **dict.fromkeys(_IN_PLACE, _same),
  **dict.fromkeys(_PASSING, _passed),
  "stop_gradient": _stop_gradient,
  "iota": _made,
  "dot_general": _dot_general,
  "conv_general_dilated": _convolution,
  "ragged_dot": _ragged_dot,
  "ragged_dot_general": _ragged_dot,
  "gather": gather,
  "dynamic_slice": dynamic_slice,
  "dynamic_update_slice": _dynamic_update_slice,
  "scatter": _scatter,
  "scatter-add": _scatter,
  "scatter-sub": _scatter,
  "scatter-mul": _scatter,
  "scatter-max": _scatter,
  "scatter-min": _scatter,
  "sort": _sort,
  "top_k": _sort,
}
