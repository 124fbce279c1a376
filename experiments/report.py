"""Every table and figure of the paper's experiments, from the JSON of the runs alone.

  python -m experiments.report --output docs --readme README.md  # of the repository
  python -m experiments.report --preset smoke --results runs/classification

Writes OUTPUT/classification.md and OUTPUT/images/classification_*.png. Of a page that
is there already, only what stands between "<!-- NAME -->" and "<!-- end of NAME -->" is
replaced, NAME being a sweep or "summary".
"""

import math
import pathlib
import sys
import textwrap
from collections.abc import Iterable
from typing import Literal

import numpy as np
import tyro
from rich.console import Console

from experiments.figures import draw_all
from experiments.markdown import markdown
from experiments.models import OUTPUT
from experiments.paper import BASELINE, DATASETS, ORTHONORMAL, Sweep, sweeps_of
from experiments.runs import Column, Results, columns_of, hidden_excess, number
from experiments.statistics import paired_difference

RESULTS = pathlib.Path(__file__).parent / "results" / "classification"


def mean_and_spread(numbers: Iterable[float], digits: int = 2) -> str:
  """Mean and standard deviation."""
  numbers = list(numbers)
  if not numbers:
    return ""
  if not np.all(np.isfinite(numbers)):
    return "no convergence"
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
      compared = row != column.rival and arm.config.regularizer != BASELINE
      own = difference(column.values(column.rival), column.values(row))
      paper = _paper(arm, column.arms.get(column.rival))
      line += [mean_and_spread(column.values(row)), own if compared else "", paper]
  finished = [line for line in lines.values() if any(line[1:])]
  # A column of numbers that nobody reports is not shown.
  shown = [i for i in range(len(header)) if any(line[i] for line in finished)]
  text = markdown(*([line[i] for i in shown] for line in (header, *finished)))
  return f"{text}\n\n{_seeds(columns)}"


def _seeds(columns):
  counts = sorted({len(column.seeds) for column in columns})
  text = f"Seeds of a column: {' to '.join(map(str, {counts[0]: 0, counts[-1]: 0}))}."
  left_out = sum(column.left_out for column in columns)
  if left_out:
    text += f" Left out: {left_out} runs with seeds that not all rows of theirs have."
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
        if row != column.rival
        else "",
        f"{np.mean(column.values(row, 'train_error')):.2f}",
        f"{np.mean(column.values(row, 'train_loss')):.3f}",
        f"{np.mean([hidden_excess(entry) for entry in last]):.2f}",
        f"{np.mean([number(entry['excess'][OUTPUT]) for entry in last]):.2f}",
      ]
    )
  return markdown(header, *lines)


def summary(preset: str, results: Results) -> str:
  """Whether the energy helped, by how much, and how sure that is."""
  sweeps = sweeps_of(preset)
  lines = []
  for column in _comparable(sweeps["headline"], results):
    lines.append(f"{column.title}: {_effects(column)}")
  for column in _comparable(sweeps["variants"], results):
    lines += _variants(column)
  for column in _comparable(sweeps["start"], results):
    lines.append(f"All images, rate 0.1, {column.title}: {_effects(column)}")
  wrap = textwrap.TextWrapper(88, subsequent_indent="  ", break_on_hyphens=False)
  return "\n".join(wrap.fill(f"- {line}") for line in lines)


def _comparable(sweep, results):
  columns = columns_of(sweep, results)
  return [column for column in columns if column.rival in column.arms]


def _effects(column):
  """What each regularizer does to the error."""
  baseline = column.values(column.rival)
  sentences = [f"{mean_and_spread(baseline)}% errors without the energy."]
  sentences += [
    f"With {row}: {_effect(baseline, column.values(row))}"
    for row in column.arms
    if row != column.rival
  ]
  return " ".join(sentences)


def _variants(column):
  """Of all energies together: they share a baseline, so each seed counts once."""
  rows = [r for r, a in column.arms.items() if a.config.regularizer.kind == "mhe"]
  if not rows:
    return []

  def both(measure):
    energies = np.asarray([column.values(row, measure) for row in rows]).mean(0)
    return np.asarray(column.values(column.rival, measure)), energies

  baseline, energies = both("test_error")
  first, second = both("train_error")
  by_seed = ", ".join(f"{x:+.2f}" for x in energies - baseline)
  text = (
    f"{column.title}, mean of {len(rows)} variants of the energy: "
    f"{_effect(baseline.tolist(), energies.tolist())} Seed by seed: {by_seed}. The "
    f"training error changes by {np.mean(second - first):+.2f}."
  )
  if ORTHONORMAL.name in column.arms:
    rival = _effect(baseline.tolist(), column.values(ORTHONORMAL.name))
    text += f" The rival, orthonormal neurons: {rival}"
  return [text]


def _effect(first, second):
  if len(first) < 2:
    return f"{difference(first, second)}."
  verdict = {
    "better": "fewer errors",
    "worse": "more errors",
    "not told apart": "not told apart from no change",
  }[paired_difference(first, second).verdict]
  return f"{difference(first, second)}, {len(first)} seeds: {verdict}."


def blocks(preset: str, results: Results) -> dict[str, str]:
  """What is generated, by name."""
  texts = {"summary": summary(preset, results)}
  for name, sweep in sweeps_of(preset).items():
    texts[name] = table(sweep, results) if columns_of(sweep, results) else ""
  texts |= {f"details of {title}": "" for title in DATASETS.values()}
  for column in columns_of(sweeps_of(preset)["variants"], results):
    texts[f"details of {column.title}"] = details(column)
  return {name: text or "Not run yet." for name, text in texts.items()}


def fill(page: str, texts: dict[str, str]) -> str:
  """The page, with new text between the marks of each name.

  Raises:
    ValueError: a name has no place in the page.
  """
  for name, text in texts.items():
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    if page.count(start) != 1 or page.count(end) != 1:
      raise ValueError(f"the page must have {start} and {end} once.")
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
  try:
    found = Results(results)
    texts = blocks(preset, found)
    path = output / "classification.md"
    page = path.read_text() if path.exists() else new_page(texts)
    page = fill(page, texts)
    if readme is not None:
      readme.write_text(fill(readme.read_text(), {"summary": texts["summary"]}))
  except ValueError as error:
    console.print(f"[red]{error}[/red]")
    sys.exit(2)
  (output / "images").mkdir(parents=True, exist_ok=True)
  path.write_text(page)
  pictures = draw_all(preset, found, output / "images")
  console.print(texts["summary"], highlight=False, soft_wrap=True)
  console.print(f"Wrote {path} and {len(pictures)} pictures.", highlight=False)


if __name__ == "__main__":
  tyro.cli(main)
