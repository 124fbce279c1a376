"""Axes of a value in terms of the axes of a parameter: reshapes, cuts.

Reshapes merge and split axes, slices cut them. What is left of an axis is written in
digits, as an index is in a mixed radix: the axis of 12 that held 3 heads of 4 is one
digit of 12, and after a reshape two digits, of 3 and of 4.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

# A part of a parameter's axis: indices i with start <= i % period < stop.
Cut = tuple[int, int, int, int]  # axis, period, start, stop


class Digit(NamedTuple):
  """The digit ``(i % period - start) // block`` of the index i of an axis.

  Attributes:
    axis: of the parameter; -1 for sizes that are not the parameter's.
    period: after which it repeats.
    block: how many indices share a value.
    start: where its values begin, in indices.
    size: number of its values.
  """

  axis: int
  period: int
  block: int
  start: int
  size: int

  def split(self, minor: int) -> "tuple[Digit, Digit] | None":
    """As two digits, the second of size ``minor``; None where none are whole."""
    block = self.block * minor
    if self.size % minor or (self.start % block and self.axis >= 0):
      return None
    major = self._replace(block=block, size=self.size // minor)
    return major, Digit(self.axis, block, self.block, 0, minor)


class Axis(NamedTuple):
  """An axis of a value: its digits, the major first.

  Attributes:
    digits: of a parameter, and of sizes that are not its own.
    exact: whether index and digits determine each other. Otherwise it is only known
      that these digits are on this axis (of padded, joined or permuted parameters).
  """

  digits: tuple[Digit, ...] = ()
  exact: bool = True

  @property
  def own(self) -> tuple[Digit, ...]:
    """The digits that are the parameter's."""
    return tuple(d for d in self.digits if d.axis >= 0)


def whole(axis: int, size: int) -> Axis:
  """All of an axis of a parameter."""
  return Axis((Digit(axis, size, 1, 0, size),))


def foreign(size: int) -> Axis:
  """An axis that the parameter does not have."""
  return whole(-1, size) if size > 1 else Axis()


def shared(old: Sequence[int], new: Sequence[int]) -> list[tuple[list, list]]:
  """The axes that a reshape turns into each other: smallest equal products.

  >>> shared((6, 4, 5), (2, 12, 5))
  [([0, 1], [0, 1]), ([2], [2])]
  """
  groups, i, j = [], 0, 0
  while i < len(old) or j < len(new):
    before = i, j
    i, j = min(i + 1, len(old)), min(j + 1, len(new))
    while math.prod(old[before[0] : i]) != math.prod(new[before[1] : j]):
      if math.prod(old[before[0] : i]) < math.prod(new[before[1] : j]):
        i += 1
      else:
        j += 1
    groups.append(([*range(before[0], i)], [*range(before[1], j)]))
  return groups


def reshape(
  axes: Sequence[Axis], old: Sequence[int], new: Sequence[int]
) -> tuple[Axis, ...] | None:
  """Axes of a value after a reshape; None of a value without entries."""
  if 0 in old:
    return None
  out = dict.fromkeys(range(len(new)), Axis())
  for ins, outs in shared(old, new):
    sizes = {j: new[j] for j in outs if new[j] != 1}
    sources = [axes[i] for i in ins if old[i] != 1]
    digits = tuple(d for axis in sources for d in axis.digits)
    parts = None
    if all(axis.exact for axis in sources):
      parts = _distribute(digits, [*sizes.values()])
    if len(sources) == len(sizes) == 1:
      out[next(iter(sizes))] = sources[0]
    elif parts is not None:
      out |= {j: Axis(_joined(part)) for j, part in zip(sizes, parts)}
    else:  # On one of these axes; which one is not known.
      out |= dict.fromkeys(sizes, Axis(digits, exact=False))
  return tuple(out[j] for j in range(len(new)))


def _distribute(digits, sizes):
  """Digits, major first, dealt out to axes of these sizes."""
  pool, parts = [d for d in digits if d.size > 1], []
  for needed in reversed(sizes):
    part: list[Digit] = []
    size = needed
    while size > 1:
      digit = pool.pop()
      if digit.size > size:
        pair = digit.split(size) if digit.size % size == 0 else None
        if pair is None:
          return None
        pool.append(pair[0])
        digit = pair[1]
      if size % digit.size:
        return None
      part.insert(0, digit)
      size //= digit.size
    parts.insert(0, part)
  return parts


def _joined(digits: Sequence[Digit]) -> tuple[Digit, ...]:
  """Neighbors that are one digit of an axis, as one."""
  joined: list[Digit] = []
  for digit in digits:
    last = joined[-1] if joined else None
    fits = (
      last is not None
      and (last.axis, last.block) == (digit.axis, digit.period)
      and (digit.start, digit.block * digit.size) == (0, digit.period)
    )
    if last is not None and fits:
      size = last.size * digit.size
      joined[-1] = last._replace(block=digit.block, size=size)
    else:
      joined.append(digit)
  return tuple(joined)


class Cutting(NamedTuple):
  """What a slice leaves of an axis.

  Attributes:
    axis: what is left.
    fixed: digits that have one value now.
    cuts: the parts of the parameter's axes that it is restricted to.
  """

  axis: Axis
  fixed: tuple[Digit, ...] = ()
  cuts: tuple[Cut, ...] = ()


def cut(axis: Axis, size: int, start: int, stop: int, stride: int = 1) -> Cutting:
  """The indices ``start:stop:stride`` of an axis of this size."""
  count = len(range(start, stop, stride))
  if not count:
    return Cutting(Axis(exact=False))
  if count == size or not axis.exact:
    return Cutting(axis)
  fixed: list[Digit] = []
  cuts: list[Cut] = []
  digits = [*axis.digits]
  while True:
    major, rest = digits[0], digits[1:]
    inner = math.prod(d.size for d in rest)
    if stride != 1 and (rest or count != len(range(start, size, stride))):
      return Cutting(axis._replace(exact=False))
    if start % inner == 0 and stop % inner == 0:
      first = major.start + start // inner * major.block
      left = major._replace(
        start=first,
        block=major.block * stride,
        size=count if stride != 1 else (stop - start) // inner,
      )
      if major.axis >= 0:
        cuts.append(_part(major, left, stride))
      if left.size == 1:
        fixed.append(left)
        return Cutting(Axis(tuple(rest)), tuple(fixed), tuple(cuts))
      return Cutting(Axis((left, *rest)), tuple(fixed), tuple(cuts))
    value = start // inner
    if value != (stop - 1) // inner:
      return Cutting(axis._replace(exact=False), tuple(fixed), tuple(cuts))
    one = major._replace(start=major.start + value * major.block, size=1)
    fixed.append(one)
    if major.axis >= 0:
      cuts.append(_part(major, one, 1))
    start, stop, digits = start - value * inner, stop - value * inner, rest


def _part(whole: Digit, left: Digit, stride: int) -> Cut:
  if stride == 1:
    return whole.axis, whole.period, left.start, left.start + left.block * left.size
  first = left.start % left.block  # Parts that take turns.
  return whole.axis, left.block, first, first + whole.block


def parts_of(cuts: Sequence[Cut], axis: int, size: int) -> tuple[int, int] | None:
  """Into how many equal parts, and in how many turns, the cuts divide an axis.

  Uneven parts are one set: ``(1, 1)``. None where parts lie in parts in a way that
  groups and turns cannot say.

  >>> parts_of([(0, 12, 0, 4), (0, 12, 4, 8)], 0, 12)
  (3, 1)
  >>> parts_of([(0, 2, 0, 1)], 0, 12)  # Every second one.
  (2, 6)
  """
  found = []
  for period in sorted({c[1] for c in cuts if c[0] == axis}, reverse=True):
    ends = {0, period}
    ends |= {x for c in cuts if c[:2] == (axis, period) for x in c[2:]}
    steps = {b - a for a, b in zip(sorted(ends), sorted(ends)[1:])}
    if len(steps) == 1 and size % period == 0 and (step := steps.pop()) < period:
      found.append((period, step))
  # Parts of parts: gates of q, k and v.
  while len(found) > 1 and found[0][1] == found[1][0]:
    found[:2] = [(found[0][0], found[1][1])]
  if not found:
    return 1, 1
  if len(found) > 1:
    return None
  ((period, step),) = found
  return period // step, size // period
