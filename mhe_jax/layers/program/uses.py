"""What a program does with each parameter, and which axes that makes neurons."""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Sequence

from mhe_jax.layers.axes import NeuronAxes
from mhe_jax.layers.names import DEPTHWISE
from mhe_jax.layers.program.digits import Cut, Digit, parts_of
from mhe_jax.layers.program.values import Value, View

ELEMENTWISE = "a bias, scale or table that is added or multiplied, not neurons"
ONE_NEURON = "one neuron: all its axes are summed over"
UNUSED = "the function does not use it"
OF_PARAMETERS = "a product of parameters alone: either could be the data"

PRODUCT, LOOKUP, WEAK, DEPTH, ADDED = range(5)


@dataclasses.dataclass(frozen=True)
class Use:
  """One use of a parameter.

  Attributes:
    kind: a product with data; a lookup; a product with other parameters or constants
      (believed if there is nothing better); a depthwise convolution; or elementwise.
    features: digits that are summed over.
    neurons: digits that are kept.
    stack: digits that run along sets.
    fixed: digits of which the use has one value.
    by_lookup: whether rows of the stack were looked up.
    is_single: whether the data were one vector, as those of a power iteration.
  """

  kind: int
  features: tuple[Digit, ...] = ()
  neurons: tuple[Digit, ...] = ()
  stack: tuple[Digit, ...] = ()
  fixed: tuple[Digit, ...] = ()
  by_lookup: bool = False
  is_single: bool = False


class Uses:
  """The uses of all parameters of a program, as they are met."""

  def __init__(self):
    self.of = defaultdict(dict)  # Parameter -> uses, as keys, in the order met.
    self.cuts: dict[int, dict[Cut, None]] = defaultdict(dict)
    self.rejoined: dict[int, set[Cut]] = defaultdict(set)
    self.stacked: dict[int, set[int]] = defaultdict(set)
    self.stops: dict[int, str] = {}
    self.fed: set[int] = set()
    self.undecided: set[int] = set()  # Factors, of which either could be data.
    self._met: set[int] = set()

  def add(self, param: int, use: Use) -> None:
    self.of[param][use] = None

  def cut(self, view: View) -> None:
    for found in view.cuts:
      self.cuts[view.param][found] = None

  def elementwise(self, value: Value) -> None:
    """A value without data that is added to, multiplied with, or joined to data."""
    for view in value.weights:
      self.add(view.param, Use(ADDED))
    self.stop(value)

  def stop(self, value: Value, primitive: str = "") -> None:
    """A value without data that goes where its parameters cannot be followed."""
    seen = {view.param for view in value.weights} if not primitive else set()
    for param in value.sources - seen:
      self.stops.setdefault(param, primitive or value.stopped)

  def feed(self, value: Value, params: set[int]) -> None:
    """Data go into matrices: those that they came through last are not the last.

    Matrices that have been met before do not count: a gradient goes through them, too.
    """
    if params - self._met:
      self.fed |= {p for found in value.last for p in found} - params
    self._met |= params

  def reading(self, param: int, shape: Sequence[int]) -> "NeuronAxes | str | Unread":
    """The axes of neurons, or why there are none, or why they are not known."""
    by_kind = defaultdict(list)
    for use in self.of[param]:
      by_kind[use.kind].append(use)
    products = sorted(by_kind[PRODUCT], key=lambda use: use.is_single)
    lookups = by_kind[LOOKUP]
    experts = [use for use in products if use.by_lookup]
    # The rows of a table are neurons, also where it is multiplied with, too.
    use = next(iter(experts or lookups or products), None)
    if use is None and DEPTH in by_kind:
      return DEPTHWISE
    if use is None and param in self.stops:
      stop = self.stops[param]
      is_name = stop != OF_PARAMETERS
      return Unread(f"not read behind the primitive {stop!r}" if is_name else stop)
    if use is None and by_kind[WEAK]:
      use = by_kind[WEAK][0]
    if use is None and ADDED in by_kind:
      return ELEMENTWISE
    if use is None:
      return Unread(OF_PARAMETERS if param in self.undecided else UNUSED)
    cuts = [c for c in self.cuts[param] if c not in self.rejoined[param]]
    return axes_of(use, shape, cuts, self.stacked[param])


class Unread(str):
  """Why it is not known where the neurons of a parameter are."""


def axes_of(
  use: Use, shape: Sequence[int], cuts: Sequence[Cut], stacked: set[int]
) -> NeuronAxes | str | Unread:
  """A use in terms of the axes of the parameter."""
  labels: list[set[str]] = [set() for _ in shape]
  for label in ("features", "neurons", "stack"):
    for digit in getattr(use, label):
      labels[digit.axis].add(label)
  for axis, found in enumerate(labels):
    if not found:
      found.add("features" if shape[axis] == 1 else "stack")
  for label in ("features", "neurons"):
    axes = [a for a, found in enumerate(labels) if found == {label}]
    if any(a not in stacked for a in axes):
      for axis in stacked.intersection(axes):
        labels[axis] = {"stack"}
  mixed = [
    a for a, found in enumerate(labels) if "features" in found and len(found) > 1
  ]
  if mixed:
    parts = " and ".join(sorted(labels[mixed[0]]))
    return Unread(f"axis {mixed[0]} holds {parts}")
  neurons = [a for a, found in enumerate(labels) if "neurons" in found]
  features = [a for a, found in enumerate(labels) if "features" in found]
  batch = tuple(a for a, found in enumerate(labels) if found == {"stack"})
  if not neurons:
    ones = [a for a in features if shape[a] == 1]
    if not ones or len(features) < 2:
      return ONE_NEURON
    neurons = ones[-1:]
  if set(neurons) >= set(features) and len(features) < 2:
    return Unread("no axis is summed over")
  # Stacked digits on an axis of neurons are parts of it.
  cuts = [c for c in cuts if c[0] in neurons]
  cuts += [
    (d.axis, d.period, x, x + d.block)
    for d in use.stack
    if d.axis in neurons
    for x in range(d.start, d.start + d.size * d.block, d.block)
  ]
  groups = _groups(neurons, shape, cuts)
  if groups is None:
    return Unread("its neurons fall into parts that groups and turns cannot say")
  return NeuronAxes(tuple(a - len(shape) for a in neurons), batch, *groups)


def _groups(neurons, shape, cuts) -> tuple[int, int] | None:
  """Groups and turns of the flattened neurons; None where they cannot be said."""
  found = []
  total = math.prod(shape[a] for a in neurons)
  before = 1
  for axis in neurons:
    parts = parts_of(cuts, axis, shape[axis])
    if parts is None:
      return None
    groups, turns = parts
    # A part of one neuron is a neuron of which somebody looked at the value.
    if groups > 1 and total // groups > 1:
      found.append((groups, turns * before))
    before *= shape[axis]
  if len(found) > 1:
    return None
  return found[0] if found else (1, 1)
