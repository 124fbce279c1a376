"""Every table and figure of the experiments with faces, from the JSON of the runs.

  python -m experiments.faces.report --output docs
  python -m experiments.faces.report --preset smoke --results FOLDER

Writes OUTPUT/faces.md and OUTPUT/images/faces_*.png. Of a page that is there already,
only what stands between "<!-- NAME -->" and "<!-- end of NAME -->" is replaced, NAME
being a sweep, "summary", or "details of SWEEP".
"""

import pathlib

import tyro

from experiments.faces.arms import NONE, name_of
from experiments.faces.details import details, rank_one
from experiments.faces.figures import draw_all
from experiments.faces.plan import sweeps_of
from experiments.faces.presets import Config
from experiments.report.answers import table_and_answers
from experiments.report.cells import difference, mean_and_spread
from experiments.report.columns import columns_of
from experiments.report.command import write_report
from experiments.report.markdown import markdown
from experiments.runs.results import Results
from experiments.runs.task import Preset

RESULTS = pathlib.Path(__file__).parents[1] / "results" / "faces"


def summary(preset: Preset, results: Results[Config]) -> str:
  """What the energy did to SphereFace, on seeds that confirm; empty without runs."""
  sweep = sweeps_of(preset)["best"]
  columns = [column for column in columns_of(sweep, results) if column.has_rival]
  if not columns:
    return ""
  rows = [row for row in dict.fromkeys(arm.row for arm in sweep.arms)][1:]
  header = [
    "errors, %",
    "seeds",
    name_of(NONE),
    *(f"{row}: difference" for row in rows),
  ]
  lines = []
  for column in columns:
    done, planned = len(column.seeds), len(sweep.seeds)
    rival = column.values(column.rival)
    line = [column.title, f"{done}" if done == planned else f"{done} of {planned}"]
    line += [mean_and_spread(rival)]
    for row in rows:
      there = row in column.arms
      line.append(_effect(rival, column.values(row)) if there else "")
    lines.append(line)
  return markdown(header, *lines)


def _effect(first, second):
  return difference(first, second) or "no convergence"


def blocks(preset: Preset, results: Results[Config]) -> dict[str, str]:
  """What is generated, by name."""
  texts = {"summary": summary(preset, results)}
  for name, sweep in sweeps_of(preset).items():
    columns = columns_of(sweep, results)
    texts[name] = table_and_answers(sweep, results)
    if name == "best":
      tables = (details(columns[0]), rank_one(columns[0])) if columns else ()
      texts["details of best"] = "\n\n".join(filter(None, tables))
    if name in ("margins", "rivals"):
      texts[f"details of {name}"] = "\n\n".join(map(details, columns))
  return {name: text or "Not run yet." for name, text in texts.items()}


def main(
  preset: Preset = "cpu",
  results: pathlib.Path = RESULTS,
  output: pathlib.Path = pathlib.Path("runs"),
) -> None:
  """Makes the tables and figures.

  Args:
    preset: whose runs.
    results: folder of their JSON files.
    output: folder of faces.md and images; "docs" for those of the documentation.
  """
  write_report(
    "faces",
    "Faces",
    Config,
    preset,
    results,
    output,
    draw=draw_all,
    blocks=blocks,
  )


if __name__ == "__main__":
  tyro.cli(main)
