r"""Whether one weight of the energy serves every network, width and layer.

  python -m experiments.weights --preset smoke
  python -m experiments.weights --preset cpu --jobs 2
  python -m experiments.weights --preset accelerator --dataset cifar10 --jobs 4

Five networks, narrow and wide, are trained with several forms of the energy, over a
range of weights that was fixed beforehand. A cell, that is a network, a width, a
potential and a space, is a JSON file in OUTPUT; finished cells are skipped, so that the
command can be stopped and given again, or given on several machines, each with some of
the networks (--networks). Then OUTPUT/excess.png, OUTPUT/error.png and a table are made
of all cells that are there.

A device without a network wants the images in a file:

  python -m experiments.weights --dataset cifar10 --data-root FOLDER --write images.npz
  python -m experiments.weights --preset accelerator --images images.npz --jobs 4
"""

import pathlib
from typing import Literal

import rich.markdown
import tyro
from rich.console import Console

from experiments.errors import InputError, make_folder, told_in_a_line
from experiments.weights import data, figures, tables
from experiments.weights.cells import train_all, unfinished
from experiments.weights.presets import PRESETS, Network


def main(
  preset: Literal["smoke", "cpu", "accelerator"] = "smoke",
  output: pathlib.Path = pathlib.Path("runs/weights"),
  dataset: Literal["digits", "cifar10"] = "digits",
  data_root: pathlib.Path | None = None,
  images: pathlib.Path | None = None,
  write: pathlib.Path | None = None,
  networks: tuple[Network, ...] = (),
  jobs: int = 1,
  at_once: int | None = None,
) -> None:
  """Trains five networks with forms of the energy over a range of weights.

  Args:
    preset: "smoke" (seconds, for the tests), "cpu" (an hour or two on two cores) or
      "accelerator" (minutes).
    output: folder for the cells, the pictures and the table.
    dataset: "digits", which comes with a package, or "cifar10".
    data_root: folder of a local copy of the data set, called cifar10; without it, the
      Hugging Face hub is asked.
    images: a file of images to train on instead, made by --write.
    write: write the images that the preset accelerator needs to this file, and end.
    networks: only these.
    jobs: processes, each of which compiles and trains by itself.
    at_once: runs side by side in a process; less needs less memory.
  """
  console = Console()
  with told_in_a_line(console):
    if jobs < 1:
      raise InputError(f"jobs must be at least 1, got {jobs}.")
    make_folder(output)
    chosen = PRESETS[preset]
    cells = [c for c in chosen.cells if not networks or c.network in networks]
    source = data.read(dataset, data_root, images)
    if write is not None:
      most = PRESETS["accelerator"].training
      data.write(source, write, most.train_images, most.test_images)
      console.print(f"Wrote {write}.")
      return
    todo = unfinished(cells, output)
    train_all(todo, source, output, min(jobs, max(1, len(todo))), at_once, console)
    results = tables.read(output)
    text = tables.report(results)
    (output / "weights.md").write_text(text)
    figures.plot(results, output)
  console.print(rich.markdown.Markdown(text))
  console.print(f"{len(cells)} cells are in {output}.", highlight=False)


if __name__ == "__main__":
  tyro.cli(main)
