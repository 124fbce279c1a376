"""Every table and figure of the paper's experiments, from the JSON of the runs alone.

  python -m experiments.report                  # of the results in the repository
  python -m experiments.report --preset smoke --results runs/classification

Writes OUTPUT/classification.md and OUTPUT/images/classification_*.png. Of a page that
is there already, only what stands between "<!-- NAME -->" and "<!-- end of NAME -->" is
replaced, NAME being a sweep or "summary".
"""

import dataclasses
import pathlib
import sys
from collections.abc import Iterable
from typing import Literal

import numpy as np
import tyro
from rich.console import Console

from experiments.figures import draw_all
from experiments.markdown import markdown
from experiments.models import OUTPUT
from experiments.paper import BASELINE, DATASETS, HALF_MHE, Sweep, sweeps_of, unweighted
from experiments.runs import Results, hidden_excess, number, pairs, values
from experiments.statistics import Paired, paired_difference

RESULTS = pathlib.Path(__file__).parent / "results" / "classification"


def mean_and_spread(numbers: Iterable[float], digits: int = 2) -> str:
  """Mean and standard deviation."""
  numbers = list(numbers)
  if not numbers:
    return ""
  text = f"{np.mean(numbers):.{digits}f}"
  return f"{text} ± {np.std(numbers, ddof=1):.{digits}f}" if len(numbers) > 1 else text


def difference(first: list[float], second: list[float], digits: int = 2) -> str:
  """Mean paired difference and its 95% interval; bold if that excludes zero."""
  if len(first) < 2:
    return f"{second[0] - first[0]:+.{digits}f} (1 pair)" if first else ""
  paired = paired_difference(first, second)
  text = f"{paired.difference:+.{digits}f}"
  text = text if paired.verdict == "not told apart" else f"**{text}**"
  return f"{text} ({paired.low:+.{digits}f} to {paired.high:+.{digits}f})"


def table(sweep: Sweep, results: Results) -> str:
  """Errors, paired differences to the first row, and the paper's numbers."""
  columns = list(dict.fromkeys(arm.column for arm in sweep.arms))
  rows = list(dict.fromkeys(arm.row for arm in sweep.arms))
  cells = {(arm.row, arm.column): arm for arm in sweep.arms}
  baselines = {column: cells[rows[0], column] for column in columns}
  header = [sweep.rows]
  for column in columns:
    header += [column, f"against {rows[0]}", "paper"]
  lines = []
  for row in rows:
    line = [row]
    for column in columns:
      arm, baseline = cells.get((row, column)), baselines[column]
      if arm is None:
        line += ["", "", ""]
        continue
      compared = row != rows[0] and arm.config.regularizer != BASELINE
      own = difference(*pairs(results, baseline, arm)) if compared else ""
      line += [
        mean_and_spread(values(results, arm).values()),
        own,
        _paper(arm, baseline),
      ]
    if any(line[1::3]):
      lines.append(line)
  # A column of numbers that nobody reports is not shown.
  shown = [i for i in range(len(header)) if i == 0 or any(line[i] for line in lines)]
  text = markdown(*([line[i] for i in shown] for line in (header, *lines)))
  return f"{text}\n\n{_seeds(sweep, results)}"


def _seeds(sweep, results):
  counts = {len(results.of(arm.config)) for arm in sweep.arms} - {0}
  least, most = min(counts), max(counts)
  return f"Seeds of a cell: {least if least == most else f'{least} to {most}'}."


def _paper(arm, baseline):
  if arm.paper is None:
    return ""
  if arm is baseline or baseline.paper is None:
    return f"{arm.paper:.2f}"
  return f"{arm.paper:.2f} ({arm.paper - baseline.paper:+.2f})"


def details(sweep: Sweep, results: Results, column: str) -> str:
  """What else the runs of a column show: losses, training errors, redundancy."""
  arms = [a for a in sweep.arms if a.column == column and results.of(a.config)]
  if not arms:
    return ""
  header = [
    column, "test loss", "against baseline", "training error", "training loss",
    "excess, hidden", "excess, output",
  ]  # fmt: skip
  lines = []
  for arm in arms:
    histories = [run["history"] for run in results.of(arm.config).values()]
    losses = pairs(results, arms[0], arm, "test_loss")
    means = {
      name: np.mean(list(values(results, arm, name).values()))
      for name in ("train_error", "train_loss")
    }
    output = [number(history[-1]["excess"][OUTPUT]) for history in histories]
    lines.append(
      [
        arm.row,
        mean_and_spread(values(results, arm, "test_loss").values(), 3),
        "" if arm is arms[0] else difference(*losses, digits=3),
        f"{means['train_error']:.2f}",
        f"{means['train_loss']:.3f}",
        f"{np.mean([hidden_excess(history[-1]) for history in histories]):.2f}",
        f"{np.mean(output):.2f}",
      ]
    )
  return markdown(header, *lines)


def summary(preset: str, results: Results) -> str:
  """Whether the energy helped, by how much, how sure that is, and what it cost."""
  sentences = []
  for name in DATASETS.values():
    arms = [a for a in sweeps_of(preset)["variants"].arms if a.column == name]
    baseline, energies = (
      arms[0],
      [a for a in arms if a.config.regularizer.kind == "mhe"],
    )
    compared = {}
    for arm in energies:
      both = pairs(results, baseline, arm)
      if len(both[0]) > 1:
        compared[unweighted(arm.config.regularizer)] = paired_difference(*both)
    if HALF_MHE not in compared:
      continue
    half = compared[HALF_MHE]
    errors = values(results, baseline).values()
    verdicts = [c.verdict for c in compared.values()]
    sentences.append(
      f"{name}: the baseline's test error is {mean_and_spread(errors)}%; half-space "
      f"MHE with s = 2 changes it by {half.difference:+.2f} points ({half.low:+.2f} to "
      f"{half.high:+.2f}, {half.num_pairs} seeds): {_words(half)}. Of the "
      f"{len(verdicts)} variants {verdicts.count('better')} have fewer errors, "
      f"{verdicts.count('worse')} more, and {verdicts.count('not told apart')} are not "
      f"told apart from the baseline; their mean difference is "
      f"{np.mean([c.difference for c in compared.values()]):+.2f} points."
    )
  runs = [run for run in _costs(preset, results)]
  if runs:
    sentences.append(
      f"Training with half-space MHE took {np.median(runs):.2f} times as long (median "
      f"of {len(runs)} pairs of runs)."
    )
  return " ".join(sentences)


def _words(paired: Paired) -> str:
  return {
    "better": "it helped",
    "worse": "it hurt",
    "not told apart": "not told apart from no change",
  }[paired.verdict]


def _costs(preset, results):
  for arm in sweeps_of(preset)["variants"].arms:
    if unweighted(arm.config.regularizer) == HALF_MHE:
      plain = arm._replace(config=dataclasses.replace(arm.config, regularizer=BASELINE))
      first, second = pairs(results, plain, arm, "seconds")
      yield from np.divide(second, first)


def blocks(preset: str, results: Results) -> dict[str, str]:
  """What is generated, by name."""
  texts = {"summary": summary(preset, results)}
  for name, sweep in sweeps_of(preset).items():
    finished = any(results.of(arm.config) for arm in sweep.arms)
    texts[name] = table(sweep, results) if finished else ""
  for column in DATASETS.values():
    variants = sweeps_of(preset)["variants"]
    texts[f"details of {column}"] = details(variants, results, column)
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
) -> None:
  """Makes the tables and figures.

  Args:
    preset: whose runs.
    results: folder of their JSON files.
    output: folder of classification.md and images; "docs" for those of the
      documentation.
  """
  console = Console()
  try:
    found = Results(results)
    texts = blocks(preset, found)
    path = output / "classification.md"
    page = path.read_text() if path.exists() else new_page(texts)
    page = fill(page, texts)
  except ValueError as error:
    console.print(f"[red]{error}[/red]")
    sys.exit(2)
  (output / "images").mkdir(parents=True, exist_ok=True)
  path.write_text(page)
  pictures = draw_all(preset, found, output / "images")
  console.print(texts["summary"], highlight=False)
  console.print(f"Wrote {path} and {len(pictures)} pictures.", highlight=False)


if __name__ == "__main__":
  tyro.cli(main)
