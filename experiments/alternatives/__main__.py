"""Hyperspherical energy beside other ways to diverse neurons.

  python -m experiments.alternatives --output docs     # docs/alternatives.md
  python -m experiments.alternatives --preset smoke    # seconds, in the tests

Each objective alone, minimized over directions and measured by the others; and each
method in the training of a small CNN. What is computed is kept in JSON and not computed
again with the same settings: about half an hour on two cores the first time, seconds
afterwards; what was stopped goes on when the command is given again. Of a page that is
there already, only what stands between "<!-- NAME -->" and "<!-- end of NAME -->" is
replaced.
"""

import functools
import json
import pathlib
from typing import Any, Literal

import rich.progress
import tyro
from rich.console import Console

from experiments.alternatives import figures, minima, report, training
from experiments.errors import make_folder, told_in_a_line
from experiments.kept import kept
from experiments.report.figures import save_all
from experiments.report.pages import filled

Preset = Literal["smoke", "cpu"]
RESULTS = pathlib.Path(__file__).parents[1] / "results" / "alternatives"


def compute(
  preset: Preset, folder: pathlib.Path, progress: rich.progress.Progress
) -> dict[str, Any]:
  """All results, from the files of a folder or made anew.

  Args:
    preset: "smoke" or "cpu".
    folder: of the JSON.
    progress: that is shown.

  Returns:
    ``"minima"``, ``"muon_rates"``, ``"runs"`` by arm, and ``"cost"``: the results of
    the functions of these names.
  """
  settings = training.SETTINGS[preset]
  task = progress.add_task("directions", total=len(training.ARMS) + 3)
  results = {
    "minima": kept(folder / "minima.json", minima.SETTINGS[preset], minima.minimize_all)
  }
  progress.update(task, advance=1, description="training, Muon's rates")
  of_rates = {**settings, **training.MUON_RATES[preset]}
  muon = kept(folder / "muon_rates.json", of_rates, training.choose_rates)
  results["muon_rates"] = muon
  chosen = {key: muon[key] for key in ("rate", "adam_rate")}
  results["runs"] = {}
  for arm in training.ARMS:
    progress.update(task, advance=1, description=f"training, {report.NAMES[arm]}")
    of_arm = {**settings, **(chosen if arm in training.MUON else {}), "arm": arm}
    run = kept(folder / f"training_{arm}.json", of_arm, training.compute)
    results["runs"][arm] = run
  of_cost = {key: settings[key] for key in training.OF_COST}
  of_cost["rounds"] = training.COST_ROUNDS[preset]
  measure = functools.partial(training.measure_cost, progress=progress)
  progress.update(task, advance=1, description="times of a step")
  results["cost"] = kept(folder / "cost.json", of_cost, measure)
  progress.update(task, advance=1)
  return results


def read(folder: pathlib.Path) -> dict[str, Any]:
  """What :func:`compute` has left in a folder."""
  results = {
    name: json.loads((folder / f"{name}.json").read_text())
    for name in ("minima", "muon_rates", "cost")
  }
  runs = {
    arm: json.loads((folder / f"training_{arm}.json").read_text())
    for arm in training.ARMS
  }
  return {**results, "runs": runs}


def main(
  preset: Preset = "cpu",
  output: pathlib.Path = pathlib.Path("runs/alternatives"),
  results: pathlib.Path | None = None,
) -> None:
  """Compares the energy with other methods, and writes the page and its pictures.

  Args:
    preset: "smoke" (seconds, for the tests) or "cpu".
    output: folder of alternatives.md and images; "docs" for the documentation.
    results: folder of what is computed; by default the one that is kept with the code,
      or OUTPUT for the preset smoke.
  """
  console = Console()
  results = results or (RESULTS if preset == "cpu" else output)
  with told_in_a_line(console):
    make_folder(output / "images")
    make_folder(results)
  with rich.progress.Progress(console=console) as progress:
    found = compute(preset, results, progress)
  texts, path = report.blocks(found), output / "alternatives.md"
  with told_in_a_line(console):
    page = filled(path, "Alternatives", texts)
  path.write_text(page)
  save_all(
    [
      (output / "images" / "alternatives.png", figures.draw_minima(found["minima"])),
      (
        output / "images" / "alternatives_training.png",
        figures.draw_training(found["runs"]),
      ),
    ]
  )
  console.print(texts["trained"], highlight=False, soft_wrap=True)
  console.print(f"Wrote {path} and two pictures.", highlight=False)


if __name__ == "__main__":
  tyro.cli(main)
