"""Every table and figure of the paper's experiments, from the JSON of the runs alone.

  python -m experiments.classification.report --output docs --readme docs/results.md
  python -m experiments.classification.report --preset smoke --results FOLDER

Writes OUTPUT/classification.md and OUTPUT/images/classification_*.png. Of those pages
that are there already (PAGES), only what stands between "<!-- NAME -->" and
"<!-- end of NAME -->" is replaced, NAME being a sweep or "summary".
"""

import pathlib

import tyro

from experiments.classification.arms import DATASETS, Base
from experiments.classification.details import inside, losses, rounding
from experiments.classification.figures import draw_all
from experiments.classification.figures.errors import foretold
from experiments.classification.plan import sweeps_of
from experiments.classification.presets import Config
from experiments.classification.summary import summary, variants
from experiments.report.answers import table_and_answers
from experiments.report.columns import columns_of
from experiments.report.command import write_report
from experiments.runs.results import Results
from experiments.runs.task import Preset

PAGES = ("classification", "classification-tables", "classification-few")
RESULTS = pathlib.Path(__file__).parents[1] / "results" / "classification"


def blocks(preset: Preset, results: Results[Config]) -> dict[str, str]:
  """What is generated, by name."""
  texts = {"summary": summary(preset, results)}
  sweeps = sweeps_of(preset)
  unfinished = []
  for name, sweep in sweeps.items():
    if not _has_all_arms(sweep, results):
      unfinished.append(f"- `{name}`: {sweep.title}")
      continue
    is_noise = name == "noise"  # What counts is its spread.
    texts[name] = (rounding if is_noise else table_and_answers)(sweep, results)
  if "variants" in texts:
    texts["variants"] += f"\n\n{variants(sweeps['variants'], results)}"
  texts |= {f"details of {title}": "" for title in DATASETS.values()}
  for column in columns_of(sweeps["variants"], results):
    texts[f"details of {column.title}"] = losses(column)
  if preset != "paper":  # The paper's own setting stands beside what is less.
    whole = sweeps_of("paper")["whole"]
    texts["whole of paper"] = table_and_answers(whole, results)
  for name in ("deep", "warm", "claims"):
    texts[f"inside of {name}"] = inside(sweeps[name], results)
  texts["gain"] = foretold(Base(preset), results)
  texts["unfinished"] = "\n".join(unfinished) or "None."
  return {name: text or "Not run yet." for name, text in texts.items()}


def _has_all_arms(sweep, results):
  """Whether each has two runs, or as many as are planned: a table is not of some."""
  least = min(2, len(sweep.seeds))
  return all(
    len(set(sweep.seeds).intersection(results.of(arm.config))) >= least
    for arm in sweep.arms
  )


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
    output: folder of the pages and images; "docs" for those of the documentation.
    readme: a page whose summary is replaced, too.
  """
  write_report(
    "classification",
    "Classification",
    Config,
    preset,
    results,
    output,
    readme,
    draw=draw_all,
    blocks=blocks,
    others=PAGES[1:],
    in_readme={"summary": summary},
  )


if __name__ == "__main__":
  tyro.cli(main)
