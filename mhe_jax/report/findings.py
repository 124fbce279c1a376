"""What is unusual about the layers of a model, and what to do about it.

Every trained layer is more redundant than random directions, so that this alone says
nothing. What says something is a layer that differs from those of the same role in the
model, two neurons that are one, and neurons that are dead.
"""

import dataclasses
import math
import re
from collections.abc import Iterable

import numpy as np

from mhe_jax.report.parts import ASSUMED
from mhe_jax.report.rows import RedundancyRow
from mhe_jax.report.tables import shown
from mhe_jax.report.typical import typical

# Tables of so few rows have too few pairs to say something.
FEWEST = 8
_FEWEST_LIKES = 4
# Of logarithms of excesses: half as much again, and by the usual rule for outliers.
_RATIO, _DEVIATIONS = math.log(1.5), 3.5 * 1.4826
_ONE_FEATURE = 5.0  # Degrees.
_MANY_TWINS = 0.25
_MUCH = 2.0


@dataclasses.dataclass(frozen=True)
class Finding:
  """Something unusual about a layer.

  Attributes:
    name: of the layer.
    what: what is unusual.
    advice: what to do next.
    size: by how much, for the order; of one kind.
  """

  name: str
  what: str
  advice: str
  size: float = 0.0

  def __str__(self) -> str:
    return f"{shown(self.name)}: {self.what}; {self.advice}"


def findings(rows: Iterable[RedundancyRow]) -> tuple[Finding, ...]:
  """What is unusual, of rows that are read on evidence; what is damaged, of all."""
  all_rows = tuple(rows)
  rows = [row for row in all_rows if row.evidence != ASSUMED]
  found = [x for row in all_rows if (x := _damaged(row)) is not None]
  for kind in (_zeros, _one_feature):
    found += [x for row in rows if (x := kind(row)) is not None]
  unlike = sorted(_unlike_their_likes(rows), key=lambda x: -x.size)
  told = {x.name for x in (*found, *unlike)}
  above = [_compare_published(row) for row in rows if row.name not in told]
  return (*found, *unlike, *(x for x in above if x is not None))


def _damaged(row) -> Finding | None:
  if not math.isnan(row.energy):
    return None
  return Finding(row.name, "NaN or infinity", "do not use this file")


def _zeros(row) -> Finding | None:
  if not row.zero_neurons:
    return None
  what = f"{row.zero_neurons} of {row.sets * row.n} neurons are zero"
  return Finding(row.name, what, "prune them")


def _one_feature(row) -> Finding | None:
  if row.n < FEWEST or row.closest is None:
    return None
  if not row.smallest_angle < min(_ONE_FEATURE, row.twin_angle):
    return None
  pair = " and ".join(map(str, row.closest[-2:]))
  if row.sets > 1:
    pair += f" of set {row.closest[0]}"
  what = f"{pair} are {row.smallest_angle:.2g} degrees apart"
  if "embedding" in row.read_as:
    return Finding(row.name, f"rows {what}", "look whether these tokens were trained")
  return Finding(row.name, f"neurons {what}", "one of the two can go")


def _unlike_their_likes(rows) -> Iterable[Finding]:
  by_likes: dict[tuple, list[RedundancyRow]] = {}
  for row in rows:
    if row.relative_excess > 0 and row.n >= FEWEST:
      by_likes.setdefault((likes(row.name), row.role), []).append(row)
  for same in by_likes.values():
    if len(same) < _FEWEST_LIKES:
      continue
    x = np.log([row.relative_excess for row in same])
    middle = float(np.median(x))
    limit = max(_RATIO, _DEVIATIONS * float(np.median(np.abs(x - middle))))
    for row, log_excess in zip(same, x):
      if abs(log_excess - middle) > limit:
        yield _unlike(row, math.exp(middle), len(same) - 1, abs(log_excess - middle))


def _unlike(row, middle, count, size) -> Finding:
  what = (
    f"excess {row.relative_excess:.2f}, where the {count} layers like it have "
    f"{middle:.2f}"
  )
  if row.relative_excess < middle:
    return Finding(row.name, what, "nothing to do: it is the more diverse", size)
  return _advised(row, what, size)


def _advised(row, what, size=0.0) -> Finding:
  if row.twins > _MANY_TWINS:
    advice = f"prune twins ({row.twins:.0%} of its neurons have one)"
  elif row.closest is not None:
    pair = " and ".join(map(str, row.closest[-2:]))
    advice = f"look at neurons {pair}, the nearest"
  else:
    advice = "look at it"
  return Finding(row.name, what, advice, size)


def _compare_published(row) -> Finding | None:
  published = typical(row)
  if row.n < FEWEST or published is None:
    return None
  if not row.relative_excess > _MUCH * published.most:
    return None
  what = (
    f"excess {row.relative_excess:.2f}, where {published.num_layers} published layers "
    f"of its kind have {published}"
  )
  return _advised(row, what)


def likes(name: str) -> str:
  """A name without its numbers: layers of one role in all blocks share it."""
  return re.sub(r"\d+", "#", name)
