"""What else the runs of a column show: rates, training errors, class weights."""

import math

from experiments.faces.presets import Config
from experiments.faces.task import FALSE_ACCEPT_RATES
from experiments.report.cells import mean_and_spread
from experiments.report.columns import Column
from experiments.report.markdown import markdown
from experiments.runs.results import from_json

MEASURES = {
  "EER, %": "equal_error_rate",
  "training error, %": "train_error",
  "smallest angle": "smallest_angle",
  "mean angle to the nearest": "nearest_angle",
  "mean angle": "mean_angle",
}


def details(column: Column[Config]) -> str:
  """Means and standard deviations over the seeds; angles are in degrees."""
  rates = [rate for rate in FALSE_ACCEPT_RATES if _has(column, rate)]
  header = [column.title, *(f"TAR at FAR {rate}, %" for rate in rates), *MEASURES]
  lines = []
  for row in column.arms:
    line = [row]
    for rate in rates:
      numbers = [
        from_json(run["true_accept_rates"][rate]) if "diverged" not in run else math.nan
        for run in column.runs(row)
      ]
      line.append(mean_and_spread(numbers))
    line += [mean_and_spread(column.values(row, name)) for name in MEASURES.values()]
    line.append(mean_and_spread(column.values(row, "class_excess"), 3))
    lines.append(line)
  return markdown([*header, "excess of the class weights"], *lines)


def _has(column, rate):
  """Whether the pairs are enough for a rate."""
  return any(
    run["true_accept_rates"][rate] is not None
    for row in column.arms
    for run in column.runs(row)
    if "diverged" not in run
  )


def rank_one(column: Column[Config]) -> str:
  """Rank-1 accuracy among more and more distractors."""
  finished = [
    run for row in column.arms for run in column.runs(row) if "diverged" not in run
  ]
  if not finished:
    return ""
  counts = finished[0]["rank_one"]["distractors"]
  lines = [
    [
      row,
      *(
        mean_and_spread(
          from_json(run["rank_one"]["accuracy"][place])
          if "diverged" not in run
          else math.nan
          for run in column.runs(row)
        )
        for place in range(len(counts))
      ),
    ]
    for row in column.arms
  ]
  return markdown(["rank-1, %; distractors", *(f"{n:,}" for n in counts)], *lines)
