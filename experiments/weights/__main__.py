r"""Whether one weight of the energy serves every network, width and layer.

  python -m experiments.weights --preset smoke
  python -m experiments.weights --preset cpu --jobs 2
  python -m experiments.weights --preset accelerator --dataset cifar10 --jobs 4

Five networks, narrow and wide, are trained with several forms of the energy, over a
range of weights that was fixed beforehand. A cell, that is a network, a width, a
potential and a space, is a JSON file in OUTPUT; finished cells are skipped, so that the
command can be stopped and given again, or given on several machines, each with some of
the networks (--networks). Then pictures and tables are made of all cells that are
there. Those of docs/weights.md, from the results that are kept, without any images:

  python -m experiments.weights --preset accelerator \
    --output experiments/results/weights --pictures docs/images \
    --page docs/weights.md

A device without a network wants the images in a file:

  python -m experiments.weights --dataset cifar10 --data-root FOLDER --write images.npz
  python -m experiments.weights --preset accelerator --images images.npz --jobs 5

The results that are kept took 268 s on an NVIDIA H200 so, with
XLA_FLAGS="--xla_gpu_autotune_level=2 --xla_gpu_enable_triton_gemm=false": with jaxlib
0.11.2, XLA's Triton fusion of matrix products aborts while it compiles wide networks.
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
  pictures: pathlib.Path | None = None,
  page: pathlib.Path | None = None,
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
    output: folder for the cells.
    pictures: folder for weights_excess.png and weights_error.png; by default OUTPUT.
    page: Markdown whose tables, between "<!-- one weight -->" and "<!-- end of one
      weight -->", are replaced, or which is made; by default OUTPUT/weights.md.
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
    pictures = pictures or output
    make_folder(output)
    make_folder(pictures)
    chosen = PRESETS[preset]
    cells = [c for c in chosen.cells if not networks or c.network in networks]
    if write is not None:
      source, most = data.read(dataset, data_root, images), PRESETS["accelerator"]
      sizes = most.training.train_images, most.training.test_images
      data.write(source, write, *sizes)
      console.print(f"Wrote {write}.")
      return
    if todo := unfinished(cells, output):
      source = data.read(dataset, data_root, images)
      train_all(todo, source, output, min(jobs, len(todo)), at_once, console)
    results = tables.read(output)
    text = tables.report(results)
    put(text, page or output / "weights.md")
    figures.plot(results, pictures)
  console.print(rich.markdown.Markdown(text))
  console.print(f"{len(cells)} cells are in {output}.", highlight=False)


_START, _END = "<!-- one weight -->", "<!-- end of one weight -->"


def put(text: str, page: pathlib.Path) -> None:
  """Replaces the tables of a page, or makes one of them.

  Raises:
    InputError: the page has no place for them.
  """
  old = page.read_text() if page.exists() else f"{_START}{_END}\n"
  before, start, rest = old.partition(_START)
  _, end, after = rest.partition(_END)
  if not (start and end):
    raise InputError(f"page must have {_START} and {_END}, got {page}.")
  page.write_text(f"{before}{_START}\n{text}\n{_END}{after}")


if __name__ == "__main__":
  tyro.cli(main)
