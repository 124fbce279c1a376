"""What a sweep was made to ask, answered."""

import math
from typing import NamedTuple

from experiments.report.cells import difference
from experiments.report.columns import Column, columns_of
from experiments.report.markdown import markdown
from experiments.report.statistics import holm, paired_difference
from experiments.report.tables import table
from experiments.runs.plan import Comparison, Sweep
from experiments.runs.results import Results
from experiments.runs.task import S


def table_and_answers(sweep: Sweep[S], results: Results[S]) -> str:
  """The table of a sweep, and below it what it was made to ask.

  Empty if there is nothing to show of either.
  """
  parts = (
    table(sweep, results) if columns_of(sweep, results) else "",
    answers(sweep, results),
  )
  return "\n\n".join(filter(None, parts))


class Answer(NamedTuple):
  """An answer to one of the questions of a sweep.

  Attributes:
    ask: the question.
    first: errors of what is compared with,
    second: and of what is compared, by seed.
    p_value: corrected for the number of the sweep's questions (Holm); NaN where runs do
      not converge.
  """

  ask: Comparison
  first: list[float]
  second: list[float]
  p_value: float


def answered(sweep: Sweep[S], results: Results[S]) -> list[Answer]:
  """Its comparisons, each on the seeds that both rows have; of two pairs and more."""
  pairs = [(ask, pair) for ask in sweep.asks if (pair := _pair(ask, sweep, results))]
  p_values = holm([paired_difference(*errors).p_value for _, errors in pairs])
  return [Answer(ask, *errors, p) for (ask, errors), p in zip(pairs, p_values)]


def answers(sweep: Sweep[S], results: Results[S]) -> str:
  """What was asked, in a table; empty if there is no answer."""
  lines = [
    [
      f"{x.ask.row} against {x.ask.against}",
      x.ask.column,
      f"{len(x.first)}",
      difference(x.first, x.second) or "no convergence",
      probability(x.p_value),
    ]
    for x in answered(sweep, results)
  ]
  header = ["pre-registered", "of", "pairs", "difference", "P, corrected"]
  return markdown(header, *lines) if lines else ""


def probability(p: float) -> str:
  """In two digits, or one where it is small."""
  return "" if math.isnan(p) else f"{p:.1g}" if p < 0.01 else f"{p:.2f}"


def _pair(
  ask: Comparison, sweep: Sweep[S], results: Results[S]
) -> tuple[list[float], list[float]] | None:
  """Errors of both rows, by seed; None of fewer than two seeds."""
  arms = {arm.row: arm for arm in sweep.arms if arm.column == ask.column}
  rows = (ask.against, ask.row)
  column = Column(results, [arms[row] for row in rows], sweep.seeds)
  if len(column.arms) < 2 or len(column.seeds) < 2:
    return None
  first, second = (column.values(row) for row in rows)
  return first, second
