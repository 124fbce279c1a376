"""Every table and figure of the experiments in GANs, from the JSON of the runs alone.

  python -m experiments.gan.report --output docs
  python -m experiments.gan.report --preset smoke --results FOLDER

Writes OUTPUT/gan.md and OUTPUT/images/gan_*.png. Of a page that is there already, only
what stands between "<!-- NAME -->" and "<!-- end of NAME -->" is replaced, NAME being a
sweep, or "scores of" or "pictures of" one.
"""

import pathlib
from collections.abc import Collection

import numpy as np
import tyro

from experiments.gan.figures import draw_all
from experiments.gan.plan import sweeps_of
from experiments.gan.presets import Config
from experiments.report.answers import table_and_answers
from experiments.report.cells import mean_and_spread
from experiments.report.columns import Column, columns_of
from experiments.report.command import write_report
from experiments.report.markdown import markdown
from experiments.runs.plan import Sweep
from experiments.runs.results import Results
from experiments.runs.task import Preset

RESULTS = pathlib.Path(__file__).parents[1] / "results" / "gan"


def all_scores(sweep: Sweep[Config], results: Results[Config]) -> str:
  """Every score of every arm, beside those of real images and of noise.

  Means and standard deviations over the runs that finished; in brackets the standard
  error within a run, from drawing samples (root mean square over the runs).
  """
  header = [
    "", sweep.rows, "Frechet distance", "classifier score", "precision", "recall",
    "collapsed", "diverged",
  ]  # fmt: skip
  lines, notes = [], []
  for column in columns_of(sweep, results):
    finished = []
    for row in column.arms:
      runs = column.runs(row)
      whole = [run for run in runs if "diverged" not in run]
      finished += whole
      lines.append(
        [
          column.title,
          row,
          *(_score(whole, name, digits) for name, digits in _SCORES.items()),
          f"{sum(run['collapsed'] for run in whole):.0f} of {len(runs)}",
          f"{len(runs) - len(whole)} of {len(runs)}",
        ]
      )
    if finished:
      lines += _yardsticks(column, finished)
      notes.append(_note(column, finished))
  text = markdown(header, *lines)
  return "\n\n".join([text, " ".join(filter(None, notes))]) if lines else ""


_SCORES = {"frechet": 2, "classifier_score": 2, "precision": 3, "recall": 3}


def _score(runs, name, digits):
  if not runs:
    return ""
  error = np.sqrt(np.mean([run[f"error_of_{name}"] ** 2 for run in runs]))
  text = mean_and_spread([run[name] for run in runs], digits)
  return f"{text} ({error:.{digits}f})"


def _yardsticks(column: Column[Config], finished: list[dict]) -> list[list[str]]:
  """What real images and noise have: of the runs' critic, the same in all of them."""
  run = finished[0]
  real = [f"{run[f'real_{name}']:.{digits}f}" for name, digits in _SCORES.items()]
  noise = [f"{run['noise_frechet']:.2f}", "", "", ""]
  return [
    [column.title, "*real images*", *real, "", ""],
    [column.title, "*noise*", *noise, "", ""],
  ]


def _note(column: Column[Config], finished: list[dict]) -> str:
  critics = {run["data"]["critic"] for run in finished}
  text = (
    f"Test error of the classifier on {column.title}: "
    f"{finished[0]['critic_error']:.1f}%."
  )
  if len(critics) > 1:
    text += f" **These runs were scored by {len(critics)} different classifiers.**"
  return text


def blocks(preset: Preset, results: Results[Config]) -> dict[str, str]:
  """What is generated, by name."""
  texts = {}
  for name, sweep in sweeps_of(preset).items():
    texts[name] = table_and_answers(sweep, results)
    texts[f"scores of {name}"] = all_scores(sweep, results)
  return {name: text or "Not run yet." for name, text in texts.items()}


_CAPTIONS = {
  "four": {
    "samples": "64 samples of every setting at the end: one seed, the same latents",
    "curves": "Frechet distance and redundancy of the discriminator over the updates",
    "regions": "Precision and recall of every run, with standard errors",
  },
  "weight": {"weights": "Frechet distance over the weight, a point a seed"},
}


def pictures(drawn: Collection[str]) -> dict[str, str]:
  """Links to those of the pictures that were drawn, by the name of their block.

  Args:
    drawn: of :data:`experiments.gan.figures.FIGURES`.
  """
  return {
    f"pictures of {sweep}": "\n\n".join(
      f"![{caption}](images/gan_{name}.png)"
      for name, caption in captions.items()
      if name in drawn
    )
    or "Not run yet."
    for sweep, captions in _CAPTIONS.items()
  }


def main(
  preset: Preset = "cpu",
  results: pathlib.Path = RESULTS,
  output: pathlib.Path = pathlib.Path("runs"),
) -> None:
  """Makes the tables and figures.

  Args:
    preset: whose runs.
    results: folder of their JSON files.
    output: folder of gan.md and images; "docs" for those of the documentation.
  """
  write_report(
    "gan",
    "MHE-GAN",
    Config,
    preset,
    results,
    output,
    draw=draw_all,
    blocks=blocks,
    links=pictures,
  )


if __name__ == "__main__":
  tyro.cli(main)
