"""Directions of least energy where single vectors matter: more of them than dimensions.

  python -m experiments.directions --output docs     # docs/directions.md
  python -m experiments.directions --preset smoke    # seconds, in the tests

Sliced Wasserstein distances, even spherical harmonics, and sign bits, each with
directions of least energy, independent ones, orthogonal blocks, tight frames and
Fibonacci's spirals. What is computed is kept in JSON and not computed again with the
same settings: minutes the first time, seconds afterwards. Of a page that is there
already, only what stands between "<!-- NAME -->" and "<!-- end of NAME -->" is
replaced.
"""

import json
import pathlib
from typing import Any, Literal

import tyro
from rich.console import Console

from experiments.directions import bits, figures, harmonics, report, wasserstein
from experiments.errors import make_folder, told_in_a_line
from experiments.kept import kept
from experiments.report.figures import save_all
from experiments.report.pages import filled, write

TASKS = {"wasserstein": wasserstein, "harmonics": harmonics, "bits": bits}
RESULTS = pathlib.Path(__file__).parents[1] / "results" / "directions"


def read(folder: pathlib.Path) -> dict[str, Any]:
  """What the command has left in a folder, by task."""
  return {name: json.loads((folder / f"{name}.json").read_text()) for name in TASKS}


def main(
  preset: Literal["smoke", "cpu"] = "cpu",
  output: pathlib.Path = pathlib.Path("runs/directions"),
  results: pathlib.Path | None = None,
) -> None:
  """Compares sets of directions, and writes the page and its picture.

  Args:
    preset: "smoke" (seconds, for the tests) or "cpu".
    output: folder of directions.md and images; "docs" for the documentation.
    results: folder of what is computed; by default the one that is kept with the code,
      or OUTPUT for the preset smoke.
  """
  console = Console()
  results = results or (RESULTS if preset == "cpu" else output)
  path = output / "directions.md"
  with told_in_a_line(console):
    make_folder(output / "images")
    make_folder(results)
    found = {}
    for name, task in TASKS.items():
      with console.status(name):
        file = results / f"{name}.json"
        found[name] = kept(file, task.SETTINGS[preset], task.compute)
    texts = report.blocks(found)
    write(path, filled(path, "Directions", texts))
  save_all([(output / "images" / "directions.png", figures.draw(found))])
  console.print(*texts.values(), sep="\n", highlight=False, soft_wrap=True)
  console.print(f"Wrote {path} and a picture.", highlight=False)


if __name__ == "__main__":
  tyro.cli(main)
