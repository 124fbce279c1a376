"""Products: what a program sums over, keeps, and runs along."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from mhe_jax.layers.program.digits import foreign
from mhe_jax.layers.program.uses import (
  ADDED,
  LOOKUP,
  OF_PARAMETERS,
  PRODUCT,
  WEAK,
  Use,
  Uses,
)
from mhe_jax.layers.program.values import Value, View, distinct, long_axes, union


class Side(NamedTuple):
  """An operand of a product.

  Attributes:
    value: the operand.
    summed: its axes that are summed over, in the order of the other operand's.
    kept: its axes that are in the output, and where.
    batch: its axes that run along products, and where they are in the output.
  """

  value: Value
  summed: tuple[int, ...]
  kept: dict[int, int]
  batch: dict[int, int]

  @property
  def places(self) -> dict[int, int]:
    return {**self.kept, **self.batch}


def product(uses: Uses, left: Side, right: Side, shape: Sequence[int]) -> Value:
  """A sum of products of two operands."""
  left, right = _settled(uses, left, right), _settled(uses, right, left)
  values = left.value, right.value
  constant = _constant(left, right)
  if all(v.is_constant for v in values):
    return Value(constant=constant)
  if all(v.sources and not v.data for v in values):
    return _multiply_parameters(uses, left, right, shape)
  has_weights = any(v.sources and not v.data for v in values)
  views: list[View] = []
  for side, other in ((left, right), (right, left)):
    factors = [view for view in side.value.views if view.product and view.inner]
    if factors:
      _tell_matrix(uses, factors, side.summed)
    if has_weights and side.value.data:
      continue  # Beside weights, data are activations.
    if not side.value.data and side.value.stopped and other.value.data:
      uses.stop(side.value)
    for view in side.value.weights:
      if not view.added:
        views += _use(uses, view, side, other, shape)
  used = {view.param for view in views}
  for side in (left, right):
    if not used:
      views += _moved(side, shape)
    elif side.value.data:
      _mark_stacks(uses, side, used)
      uses.feed(side.value, used)
  # Of a low-rank sum, the matrix that is added to.
  low_rank = {v.param for side in (left, right) for v in side.value.weights if v.inner}
  final = frozenset(used - low_rank or used)
  last = frozenset({final}) if used else union(v.last for v in values)
  return Value(data=True, views=distinct(views), last=last, constant=constant)


def commit(uses: Uses, value: Value, axes: Iterable[int] = ()) -> Value:
  """A product of parameters that turns out to be no weights, but an activation.

  Args:
    uses: where the uses of its parameters are noted.
    value: the product, or any other value, which stays what it is.
    axes: along which a bias, or heads, say that the neurons of a matrix lie.
  """
  if not value.is_composite:
    return value
  factors = [view for view in value.weights if view.inner]
  _tell_matrix(uses, factors, tuple(axes))
  views = tuple(
    View(v.param, v.axes, product=True, stack=v.stack, inner=v.inner) for v in factors
  )
  last = frozenset({frozenset(view.param for view in views)})
  return Value(data=True, views=views, last=last, constant=value.constant)


def _tell_matrix(uses: Uses, factors: Sequence[View], axes: Sequence[int]) -> None:
  """Of the factors of a product of parameters the one with neurons on these axes.

  It is a matrix, and the other a table of learned inputs. Such are the axes of a bias,
  and those that the next product sums over.
  """
  matrices = [view for view in factors if view.digits(axes)]
  if not matrices or len(matrices) == len(factors):
    uses.undecided |= {view.param for view in factors}
    return
  for view in factors:
    if view in matrices:
      neurons = view.digits(range(len(view.axes)))
      uses.add(view.param, Use(WEAK, view.inner, neurons, view.stack, view.fixed))
      uses.cut(view)
    else:
      uses.add(view.param, Use(ADDED))


def opaque(uses: Uses, eqn: Any, values: Sequence[Value]) -> list[Value]:
  """Of a primitive behind which parameters cannot be seen."""
  name = eqn.primitive.name
  sources = frozenset().union(*(v.sources for v in values))
  if any(v.data for v in values):
    for value in values:
      if not value.data and value.sources:
        uses.stop(value.replace(stopped=name), name)
    out = Value(data=True, last=union(v.last for v in values))
  else:
    out = Value(sources=sources, stopped=name if sources else "")
  return [out for _ in eqn.outvars]


def placed(value: Value, places: dict[int, int], shape) -> Value:
  """A value whose axes go elsewhere, or nowhere; new ones are constant."""
  views = tuple(move(view, places, shape) for view in value.views)
  constant = {places[a] for a in value.constant if a in places}
  constant |= long_axes(shape) - set(places.values())
  hot = places.get(value.one_hot) if value.one_hot is not None else None
  return value.replace(views=views, constant=frozenset(constant), one_hot=hot)


def _settled(uses: Uses, side: Side, other: Side) -> Side:
  """With what parameters alone have made taken for weights, or for activations."""
  value, meets = side.value, other.value
  if value.data or not value.sources:
    return side
  if value.is_composite:
    both = [v for v in value.weights if v.digits(side.summed) and v.digits(side.kept)]
    if both:  # A basis of matrices, and coefficients that choose of it.
      for view in value.weights:
        if view not in both:
          uses.add(view.param, Use(ADDED))
      bases = (dataclasses.replace(v, inner=(), stack=v.stack + v.inner) for v in both)
      return side._replace(value=value.replace(views=tuple(bases)))
    if any(v.digits(side.batch) for v in value.weights):
      return side._replace(value=commit(uses, value, side.batch))
    if meets.data or meets.is_constant:  # Either factor could be the first.
      uses.undecided |= {view.param for view in value.weights}
      return side._replace(value=Value(data=True))
  elif value.constant and not meets.data and not meets.constant and meets.sources:
    uses.elementwise(value)  # A table of learned inputs, for a batch.
    return side._replace(value=Value(data=True, constant=value.constant))
  return side


def _use(uses, view, side, other, shape) -> list[View]:
  """Records a product with a view; gives that of what comes out."""
  summed = {a: view.axes[a].own for a in side.summed}
  stack = view.stack + view.digits(side.batch)
  neurons = tuple(d for d in view.digits(side.kept) if d not in stack)
  is_summed = any(summed.values())
  if view.inner and is_summed and neurons:  # A basis of matrices.
    stack += view.inner
  elif view.inner:
    # A low-rank sum: data meet one factor first, and what comes out the other.
    inner = {-1: view.inner}
    summed, neurons = (summed, view.inner) if is_summed else (inner, neurons)
  elif not is_summed:
    uses.add(view.param, Use(ADDED))
    return []
  for a, b in zip(side.summed, other.summed):
    is_one_of_many = a in summed and len([x for x in summed.values() if x]) > 1
    if is_one_of_many and _is_stack(other.value, b):
      stack += summed.pop(a)
  features = tuple(d for digits in summed.values() for d in digits)
  kind = PRODUCT if other.value.data else WEAK
  by_lookup = bool(view.chosen and neurons)
  if by_lookup:
    stack += view.chosen
  elif view.chosen:
    kind, neurons = LOOKUP, view.chosen
  is_single = all(shape[out] == 1 for out in other.places.values())
  use = Use(kind, features, neurons, stack, view.fixed, by_lookup, is_single)
  uses.add(view.param, use)
  uses.cut(view)
  axes = [foreign(size) for size in shape]
  for a, out in side.places.items():
    axes[out] = view.axes[a]
  return [View(view.param, tuple(axes), product=True, stack=stack)]


def _is_stack(value: Value, axis: int) -> bool:
  """Whether an axis of data is one along which a parameter before had its sets.

  Not if it also holds neurons of these sets, as behind a grouped convolution.
  """
  return any(
    bool(own := view.axes[axis].own) and {*own} <= {*view.stack}
    for view in value.views
    if view.product
  )


def _mark_stacks(uses: Uses, side: Side, used: set[int]) -> None:
  """Axes of neurons along which the next parameter has sets are sets themselves.

  The members of an ensemble that share their input come out of one product.
  """
  for view in side.value.views:
    if (view.product or view.chosen) and view.param not in used:
      for digit in view.digits(side.batch):
        if (digit.block, digit.start, digit.size) == (1, 0, digit.period):
          uses.stacked[view.param].add(digit.axis)


def _moved(side: Side, shape: Sequence[int]) -> list[View]:
  """What a product of data leaves of the neurons that they came from."""
  return [
    dataclasses.replace(move(view, side.places, shape), linear=False)
    for view in side.value.views
    if view.product
  ]


def move(view: View, places: dict[int, int], shape: Sequence[int]) -> View:
  """A view with its axes elsewhere, or nowhere."""
  return view.moved([places.get(a) for a in range(len(view.axes))], shape)


def _constant(left: Side, right: Side) -> frozenset[int]:
  kept, batches = set(), []
  for side in (left, right):
    constant = side.value.constant
    kept |= {out for a, out in side.kept.items() if a in constant}
    batches.append({out for a, out in side.batch.items() if a in constant})
  return frozenset(kept | (batches[0] & batches[1]))


def _multiply_parameters(uses, left, right, shape) -> Value:
  """A product of parameters: part of a low-rank sum, or a table as if it were data."""
  values = left.value, right.value
  sources = values[0].sources | values[1].sources
  is_simple = all(value.weights for value in values) and not any(
    v.inner for value in values for v in value.weights
  )
  if values[0].sources & values[1].sources or not is_simple:
    for value in values:
      commit(uses, value)
    return Value(sources=sources, stopped=OF_PARAMETERS)
  views = []
  for side in (left, right):
    for view in side.value.weights:
      inner, stack = view.digits(side.summed), view.digits(side.batch)
      moved = move(view, side.places, shape)
      stack = view.stack + stack
      views.append(dataclasses.replace(moved, inner=inner, stack=stack))
  return Value(views=tuple(views), sources=sources, stopped=OF_PARAMETERS)
