"""What is known of a value of a program: which parameters it shows, and how."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from mhe_jax.layers.program.digits import Axis, Cut, Cutting, Digit, foreign, whole


@dataclasses.dataclass(frozen=True)
class View:
  """A parameter, or the product with one, as it lies in the axes of a value.

  Attributes:
    param: number of the parameter.
    axes: those of the value. Of a product, the digits are those of the neurons.
    product: whether it is what came out of a product with the parameter.
    stack: digits that run along sets: axes of a scan or of a batch of products.
    fixed: digits of which one value was taken, as ``w[0]`` does.
    chosen: digits that data look up, as ``w[tokens]`` does.
    inner: digits that were summed over with another parameter, as those of ``a @ b``.
    merged: whether a product of parameters was added to another of all its axes.
    cuts: the parts that slices took.
    free: axes of the value along which nothing else varies.
    linear: whether it was only scaled and added to others since it came.
    added: whether data were added to it, so that it is no matrix of weights.
  """

  param: int
  axes: tuple[Axis, ...]
  product: bool = False
  stack: tuple[Digit, ...] = ()
  fixed: tuple[Digit, ...] = ()
  chosen: tuple[Digit, ...] = ()
  inner: tuple[Digit, ...] = ()
  merged: bool = False
  cuts: tuple[Cut, ...] = ()
  free: frozenset[int] = frozenset()
  linear: bool = True
  added: bool = False

  def digits(self, axes: Iterable[int]) -> tuple[Digit, ...]:
    """The parameter's digits on these axes."""
    return tuple(d for a in axes for d in self.axes[a].own)

  def taken(self, axis: int, cutting: Cutting) -> "View":
    """After a slice of one axis."""
    axes = (*self.axes[:axis], cutting.axis, *self.axes[axis + 1 :])
    fixed = self.fixed + tuple(d for d in cutting.fixed if d.axis >= 0)
    cuts = tuple(dict.fromkeys(self.cuts + cutting.cuts))
    return dataclasses.replace(self, axes=axes, fixed=fixed, cuts=cuts)

  def moved(self, places: Sequence[int | None], shape: Sequence[int]) -> "View":
    """With axis ``i`` at ``places[i]`` of a value of another shape, or nowhere."""
    axes = [foreign(size) for size in shape]
    for old, new in enumerate(places):
      if new is not None:
        axes[new] = self.axes[old]
    free = frozenset(
      p for i, p in enumerate(places) if p is not None and i in self.free
    )
    new = frozenset(range(len(shape))) - {p for p in places if p is not None}
    return dataclasses.replace(self, axes=tuple(axes), free=free | new)


@dataclasses.dataclass(frozen=True)
class Value:
  """What is known of a value.

  Attributes:
    data: whether it depends on data, or acts as if it did; not on parameters and
      constants alone.
    views: of parameters in it.
    sources: parameters that a value without data was made of.
    stopped: the primitive behind which the sources can not be seen in it.
    last: the matrices that it came through last; sets, because a sum of scalars has
      several outputs. ``~p`` is a lookup in p.
    constant: axes along which it is constant.
    one_hot: the axis along which one entry is 1 and all others 0.
  """

  data: bool = False
  views: tuple[View, ...] = ()
  sources: frozenset[int] = frozenset()
  stopped: str = ""
  last: frozenset[frozenset[int]] = frozenset()
  constant: frozenset[int] = frozenset()
  one_hot: int | None = None

  @property
  def is_constant(self) -> bool:
    return not self.data and not self.sources

  @property
  def weights(self) -> tuple[View, ...]:
    """Views of parameters themselves, that a product can use."""
    return tuple(v for v in self.views if not v.product)

  @property
  def is_composite(self) -> bool:
    """Whether it is a product of parameters that nothing has been added to."""
    return any(v.inner and not v.merged for v in self.weights)

  def replace(self, **changes: Any) -> "Value":
    return dataclasses.replace(self, **changes)


def parameter(number: int, shape: Sequence[int]) -> Value:
  """The value that a parameter is."""
  axes = tuple(whole(axis, size) for axis, size in enumerate(shape))
  view = View(number, axes, free=frozenset(range(len(shape))))
  return Value(views=(view,), sources=frozenset({number}))


def union(sets: Iterable[frozenset[frozenset[int]]]) -> frozenset[frozenset[int]]:
  """One set of all matrices that values came through."""
  united = frozenset(p for alternatives in sets for s in alternatives for p in s)
  return frozenset({united}) if united else frozenset()


def distinct(views: Iterable[View]) -> tuple[View, ...]:
  """Each view once, in the order met."""
  return tuple(dict.fromkeys(views))


def join(values: Sequence[Value]) -> Value:
  """What is known of one of several values: of branches, or of turns of a loop."""
  first, *rest = values
  if all(v == first for v in rest):
    return first
  last = union(v.last for v in values)
  return Value(
    data=any(v.data for v in values),
    views=distinct(view for v in values for view in v.views),
    sources=frozenset().union(*(v.sources for v in values)),
    stopped=next((v.stopped for v in values if v.stopped), ""),
    last=last,
    constant=frozenset.intersection(*(v.constant for v in values)),
  )


def shape_of(variable: Any) -> tuple[int, ...]:
  """The shape of a variable or literal of a jaxpr; of tokens and the like, none."""
  return tuple(getattr(variable.aval, "shape", ()))


def long_axes(shape: Sequence[int]) -> frozenset[int]:
  """Axes of more than one entry, along which a value can be constant."""
  return frozenset(a for a, size in enumerate(shape) if size != 1)
