"""The table of a sweep: what its runs reached, and how they differ."""

import collections

from experiments.report.cells import difference, mean_and_spread, reported
from experiments.report.columns import columns_of
from experiments.report.markdown import markdown
from experiments.report.pages import wrapped
from experiments.runs.plan import Sweep
from experiments.runs.results import Results
from experiments.runs.task import S


def table(sweep: Sweep[S], results: Results[S]) -> str:
  """Errors, paired differences to the first row, and the paper's numbers.

  Args:
    sweep: has columns with runs.
    results: of these.
  """
  columns = columns_of(sweep, results)
  header, lines = [sweep.rows], {arm.row: [arm.row] for arm in sweep.arms}
  for column in columns:
    header += [column.title, f"against {column.rival}", "paper"]
    rival = column.arms.get(column.rival)
    for row, line in lines.items():
      arm = column.arms.get(row)
      if arm is None:
        line += ["", "", ""]
        continue
      own, paper = "", reported(arm.paper, None)
      if rival is not None and rival is not arm:
        paper = reported(arm.paper, rival.paper)
        if sweep.compared:
          own = difference(column.values(column.rival), column.values(row))
      line += [mean_and_spread(column.values(row)), own, paper]
  finished = [line for line in lines.values() if any(line[1:])]
  # A column of numbers that nobody reports is not shown.
  told = [i for i in range(len(header)) if any(line[i] for line in finished)]
  text = markdown(*([line[i] for i in told] for line in (header, *finished)))
  return f"{text}\n\n{_seeds(columns)}"


def _seeds(columns):
  counts = sorted({len(column.seeds) for column in columns})
  text = f"Runs of a cell: {' to '.join(map(str, {counts[0]: 0, counts[-1]: 0}))}."
  if left_out := sum(column.left_out for column in columns):
    text += (
      f" Not shown: {left_out} runs of seeds that are not finished in all rows of "
      "their column."
    )
  return "\n\n".join([text, *filter(None, map(_devices, columns))])


def _devices(column):
  """Which rows ran elsewhere than most, for rounding differs by device; or nothing."""
  devices = {
    row: [run["device"].split(",")[0] for run in column.runs(row) if "device" in run]
    for row in column.arms
  }
  counts = collections.Counter(device for found in devices.values() for device in found)
  if len(counts) < 2:
    return ""
  most, *others = (device for device, _ in counts.most_common())
  elsewhere = [
    f"{', '.join(row for row, found in devices.items() if device in found)} on {device}"
    for device in others
  ]
  return wrapped(
    f"{column.title} is not all of one device: {'; '.join(elsewhere)}, all else on "
    f"{most}."
  )
