"""Sweeps: which runs an experiment has, as the cells of a table."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Generic, NamedTuple

from experiments.runs.task import S


class Arm(NamedTuple, Generic[S]):
  """One cell of a table.

  Attributes:
    row: what is done.
    column: on what.
    config: its runs, but for the seed.
    paper: what the paper reports, if it does; NaN where it says that training does
      not converge.
    measure: which entry of a result is the error; of several, the mean of them.
  """

  row: str
  column: str
  config: S
  paper: float | None = None
  measure: str | tuple[str, ...] = "test_error"


class Comparison(NamedTuple):
  """What a sweep was made to ask: fixed before its first run.

  Attributes:
    row: whose errors are compared,
    against: with those of this row,
    column: in this column.
  """

  row: str
  against: str
  column: str


class Sweep(NamedTuple, Generic[S]):
  """A table.

  Attributes:
    title: what it is about.
    rows: what tells its rows apart.
    arms: its cells. Those of the first row are what the others of their column are
      compared with.
    seeds: of the runs of a cell.
    compared: show how the others differ from the first row.
    last: its runs come after those of all other sweeps: they take days.
    asks: the comparisons that it was made for; their P values are corrected together.
  """

  title: str
  rows: str
  arms: list[Arm[S]]
  seeds: range
  compared: bool = True
  last: bool = False
  asks: tuple[Comparison, ...] = ()


def runs_of(sweeps: Iterable[Sweep[S]], seeds: Sequence[int] | None = None) -> list[S]:
  """Runs of some sweeps, each once, all of a seed before those of a larger one.

  Args:
    sweeps: which.
    seeds: only these of the seeds that each sweep has.
  """
  runs = [
    (sweep.last, dataclasses.replace(arm.config, seed=seed))
    for sweep in sweeps
    for arm in sweep.arms
    for seed in sweep.seeds
    if seeds is None or seed in seeds
  ]
  runs.sort(key=lambda run: (run[0], run[1].seed))
  return list(dict.fromkeys(config for _, config in runs))
