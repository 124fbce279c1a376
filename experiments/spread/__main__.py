r"""Whether a form of the energy hurts: networks, optimizers, initializations, forms.

  python -m experiments.spread --preset smoke    # seconds
  python -m experiments.spread --preset cpu      # 40 minutes of one core
  python -m experiments.spread --preset search   # as long: what else could be chosen

A cell, that is a network with an optimizer, is a JSON file in OUTPUT; finished cells
are skipped, so that the command can be stopped and given again. Then the picture and
the tables are made of them. Those of docs/spread.md, from the results that are kept:

  python -m experiments.spread --preset cpu --output experiments/results/spread \
    --pictures docs/images --page docs/spread.md
"""

import json
import pathlib
from typing import Literal

import rich.markdown
import rich.progress
import tyro
from rich.console import Console

from experiments.errors import InputError, make_folder, told_in_a_line
from experiments.kept import write_json
from experiments.spread import report
from experiments.spread.presets import PRESETS, Cell


def main(
  preset: Literal["smoke", "cpu", "search"] = "smoke",
  output: pathlib.Path | None = None,
  pictures: pathlib.Path | None = None,
  page: pathlib.Path | None = None,
) -> None:
  """Trains small networks with forms of the energy.

  Args:
    preset: "smoke" (seconds, for the tests), "cpu" (the table), or "search" (variants).
    output: folder for the cells; by default runs/spread/PRESET.
    pictures: folder for spread.png; by default OUTPUT.
    page: Markdown whose tables are replaced, or which is made; by default
      OUTPUT/spread.md.
  """
  console = Console()
  with told_in_a_line(console):
    output = output or pathlib.Path("runs/spread") / preset
    make_folder(output)
    make_folder(pictures or output)
    cells = PRESETS[preset]
    todo = [cell for cell in cells if not _is_there(cell, output)]
    columns = (*rich.progress.Progress.get_default_columns(), "{task.completed}")
    with rich.progress.Progress(*columns, console=console) as progress:
      bar = progress.add_task("cells", total=len(todo))
      for cell in todo:
        _train(cell, output)
        progress.advance(bar)
    results = [json.loads((output / f"{c.name}.json").read_text()) for c in cells]
    text = report.write(
      preset, results, page or output / "spread.md", pictures or output
    )
  console.print(rich.markdown.Markdown(text))
  console.print(f"{len(cells)} cells are in {output}.", highlight=False)


def _is_there(cell: Cell, output: pathlib.Path) -> bool:
  path = output / f"{cell.name}.json"
  if not path.exists():
    return False
  if json.loads(path.read_text())["config"] != cell.as_json():
    raise InputError(f"{path} must have the settings of this preset, got others.")
  return True


def _train(cell: Cell, output: pathlib.Path) -> None:
  from experiments.spread.training import train  # noqa: PLC0415  (starts JAX)

  path = output / f"{cell.name}.json"
  write_json(path, train(cell))


if __name__ == "__main__":
  tyro.cli(main)
