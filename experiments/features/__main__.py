"""Features learned without labels: what keeps those of different images apart?

  python -m experiments.features --output docs     # docs/features.md
  python -m experiments.features --preset smoke    # seconds, in the tests

Encoders of handwritten digits bring two views of an image together, and something else
keeps all features from becoming one: nothing, orthonormality, decorrelation, VICReg,
KoLeo, InfoNCE, uniformity, or the energy. As many values of what is tuned are tried for
each, on seeds of their own. What is computed is kept in JSON and not computed again
with the same settings: minutes the first time, seconds afterwards. Of a page that
is there already, only what stands between "<!-- NAME -->" and "<!-- end of NAME -->" is
replaced.
"""

import json
import pathlib
from typing import Any, Literal

import tyro
from rich.console import Console

from experiments.errors import make_folder, told_in_a_line
from experiments.features import figures, report, training
from experiments.kept import kept
from experiments.report.figures import save_all
from experiments.report.pages import filled, write

RESULTS = pathlib.Path(__file__).parents[1] / "results" / "features"


def read(folder: pathlib.Path, dimensions: list[int]) -> list[dict[str, Any]]:
  """What the command has left in a folder, by dimension."""
  return [json.loads((folder / f"features_{d}.json").read_text()) for d in dimensions]


def main(
  preset: Literal["smoke", "cpu"] = "cpu",
  output: pathlib.Path = pathlib.Path("runs/features"),
  results: pathlib.Path | None = None,
) -> None:
  """Trains the encoders, and writes the page and its picture.

  Args:
    preset: "smoke" (seconds, for the tests) or "cpu".
    output: folder of features.md and images; "docs" for the documentation.
    results: folder of what is computed; by default the one that is kept with the code,
      or OUTPUT for the preset smoke.
  """
  console = Console()
  results = results or (RESULTS if preset == "cpu" else output)
  path = output / "features.md"
  settings = dict(training.SETTINGS[preset])
  dimensions = settings.pop("dimensions")
  with told_in_a_line(console):
    make_folder(output / "images")
    make_folder(results)
    found = []
    for d in dimensions:
      with console.status(f"{d} features"):
        file = results / f"features_{d}.json"
        found.append(kept(file, {"d": d, **settings}, training.compute))
    texts = report.blocks(found)
    write(path, filled(path, "Features", texts))
  save_all([(output / "images" / "features.png", figures.draw(found))])
  console.print(*texts.values(), sep="\n", highlight=False, soft_wrap=True)
  console.print(f"Wrote {path} and a picture.", highlight=False)


if __name__ == "__main__":
  tyro.cli(main)
