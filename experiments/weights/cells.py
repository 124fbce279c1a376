"""Cells on a disk: which are finished, and the processes that train the others."""

import concurrent.futures
import dataclasses
import functools
import json
import multiprocessing
import os
import pathlib

import rich.progress
from rich.console import Console

from experiments.errors import InputError
from experiments.kept import write_json
from experiments.runs.workers import cores_of
from experiments.weights.data import Images
from experiments.weights.presets import Cell


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
  cells: list[Cell], images: Images, output: pathlib.Path, at_once: int | None
) -> int:
  """Trains cells of one network and width, which are compiled once; how many."""
  from experiments.weights.training import train  # noqa: PLC0415  (starts JAX)

  for cell in cells:
    result = train(cell, images, at_once)
    write_json(output / f"{cell.name}.json", result)
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
  images: Images,
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
    cores = context.Queue()
    for job in range(jobs):
      cores.put(cores_of(job, jobs))
    with concurrent.futures.ProcessPoolExecutor(
      jobs, context, _start_worker, (cores,)
    ) as pool:
      futures = [pool.submit(work, group) for group in groups]
      for future in concurrent.futures.as_completed(futures):
        progress.advance(bar, future.result())
