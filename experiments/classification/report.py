"""Every table and figure of the paper's experiments, from the JSON of the runs alone.

  python -m experiments.classification.report --output docs --readme README.md
  python -m experiments.classification.report --preset smoke --results FOLDER

Writes OUTPUT/classification.md and OUTPUT/images/classification_*.png. Of a page that
is there already, only what stands between "<!-- NAME -->" and "<!-- end of NAME -->" is
replaced, NAME being a sweep or "summary".
"""

import json
import math
import pathlib
import textwrap
from collections.abc import Iterable
from typing import Literal

import numpy as np
import tyro
from rich.console import Console

from experiments.benchmarks import train_step
from experiments.classification.figures import draw_all
from experiments.classification.paper import (
  BASELINE,
  DATASETS,
  HALF_MHE,
  MHE,
  ORTHONORMAL,
  Sweep,
  sweeps_of,
)
from experiments.errors import InputError, make_folder, told_in_a_line
from experiments.models import OUTPUT
from experiments.report.markdown import markdown
from experiments.report.statistics import holm, paired_difference
from experiments.runs.results import Column, Results, columns_of, hidden_excess, number

RESULTS = pathlib.Path(__file__).parents[1] / "results" / "classification"
COST = RESULTS.parent / "benchmark_train_step.json"


def mean_and_spread(numbers: Iterable[float], digits: int = 2) -> str:
  """Mean and standard deviation."""
  numbers = list(numbers)
  count = len(numbers)
  numbers = [x for x in numbers if math.isfinite(x)]
  if not count:
    return ""
  if not numbers:
    return "no convergence"
  if len(numbers) < count:
    rest = mean_and_spread(numbers, digits)
    return f"{count - len(numbers)} of {count} do not converge, others {rest}"
  text = f"{np.mean(numbers):.{digits}f}"
  return f"{text} ± {np.std(numbers, ddof=1):.{digits}f}" if len(numbers) > 1 else text


def difference(first: list[float], second: list[float], digits: int = 2) -> str:
  """Mean paired difference and its 95% interval; bold if that excludes zero."""
  if not np.all(np.isfinite([*first, *second])):
    return ""
  if len(first) < 2:
    return f"{second[0] - first[0]:+.{digits}f} (1 pair)" if first else ""
  paired = paired_difference(first, second)
  text = f"{paired.difference:+.{digits}f}"
  text = text if paired.verdict == "not told apart" else f"**{text}**"
  return f"{text} ({paired.low:+.{digits}f} to {paired.high:+.{digits}f})"


def table(sweep: Sweep, results: Results) -> str:
  """Errors, paired differences to the first row, and the paper's numbers."""
  columns = columns_of(sweep, results)
  header, lines = [sweep.rows], {arm.row: [arm.row] for arm in sweep.arms}
  for column in columns:
    header += [column.title, f"against {column.rival}", "paper"]
    for row, line in lines.items():
      arm = column.arms.get(row)
      if arm is None:
        line += ["", "", ""]
        continue
      own = ""
      if column.has_rival and arm.config.regularizer != BASELINE:
        own = difference(column.values(column.rival), column.values(row))
      paper = _paper(arm, column.arms.get(column.rival))
      line += [mean_and_spread(column.values(row)), own, paper]
  finished = [line for line in lines.values() if any(line[1:])]
  # A column of numbers that nobody reports is not shown.
  shown = [i for i in range(len(header)) if any(line[i] for line in finished)]
  text = markdown(*([line[i] for i in shown] for line in (header, *finished)))
  return f"{text}\n\n{_seeds(columns)}"


def _seeds(columns):
  counts = sorted({len(column.seeds) for column in columns})
  text = f"Runs of a cell: {' to '.join(map(str, {counts[0]: 0, counts[-1]: 0}))}."
  if any(column.left_out for column in columns):
    text += " Not shown: seeds that are not finished in all rows of their column."
  return text


def _paper(arm, rival):
  if arm.paper is None:
    return ""
  if math.isnan(arm.paper):
    return "no convergence"
  if arm is rival or rival is None or rival.paper is None or math.isnan(rival.paper):
    return f"{arm.paper:.2f}"
  return f"{arm.paper:.2f} ({arm.paper - rival.paper:+.2f})"


def details(column: Column) -> str:
  """What else the runs of a column show: losses, training errors, redundancy."""
  header = [
    column.title, "test loss", f"against {column.rival}", "training error",
    "training loss", "excess, hidden", "excess, output",
  ]  # fmt: skip
  lines = []
  for row in column.arms:
    losses = column.values(row, "test_loss")
    last = [run["history"][-1] for run in column.runs(row)]
    lines.append(
      [
        row,
        mean_and_spread(losses, 3),
        difference(column.values(column.rival, "test_loss"), losses, 3)
        if column.has_rival and row != column.rival
        else "",
        f"{np.mean(column.values(row, 'train_error')):.2f}",
        f"{np.mean(column.values(row, 'train_loss')):.3f}",
        f"{np.mean([hidden_excess(entry) for entry in last]):.2f}",
        f"{np.mean([number(entry['excess'][OUTPUT]) for entry in last]):.2f}",
      ]
    )
  return markdown(header, *lines)


def summary(preset: str, results: Results) -> str:
  """Whether the energy helped, by how much, how sure that is, and what it cost."""
  sweeps = sweeps_of(preset)
  header = [
    "test errors, %", "seeds", "without", f"{MHE.name}: difference",
    f"{HALF_MHE.name}: difference",
  ]  # fmt: skip
  confirming = [
    _summarize(f"{column.title}, confirming", column, sweeps["headline"])
    for column in _comparable(sweeps["headline"], results)
  ]
  exploring = [
    _summarize(f"start of training, {column.title}, exploring", column, sweeps["start"])
    for column in _comparable(sweeps["start"], results)
  ]
  bullets = _together(_comparable(sweeps["headline"], results)) + [
    text
    for column in _comparable(sweeps["variants"], results)
    for text in _variants(column)
  ]
  cost = train_step.costs(json.loads(COST.read_text()))
  bullets.append(
    f"Cost of half-space energies of all layers, in time of a training step: {cost}."
  )
  wrap = textwrap.TextWrapper(88, subsequent_indent="  ", break_on_hyphens=False)
  bullets = "\n".join(wrap.fill(f"- {text}") for text in bullets)
  # Not bold: what explores proves nothing.
  exploring = [[cell.replace("**", "") for cell in line] for line in exploring]
  return f"{markdown(header, *confirming, *exploring)}\n\n{bullets}"


def _comparable(sweep, results):
  return [column for column in columns_of(sweep, results) if column.has_rival]


def _summarize(title, column, sweep):
  """A line: errors, paired differences, what the training errors do."""
  done, planned = len(column.seeds), len(sweep.seeds)
  seeds = f"{done}" if done == planned else f"{done} of {planned}"
  line = [title, seeds, mean_and_spread(column.values(column.rival))]
  for kind in (MHE, HALF_MHE):
    # Its weight is that of the preset.
    rows = [r for r, a in column.arms.items() if a.kind == kind]
    line += [_effect(column, rows[0]) if rows else ""]
  return line


def _effect(column, row):
  test, train = (
    (column.values(column.rival, measure), column.values(row, measure))
    for measure in ("test_error", "train_error")
  )
  change = f"; of training errors {np.mean(np.subtract(*train[::-1])):+.2f}"
  return _effect_of(*test) + (change if difference(*test) else "")


def _together(columns):
  """What is left of the confirming comparisons if one accounts for their number."""
  names, p_values = [], []
  for column in columns:
    baseline = column.values(column.rival)
    for row in column.arms:
      if row != column.rival and len(column.seeds) > 1:
        names.append(f"{row} on {column.title}")
        p_values.append(paired_difference(baseline, column.values(row)).p_value)
  if not p_values:
    return []
  texts = [
    f"{name} {'no convergence' if math.isnan(p) else f'{p:.2f}'}"
    for name, p in zip(names, holm(p_values))
  ]
  return [
    f"P values of the confirming comparisons, corrected for their number (Holm): "
    f"{', '.join(texts)}."
  ]


def _effect_of(first, second):
  return difference(list(first), list(second)) or "no convergence"


def _variants(column):
  """Of all energies together: they share a baseline, so each seed counts once."""
  rows = [r for r, a in column.arms.items() if a.config.regularizer.kind == "mhe"]
  if not rows:
    return []
  energies = np.mean([column.values(row) for row in rows], 0)
  baseline = column.values(column.rival)
  text = (
    f"{column.title}, exploring on {len(column.seeds)} seeds, mean of {len(rows)} "
    f"variants of the energy: {_effect_of(baseline, energies)}."
  )
  if ORTHONORMAL.name in column.arms:
    rival = column.values(ORTHONORMAL.name)
    text += (
      f" Orthonormal neurons, the rival: {_effect_of(baseline, rival)}; compared with "
      f"that mean, {_effect_of(energies, rival)}."
    )
  return [text.replace("**", "")]


def blocks(preset: str, results: Results) -> dict[str, str]:
  """What is generated, by name."""
  texts = {"summary": summary(preset, results)}
  for name, sweep in sweeps_of(preset).items():
    texts[name] = table(sweep, results) if columns_of(sweep, results) else ""
  texts |= {f"details of {title}": "" for title in DATASETS.values()}
  for column in columns_of(sweeps_of(preset)["variants"], results):
    texts[f"details of {column.title}"] = details(column)
  return {name: text or "Not run yet." for name, text in texts.items()}


def fill(page: str, texts: dict[str, str], name_of_page: str = "the page") -> str:
  """The page, with new text between the marks of each name.

  Args:
    page: its text.
    texts: ``{name: text}``.
    name_of_page: for the error.

  Raises:
    InputError: a name has no place in the page.
  """
  for name, text in texts.items():
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    if page.count(start) != 1 or page.count(end) != 1:
      raise InputError(
        f"{name_of_page} must have {start} and {end} once; if it is of another preset, "
        "name another output."
      )
    before, rest = page.split(start)
    page = f"{before}{start}\n{text}\n{end}{rest.split(end)[1]}"
  return page


def new_page(texts: dict[str, str]) -> str:
  """A page of nothing but what is generated."""
  parts = [f"## {name}\n\n<!-- {name} -->\n<!-- end of {name} -->\n" for name in texts]
  return "\n".join(["# Classification\n", *parts])


def main(
  preset: Literal["smoke", "cpu", "paper"] = "cpu",
  results: pathlib.Path = RESULTS,
  output: pathlib.Path = pathlib.Path("runs"),
  readme: pathlib.Path | None = None,
) -> None:
  """Makes the tables and figures.

  Args:
    preset: whose runs.
    results: folder of their JSON files.
    output: folder of classification.md and images; "docs" for those of the
      documentation.
    readme: a page whose summary is replaced, too.
  """
  console = Console()
  with told_in_a_line(console):
    found = Results(results)
    texts = blocks(preset, found)
    path = output / "classification.md"
    page = path.read_text() if path.exists() else new_page(texts)
    page = fill(page, texts, str(path))
    if readme is not None:
      if not readme.is_file():
        raise InputError(f"readme must be a file, got {readme}.")
      summary_alone = {"summary": texts["summary"]}
      readme.write_text(fill(readme.read_text(), summary_alone, str(readme)))
    make_folder(output / "images")
  path.write_text(page)
  pictures = draw_all(preset, found, output / "images")
  console.print(texts["summary"], highlight=False, soft_wrap=True)
  console.print(f"Wrote {path} and {len(pictures)} pictures.", highlight=False)


if __name__ == "__main__":
  tyro.cli(main)
