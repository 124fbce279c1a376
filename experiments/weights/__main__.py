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

import concurrent.futures
import dataclasses
import functools
import json
import multiprocessing
import os
import pathlib
from typing import Literal

import rich.markdown
import rich.progress
import tyro
from rich.console import Console

from experiments.errors import InputError, make_folder, told_in_a_line
from experiments.weights import data, figures, tables
from experiments.weights.presets import PRESETS, Cell, Network


def unfinished(cells: list[Cell], output: pathlib.Path) -> list[Cell]:
  """Those without a file.

  Raises:
    InputError: the file of a cell is of other settings.
  """
  left = []
  for cell in cells:
    path = output / f"{cell.name}.json"
    if not path.exists():
      left.append(cell)
    elif json.loads(path.read_text())["config"] != _as_json(cell):
      raise InputError(f"{path} must have the settings of this preset, got others.")
  return left


def _as_json(cell):
  """The settings as they are read again."""
  return json.loads(json.dumps(dataclasses.asdict(cell)))


def train_cells(
  cells: list[Cell], images: data.Images, output: pathlib.Path, at_once: int | None
) -> int:
  """Trains cells of one network and width, which are compiled once; how many."""
  from experiments.weights.training import train  # noqa: PLC0415  (starts JAX)

  for cell in cells:
    result = train(cell, images, at_once)
    path = output / f"{cell.name}.json"
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(result) + "\n")
    partial.replace(path)  # Whole or not at all.
  return len(cells)


def groups_of(cells: list[Cell]) -> list[list[Cell]]:
  """Cells of one network and width, the wide ones, which take longest, first."""
  groups = {}
  for cell in cells:
    groups.setdefault((cell.network, cell.width), []).append(cell)
  return [groups[key] for key in sorted(groups, key=lambda key: -key[1])]


def _start_worker(cores):
  """Takes an equal share of the cores, on a CPU, and no memory before it is needed."""
  os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  share = cores.get()
  if share:
    os.sched_setaffinity(0, share)


def train_all(
  cells: list[Cell],
  images: data.Images,
  output: pathlib.Path,
  jobs: int,
  at_once: int | None,
  console: Console,
) -> None:
  """Trains cells, in as many processes as there are jobs."""
  groups = groups_of(cells)
  work = functools.partial(train_cells, images=images, output=output, at_once=at_once)
  columns = (*rich.progress.Progress.get_default_columns(), "{task.completed}")
  with rich.progress.Progress(*columns, console=console) as progress:
    bar = progress.add_task("cells", total=len(cells))
    if jobs == 1:
      for group in groups:
        progress.advance(bar, work(group))
      return
    context = multiprocessing.get_context("spawn")  # JAX has threads: no fork.
    cores, names = context.Queue(), _cores()
    for job in range(jobs):
      cores.put(names[job::jobs])
    with concurrent.futures.ProcessPoolExecutor(
      jobs, context, _start_worker, (cores,)
    ) as pool:
      for future in concurrent.futures.as_completed(
        map(pool.submit, [work] * len(groups), groups)
      ):
        progress.advance(bar, future.result())


def _cores():
  return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


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
    preset: "smoke" (seconds, for the tests), "cpu" (an hour on two cores) or
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
