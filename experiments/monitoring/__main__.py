"""The energy of every layer during training, with it in the loss and without.

  python -m experiments.monitoring --output docs      # the page and its picture
  python -m experiments.monitoring --preset smoke     # seconds, in the tests

The CNN of experiments.quickstart, whose training step hands the excess of its layers on
as metrics; and what that costs in time. What is computed is kept in JSON and not
computed again with the same settings: minutes on two cores the first time. Writes
OUTPUT/images/monitoring.png and, of OUTPUT/monitoring.md, what stands between
"<!-- NAME -->" and "<!-- end of NAME -->"; a page that is not there is made.
"""

import functools
import pathlib
from typing import Any, Literal

import rich.progress
import tyro
from rich.console import Console

from experiments.errors import make_folder, told_in_a_line
from experiments.kept import kept
from experiments.monitoring import cost, report, training
from experiments.report.figures import save_all
from experiments.report.pages import filled

RESULTS = pathlib.Path(__file__).parents[1] / "results" / "monitoring"


def texts(trained: dict[str, Any], timed: dict[str, Any]) -> dict[str, str]:
  """All that is generated of the page, by name."""
  return {**report.blocks(trained), "cost": cost.in_words(timed)}


def main(
  preset: Literal["full", "smoke"] = "full",
  output: pathlib.Path = pathlib.Path("runs/monitoring"),
  results: pathlib.Path | None = None,
) -> None:
  """Trains, times, and makes the page and its picture.

  Args:
    preset: "full" or "smoke" (seconds, for the tests).
    output: folder of monitoring.md and images; "docs" for those of the documentation.
    results: folder of what is computed; by default the one that is kept with the code,
      or OUTPUT for the preset smoke.
  """
  console = Console()
  results = results or (RESULTS if preset == "full" else output)
  with told_in_a_line(console):
    make_folder(output / "images")
    make_folder(results)
    settings = training.SETTINGS[preset]
    with rich.progress.Progress(console=console) as progress:
      total = len(training.ARMS) * len(settings["seeds"])
      task = progress.add_task("training", total=total)
      compute = functools.partial(
        training.compute, on_run=lambda: progress.advance(task)
      )
      trained = kept(results / "training.json", settings, compute)
    timed = kept(results / "cost.json", cost.SETTINGS[preset], cost.compute)
    generated, path = texts(trained, timed), output / "monitoring.md"
    page = filled(path, "During training", generated)
  path.write_text(page)
  save_all([(output / "images" / "monitoring.png", report.draw(trained))])
  console.print(generated["seen"], generated["cost"], highlight=False)
  console.print(f"Wrote {path} and a picture.", highlight=False)


if __name__ == "__main__":
  tyro.cli(main)
