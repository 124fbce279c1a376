"""The paper's experiments: works through lists of runs.

  python -m experiments.sweep --preset smoke
  python -m experiments.sweep variants width --preset cpu --data-root FOLDER --jobs 2
  python -m experiments.sweep variants --preset paper

Finished runs are skipped and unfinished ones go on, so that a sweep can be stopped, in
any way, and continued at any time, or in parts: seed by seed, sweep by sweep. All arms
of a seed come before those of the next. On CPU, as many jobs as there are cores, each
on a core of its own, are faster than one job on all of them.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import multiprocessing
import os
import pathlib
import queue
import sys
import threading
import time
import traceback
from concurrent.futures.process import BrokenProcessPool
from typing import Annotated, Literal

import rich.progress
import tyro
from rich.console import Console

from experiments.classification import train
from experiments.config import Config
from experiments.paper import NUM_SEEDS, TUNING_SEED, sweeps_of


def runs(
  names: tuple[str, ...], preset: str, seeds: tuple[int, ...] | None = None
) -> list[Config]:
  """Runs of some sweeps, each once, all of a seed before those of a larger one."""
  configs = []
  for name in names:
    plan = sweeps_of(preset)[name]
    last = plan.first_seed + (plan.num_seeds or NUM_SEEDS[preset])
    chosen = range(plan.first_seed, last) if seeds is None else seeds
    for arm in plan.arms:
      of_arm = (TUNING_SEED,) if arm.config.seed == TUNING_SEED else chosen
      configs += [dataclasses.replace(arm.config, seed=seed) for seed in of_arm]
  configs.sort(key=lambda config: config.seed)
  return list(dict.fromkeys(configs))


def sweep(
  configs: list[Config],
  output: pathlib.Path,
  data_root: pathlib.Path | None,
  jobs: int,
  console: Console,
) -> dict[str, str]:
  """Does the runs that are not finished.

  Returns:
    ``{name: error}`` of those that failed.
  """
  output.mkdir(parents=True, exist_ok=True)
  todo = collections.deque(c for c in configs if not _is_finished(c, output))
  failures, running, bars, workers = {}, {}, {}, None
  columns = (*rich.progress.Progress.get_default_columns(), "{task.completed}")
  with rich.progress.Progress(*columns, console=console) as progress:
    finished = progress.add_task("runs", total=len(configs))
    progress.update(finished, completed=len(configs) - len(todo))
    while todo or running:
      workers = workers or _Workers(jobs)
      while todo and len(running) < jobs:
        config = todo.popleft()
        running[workers.pool.submit(_work, config, output, data_root)] = config
        title = f"{config.dataset}, {config.regularizer.name}, {config.seed}"
        bars[config] = progress.add_task(title, total=config.steps)
      done, _ = concurrent.futures.wait(
        running, 1.0, concurrent.futures.FIRST_COMPLETED
      )
      for config, step in _drain(workers.steps):
        if config in bars:
          progress.update(bars[config], completed=step)
      for future in done:
        config, error = running.pop(future), future.exception()
        if isinstance(error, BrokenProcessPool):  # And so are all that run now.
          workers = None
          failures[config.name] = "a worker was killed; was there too little memory?"
        elif error:
          expected = isinstance(error, ValueError)
          lines = [f"{error}"] if expected else traceback.format_exception(error)
          failures[config.name] = "".join(lines)
        progress.remove_task(bars.pop(config))
        progress.advance(finished)
  return failures


def _is_finished(config, output):
  """And nothing is left of it that a run would remove."""
  path = output / f"{config.name}.json"
  return path.exists() and not path.with_suffix(".checkpoint").exists()


class _Workers:
  """Processes, and what they tell of their steps."""

  def __init__(self, jobs):
    spawn = multiprocessing.get_context("spawn")  # JAX has threads: no fork.
    cores, self.steps = spawn.Queue(), spawn.Queue()
    for job in range(jobs):
      cores.put(_cores_of(job, jobs))
    self.pool = concurrent.futures.ProcessPoolExecutor(
      jobs, spawn, _start_worker, (cores, self.steps)
    )


def _cores_of(job, jobs):
  """The cores of a job: an equal share, or all where there are too few or no names."""
  if not hasattr(os, "sched_getaffinity"):
    return None
  cores = sorted(os.sched_getaffinity(0))
  return cores[job::jobs] if jobs <= len(cores) else cores


def _drain(steps):
  """What workers have told, the last of each run."""
  told = {}
  with contextlib.suppress(queue.Empty):
    while True:
      config, step = steps.get_nowait()
      told[config] = step
  return told.items()


_worker = {}


def _start_worker(cores, steps):
  mine = cores.get()
  if mine:
    os.sched_setaffinity(0, mine)
  threading.Thread(target=_die_with_parent, daemon=True).start()
  # Jobs share an accelerator's memory; it is read when JAX starts its backend.
  os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  _worker["steps"] = steps


def _die_with_parent():
  """Or a killed sweep would go on, beside the one that is started to continue it."""
  parent = multiprocessing.parent_process()
  if parent is not None:
    parent.join()
    os._exit(1)


def _work(config, output, data_root):
  last = 0.0

  def on_step(step):
    nonlocal last
    if time.monotonic() - last > 1.0:
      last = time.monotonic()
      _worker["steps"].put((config, step))

  train(config, output, data_root, on_step)


def main(
  sweeps: Annotated[tuple[str, ...], tyro.conf.Positional] = (),
  preset: Literal["smoke", "cpu", "paper"] = "smoke",
  output: pathlib.Path = pathlib.Path("runs/classification"),
  data_root: pathlib.Path | None = None,
  jobs: int = 1,
  seeds: tuple[int, ...] | None = None,
) -> None:
  """Works through the paper's experiments.

  Args:
    sweeps: which of rate, headline, variants, width, depth, layers, weight, resnet,
      imbalance, start and (not on a CPU) imagenet; all of them by default.
    preset: "smoke" (handwritten digits, seconds), "cpu" (hours on two cores) or
      "paper" (the paper's schedule, for accelerators).
    output: folder for the results, one JSON file a run.
    data_root: folder of local copies of the data sets, called cifar10, cifar100 and
      imagenet; without it, the Hugging Face hub is asked.
    jobs: runs at a time, each on its share of the cores.
    seeds: which seeds; by default the first few, as many as the sweep has.
  """
  console = Console()
  known = sweeps_of(preset)
  for name in sweeps:
    if name not in known:
      console.print(
        f"[red]sweeps of preset {preset!r} must be of {', '.join(known)}, got "
        f"{name!r}.[/red]"
      )
      sys.exit(2)
  if seeds is not None and TUNING_SEED in seeds:
    console.print(f"[red]seeds must not have {TUNING_SEED}, that of tuning.[/red]")
    sys.exit(2)
  configs = runs(sweeps or tuple(known), preset, seeds)
  try:
    failures = sweep(configs, output, data_root, jobs, console)
  except KeyboardInterrupt:
    console.print("Stopped; the same command goes on.")
    os._exit(130)  # At once: workers end with their parent, and lose little.
  for name, error in failures.items():
    console.print(f"[red]{name} failed: {error}[/red]", highlight=False)
  console.print(
    f"{len(configs) - len(failures)} of {len(configs)} runs are in {output}.",
    highlight=False,
  )
  sys.exit(bool(failures))


if __name__ == "__main__":
  tyro.cli(main)
