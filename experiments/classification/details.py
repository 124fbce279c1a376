"""What else the runs of a column show: losses, training errors, layers, features."""

import math
from collections.abc import Callable
from itertools import compress
from typing import Any

import numpy as np
import scipy.stats

from experiments.classification.presets import Config
from experiments.excess import hidden_excess
from experiments.models import OUTPUT
from experiments.report.cells import difference, mean_and_spread
from experiments.report.columns import Column, columns_of
from experiments.report.markdown import markdown
from experiments.runs.plan import Sweep
from experiments.runs.results import Results, from_json

HALF_A_POINT = 0.5


def losses(column: Column[Config]) -> str:
  """Losses, training errors, redundancy at the end."""
  header = [
    column.title, "test loss", f"against {column.rival}", "training error",
    "training loss", "excess, hidden", "excess, output",
  ]  # fmt: skip
  lines = []
  for row in column.arms:
    test = column.values(row, "test_loss")
    last = [run["history"][-1] for run in column.runs(row)]
    lines.append(
      [
        row,
        mean_and_spread(test, 3),
        difference(column.values(column.rival, "test_loss"), test, 3)
        if column.has_rival and row != column.rival
        else "",
        f"{np.mean(column.values(row, 'train_error')):.2f}",
        f"{np.mean(column.values(row, 'train_loss')):.3f}",
        f"{np.mean([hidden_excess(entry['excess']) for entry in last]):.2f}",
        f"{np.mean([from_json(entry['excess'][OUTPUT]) for entry in last]):.2f}",
      ]
    )
  return markdown(header, *lines)


def inside(sweep: Sweep[Config], results: Results[Config]) -> str:
  """What differs in the networks: means over the seeds, of every cell of a sweep.

  The gap of the errors, test minus training; of the hidden layers the excess: of the
  median layer and of the worst, each at its highest and at the end; the effective rank
  of the features; and by how much steps turn the neurons, learning rate over squared
  norm, at the end, against that of the first row (geometric mean over layers). Of the
  runs that converge alone: the others have no features to speak of.
  """
  header = [
    "", sweep.rows, "training error", "test minus training", "excess, median: highest",
    "end", "excess, worst layer: highest", "end", "rank of features",
    "effective rate",
  ]  # fmt: skip
  lines = []
  for column in columns_of(sweep, results):
    errors = {row: np.array(column.values(row)) for row in column.arms}
    converged = {row: np.isfinite(errors[row]) for row in column.arms}
    for row in column.arms:
      kept = converged[row]
      if not kept.any():
        lines.append([column.title, row, "no convergence", *[""] * 7])
        continue
      runs = list(compress(column.runs(row), kept))
      median = np.array([over_layers(run, np.median) for run in runs])
      worst = np.array([over_layers(run, np.max) for run in runs])
      train = np.array(column.values(row, "train_error"))[kept]
      rate = ""
      pairs = kept & converged.get(column.rival, False)
      if row != column.rival and pairs.any():
        before, after = (
          np.mean([_log_norm(run) for run in compress(column.runs(name), pairs)])
          for name in (column.rival, row)
        )
        rate = f"{math.exp(2.0 * (before - after)):.2f}"
      lines.append(
        [
          column.title,
          row if kept.all() else f"{row} ({kept.sum()} of {len(kept)} converge)",
          f"{train.mean():.2f}",
          f"{np.mean(errors[row][kept] - train):+.2f}",
          *(f"{x:.2f}" for x in (*median.mean(0), *worst.mean(0))),
          f"{np.mean([from_json(run['feature_rank']) for run in runs]):.0f}",
          rate,
        ]
      )
  return markdown(header, *lines) if lines else ""


def over_layers(
  run: dict[str, Any], of: Callable[[list[float]], float]
) -> tuple[float, float]:
  """Of the hidden layers' excess: its highest after the start, and at the end.

  Args:
    run: its result.
    of: makes one number of those of the layers.
  """
  numbers = [
    of([from_json(v) for layer, v in entry["excess"].items() if layer != OUTPUT])
    for entry in run["history"][1:]
  ]
  return max(numbers), numbers[-1]


def _log_norm(run):
  """Of the hidden layers at the end, whose scale the next batch norm takes out."""
  norms = run["history"][-1]["norm"]
  return np.mean([math.log(norms[layer]) for layer in norms if layer != OUTPUT])


def rounding(sweep: Sweep[Config], results: Results[Config]) -> str:
  """How far runs of one seed lie apart that differ by rounding alone.

  And of how many pairs the mean would have a 95% interval of half a point either way,
  if that were all that differs.
  """
  lines = []
  for column in columns_of(sweep, results):
    errors = [error for row in column.arms for error in column.values(row)]
    if len(errors) < 2:
      continue
    spread = float(np.std(errors, ddof=1))
    lines.append(
      [
        column.title,
        f"{len(errors)}",
        f"{min(errors):.2f} to {max(errors):.2f}",
        f"{spread:.2f}",
        f"{math.sqrt(2.0) * spread:.2f}",
        _pairs_for(HALF_A_POINT, math.sqrt(2.0) * spread),
      ]
    )
  header = [
    "", "runs of one seed", "test errors", "standard deviation",
    "of a difference of two", "pairs for an interval of half a point either way",
  ]  # fmt: skip
  return markdown(header, *lines) if lines else ""


def _pairs_for(half_width, spread):
  """How many differences of that standard deviation have such an interval (Student)."""
  counts = np.arange(2, 10_000)
  widths = scipy.stats.t.ppf(0.975, counts - 1) * spread / np.sqrt(counts)
  enough = counts[widths <= half_width]
  return f"{enough[0]}" if len(enough) else f"over {counts[-1]:,}"
