"""What a sweep was made to ask, answered."""

import math

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


def answers(sweep: Sweep[S], results: Results[S]) -> str:
  """Its comparisons: pairs, differences, and P values corrected for their number.

  Each is made on the seeds that both of its rows have. Empty if none has two pairs.
  """
  pairs = [(ask, pair) for ask in sweep.asks if (pair := _pair(ask, sweep, results))]
  p_values = holm([paired_difference(*errors).p_value for _, errors in pairs])
  lines = [
    [
      f"{ask.row} against {ask.against}",
      ask.column,
      f"{len(first)}",
      difference(first, second) or "no convergence",
      "" if math.isnan(p) else f"{p:.1g}" if p < 0.01 else f"{p:.2f}",
    ]
    for (ask, (first, second)), p in zip(pairs, p_values)
  ]
  header = ["asked beforehand", "of", "pairs", "difference", "P, corrected"]
  return markdown(header, *lines) if lines else ""


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
