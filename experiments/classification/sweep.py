"""The paper's experiments: works through lists of runs.

  python -m experiments.classification.sweep --preset smoke
  python -m experiments.classification.sweep variants width --preset cpu --jobs 2
  python -m experiments.classification.sweep variants --preset paper

Finished runs are skipped and unfinished ones go on, so that a sweep can be stopped, in
any way, and continued at any time, or in parts: seed by seed, sweep by sweep. All arms
of a seed come before those of the next. On CPU, as many jobs as there are cores, each
on a core of its own, are faster than one job on all of them. Several processes of the
same command share the runs among them, if they share the folder: one for each GPU,
say, told apart by ``CUDA_VISIBLE_DEVICES``.
"""

import collections
import dataclasses
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import signal
import sys
import threading
import time
import traceback
from typing import Annotated, Literal, NamedTuple

import rich.progress
import tyro
from rich.console import Console
from rich.markup import escape

from experiments.classification.paper import sweeps_of
from experiments.classification.presets import Config, settings_of
from experiments.classification.task import OccupiedError, check_settings, train
from experiments.errors import InputError, make_folder, told_in_a_line


def runs(
  names: tuple[str, ...], preset: str, seeds: tuple[int, ...] | None = None
) -> list[Config]:
  """Runs of some sweeps, each once, all of a seed before those of a larger one.

  Those of ImageNet, which take days, come last.
  """
  plans = [sweeps_of(preset)[name] for name in names]
  configs = [
    dataclasses.replace(arm.config, seed=seed)
    for plan in plans
    for arm in plan.arms
    for seed in plan.seeds
    if seeds is None or seed in seeds
  ]
  configs.sort(key=lambda config: (config.dataset == "imagenet", config.seed))
  return list(dict.fromkeys(configs))


class Outcome(NamedTuple):
  """How the runs of a sweep ended.

  Attributes:
    failures: ``{name: error}`` of those that failed.
    occupied: those that other processes trained when their turn came.
  """

  failures: dict[str, str]
  occupied: list[Config]


def sweep(
  configs: list[Config],
  output: pathlib.Path,
  data_root: pathlib.Path | None,
  jobs: int,
  console: Console,
) -> Outcome:
  """Does the runs that are not finished.

  Raises:
    InputError: jobs is not positive, or a finished run has other settings.
  """
  if jobs < 1:
    raise InputError(f"jobs must be at least 1, got {jobs}.")
  make_folder(output)
  todo = collections.deque(c for c in configs if not _is_finished(c, output))
  outcome = Outcome({}, [])
  columns = (*rich.progress.Progress.get_default_columns(), "{task.completed}")
  with rich.progress.Progress(*columns, console=console) as progress:
    finished = progress.add_task("runs", total=len(configs))
    progress.update(finished, completed=len(configs) - len(todo))
    workers = [
      _Worker(_cores_of(job, jobs), output, data_root)
      for job in range(min(jobs, len(todo)))
    ]
    bars = {}
    while todo or bars:
      for worker in workers:
        if worker not in bars and todo:
          config = worker.start(todo.popleft())
          title = f"{config.dataset}, {config.regularizer.name}, {config.seed}"
          bars[worker] = progress.add_task(title, total=config.steps)
      for pipe in multiprocessing.connection.wait([w.pipe for w in bars]):
        worker = next(w for w in bars if w.pipe is pipe)
        message = worker.receive()
        if isinstance(message, int):
          progress.update(bars[worker], completed=message)
          continue
        if isinstance(message, OccupiedError):
          outcome.occupied.append(worker.config)
        elif message is not None:
          outcome.failures[worker.config.name] = message
        progress.remove_task(bars.pop(worker))
        progress.advance(finished)
    for worker in workers:
      worker.stop()
  return outcome


def _is_finished(config, output):
  """And nothing is left of it that a run would remove."""
  path = output / f"{config.name}.json"
  if not path.exists():
    return False
  check_settings(settings_of(path), config, path)
  return not path.with_suffix(".checkpoint").exists()


class _Worker:
  """A process that does one run after another; a new one takes the place of a dead."""

  def __init__(self, *arguments):
    self._arguments = arguments
    self._spawn()

  def _spawn(self):
    context = multiprocessing.get_context("spawn")  # JAX has threads: no fork.
    self.pipe, other = context.Pipe()
    arguments = (other, *self._arguments)
    self._process = context.Process(target=_serve, args=arguments, daemon=True)
    self._process.start()
    other.close()  # Or the end of the process would not end the pipe.

  def start(self, config):
    self.config = config
    try:
      self.pipe.send(config)
    except OSError:  # It died between two runs.
      self._spawn()
      self.pipe.send(config)
    return config

  def stop(self):
    self.pipe.close()
    self._process.join()

  def receive(self):
    """A number of steps; or, of a run that ended, None or its error."""
    try:
      return self.pipe.recv()
    except (EOFError, OSError):
      self._process.join()
      return (
        "a worker ended, or was killed; was there too little memory? Exit code "
        f"{self._process.exitcode}."
      )


def _serve(pipe, cores, output, data_root):
  """The life of a worker."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # The sweep hears it, and ends us.
  threading.Thread(target=_die_with_parent, daemon=True).start()
  if cores:
    os.sched_setaffinity(0, cores)
  # Jobs share an accelerator's memory; it is read when JAX starts its backend.
  os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
  last = 0.0

  def on_step(step):
    nonlocal last
    if time.monotonic() - last > 1.0:
      last = time.monotonic()
      pipe.send(step)

  while True:
    try:
      config = pipe.recv()
    except EOFError:
      return
    try:
      train(config, output, data_root, on_step)
      pipe.send(None)
    except OccupiedError as error:
      pipe.send(error)
    except InputError as error:
      pipe.send(str(error))
    except Exception:
      pipe.send(traceback.format_exc())


def _die_with_parent():
  """Or a killed sweep would go on, beside the one that is started to continue it."""
  parent = multiprocessing.parent_process()
  if parent is not None:
    parent.join()
    os._exit(1)


def _cores_of(job, jobs):
  """The cores of a job: an equal share, or all where there are too few or no names."""
  if not hasattr(os, "sched_getaffinity"):
    return None
  cores = sorted(os.sched_getaffinity(0))
  return cores[job::jobs] if jobs <= len(cores) else cores


def _chosen(names, preset, seeds):
  """The runs that the arguments of the command name."""
  known = sweeps_of(preset)
  for name in names:
    if name not in known:
      raise InputError(
        f"sweeps of preset {preset!r} must be of {', '.join(known)}, got {name!r}."
      )
  names = names or tuple(known)
  planned = {seed for name in names for seed in known[name].seeds}
  if seeds is not None and not planned.issuperset(seeds):
    raise InputError(
      f"seeds must be of {', '.join(map(str, sorted(planned)))}, those of the "
      f"sweeps, got {', '.join(map(str, seeds))}."
    )
  return runs(names, preset, seeds)


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
    seeds: only these of the seeds that each sweep has.
  """
  console = Console()
  with told_in_a_line(console):
    configs = _chosen(sweeps, preset, seeds)
    try:
      failures, occupied = sweep(configs, output, data_root, jobs, console)
      missing = [config for config in occupied if not _is_finished(config, output)]
    except KeyboardInterrupt:
      console.print("Stopped; the same command goes on.")
      os._exit(130)  # At once: workers end with their parent, and lose little.
  for name, error in failures.items():
    console.print(f"[red]{name} failed: {escape(error)}[/red]", highlight=False)
  if missing:
    console.print(
      f"Left to other processes, and not finished yet: {len(missing)}; the same "
      "command goes on with them when those end."
    )
  num_done = len(configs) - len(failures) - len(missing)
  console.print(
    f"{num_done} of {len(configs)} runs are in {escape(str(output))}.", highlight=False
  )
  sys.exit(bool(failures or missing))


if __name__ == "__main__":
  tyro.cli(main)
