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

import numpy as np
import tyro
from rich.console import Console

from experiments.benchmarks import train_step
from experiments.classification.arms import DATASETS, HALF_MHE, MHE, ORTHONORMAL
from experiments.classification.details import inside, losses, rounding
from experiments.classification.figures import draw_all
from experiments.classification.plan import sweeps_of
from experiments.classification.presets import Config
from experiments.errors import make_folder, told_in_a_line
from experiments.report.answers import table_and_answers
from experiments.report.cells import difference, mean_and_spread
from experiments.report.columns import columns_of
from experiments.report.markdown import markdown
from experiments.report.pages import fill_file, filled
from experiments.report.statistics import holm, paired_difference
from experiments.runs.results import Results
from experiments.runs.task import Preset

RESULTS = pathlib.Path(__file__).parents[1] / "results" / "classification"
COST = RESULTS.parent / "benchmark_train_step.json"


def summary(preset: Preset, results: Results[Config]) -> str:
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
    rows = [
      r for r, a in column.arms.items() if a.config.regularizer.unweighted == kind
    ]
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


def blocks(preset: Preset, results: Results[Config]) -> dict[str, str]:
  """What is generated, by name."""
  texts = {"summary": summary(preset, results)}
  sweeps = sweeps_of(preset)
  for name, sweep in sweeps.items():
    is_noise = name == "noise"  # What counts is its spread.
    texts[name] = (rounding if is_noise else table_and_answers)(sweep, results)
  texts |= {f"details of {title}": "" for title in DATASETS.values()}
  for column in columns_of(sweeps["variants"], results):
    texts[f"details of {column.title}"] = losses(column)
  for name in ("deep", "warm", "claims"):
    texts[f"inside of {name}"] = inside(sweeps[name], results)
  return {name: text or "Not run yet." for name, text in texts.items()}


def main(
  preset: Preset = "cpu",
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
    found = Results(results, Config)
    texts = blocks(preset, found)
    path = output / "classification.md"
    page = filled(path, "Classification", texts)
    if readme is not None:
      fill_file(readme, {"summary": texts["summary"]})
    make_folder(output / "images")
  path.write_text(page)
  pictures = draw_all(preset, found, output / "images")
  console.print(texts["summary"], highlight=False, soft_wrap=True)
  console.print(f"Wrote {path} and {len(pictures)} pictures.", highlight=False)


if __name__ == "__main__":
  tyro.cli(main)
