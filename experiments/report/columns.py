"""Columns of tables: which finished runs are compared with which."""

import math
from collections.abc import Sequence
from typing import Generic

from experiments.errors import InputError
from experiments.runs.plan import Arm, Sweep
from experiments.runs.results import Results, from_json
from experiments.runs.task import S


class Column(Generic[S]):
  """A column of a table: its arms that have runs, on the seeds that all these share.

  A pair of runs scatters by as much as they are to differ. So arms of one run are left
  out where others have more: they have just begun.

  Args:
    results: the runs.
    arms: of one column of a sweep, first the one that the others are compared with.
    seeds: of the sweep.

  Attributes:
    title: of the column.
    arms: ``{row: arm}`` of those that have runs.
    rival: row of what the others are compared with.
    seeds: of the runs of every arm.
    left_out: how many runs have other seeds.

  Raises:
    InputError: runs of a seed saw their images in different orders, or were scored by
      different critics.
  """

  def __init__(self, results: Results[S], arms: Sequence[Arm[S]], seeds: range):
    self.title, self.rival = arms[0].column, arms[0].row
    found = {
      arm.row: {s: r for s, r in results.of(arm.config).items() if s in seeds}
      for arm in arms
    }
    most = max(map(len, found.values()))
    least = 2 if most > 1 else 1
    self.arms = {arm.row: arm for arm in arms if len(found[arm.row]) >= least}
    shared = [set(found[row]) for row in self.arms]
    self.seeds = sorted(set.intersection(*shared)) if shared else []
    self._runs = {row: [found[row][s] for s in self.seeds] for row in self.arms}
    count = sum(map(len, found.values()))
    self.left_out = count - len(self.seeds) * len(self.arms)
    for runs in zip(*self._runs.values()):
      self._check(runs, "order", "see their images in one order")
      self._check(runs, "critic", "be scored by one critic")

  def _check(self, runs, name, must):
    """That what is compared differs in nothing else: most often an earlier revision."""
    if len({run["data"].get(name) for run in runs}) > 1:
      raise InputError(
        f"runs of {self.title} that are compared must {must}, got "
        f"{', '.join(str(run.get('name')) for run in runs)}: some are to be repeated."
      )

  @property
  def has_rival(self) -> bool:
    """Whether there is something to compare with."""
    return self.rival in self.arms

  def runs(self, row: str) -> list[dict]:
    """Of an arm, in the order of the seeds; none if it has none."""
    return self._runs.get(row, [])

  def values(
    self, row: str, measure: str | tuple[str, ...] | None = None
  ) -> list[float]:
    """A measure of these runs, the error of the arm if none is named.

    Of several measures, their mean.

    NaN of all runs that diverged: which say so, or have some final measure without a
    number (a network of NaN has an error, too).
    """
    names = measure or self.arms[row].measure
    names = (names,) if isinstance(names, str) else names
    return [_mean(run, names) for run in self.runs(row)]


def _mean(run, names):
  if "diverged" in run or None in run.values():
    return math.nan
  for name in names:
    if name not in run:
      raise InputError(f"the result {run.get('name')} must have {name}.")
  return sum(from_json(run[name]) for name in names) / len(names)


def columns_of(sweep: Sweep[S], results: Results[S]) -> list[Column[S]]:
  """Those that have runs: of one seed only where the sweep has no other."""
  titles = dict.fromkeys(arm.column for arm in sweep.arms)
  columns = [
    Column(results, [arm for arm in sweep.arms if arm.column == title], sweep.seeds)
    for title in titles
  ]
  least = min(2, len(sweep.seeds))
  return [column for column in columns if len(column.seeds) >= least]
