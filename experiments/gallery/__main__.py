"""Pictures of what hyperspherical energy is and does.

  python -m experiments.gallery --output docs/images   # those of docs/gallery.md
  python -m experiments.gallery --preset smoke         # seconds, in the tests

Points on the sphere as their energy falls, still and animated; half-space in the plane;
the angles between the neurons of a trained layer; what theory says of many points. What
is computed is kept in JSON and not computed again with the same settings: minutes on
two cores the first time, seconds afterwards.
"""

import pathlib
from typing import Literal

import tyro
from rich.console import Console

from experiments.errors import make_folder, told_in_a_line
from experiments.gallery import angles, excess, limits, plane, sphere
from experiments.kept import kept
from experiments.report.figures import save_all

SUBJECTS = {
  "sphere": sphere, "plane": plane, "excess": excess, "angles": angles,
  "limits": limits,
}  # fmt: skip
RESULTS = pathlib.Path(__file__).parents[1] / "results" / "gallery"


def main(
  preset: Literal["smoke", "cpu"] = "cpu",
  output: pathlib.Path = pathlib.Path("runs/gallery"),
  results: pathlib.Path | None = None,
) -> None:
  """Draws the pictures.

  Args:
    preset: "smoke" (seconds, for the tests) or "cpu".
    output: folder for gallery_*.png and gallery_sphere.gif.
    results: folder of what is computed; by default the one that is kept with the code,
      or OUTPUT for the preset smoke.
  """
  console = Console()
  results = results or (RESULTS if preset == "cpu" else output)
  with told_in_a_line(console):
    make_folder(output)
    make_folder(results)
  for name, subject in SUBJECTS.items():
    with console.status(f"{name}"):
      result = kept(results / f"{name}.json", subject.SETTINGS[preset], subject.compute)
      paths = save_all([(output / f"gallery_{name}.png", subject.draw(result))])
      if subject is sphere:
        paths.append(output / "gallery_sphere.gif")
        sphere.animate(result, paths[-1])
    for path in paths:
      console.print(f"Wrote {path}.", highlight=False)


if __name__ == "__main__":
  tyro.cli(main)
