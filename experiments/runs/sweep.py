"""Works through lists of runs, several at a time.

Finished runs are skipped and unfinished ones go on, so that a sweep can be stopped, in
any way, and continued at any time, or in parts: seed by seed, sweep by sweep. Several
processes share the runs among them, if they share the folder.
"""

import collections
import multiprocessing.connection
import pathlib
from typing import Generic, NamedTuple

import rich.progress
from rich.console import Console

from experiments.errors import InputError, make_folder
from experiments.runs.task import S, Task
from experiments.runs.train import OccupiedError, is_finished
from experiments.runs.workers import Worker, cores_of


class Outcome(NamedTuple, Generic[S]):
  """How the runs of a sweep ended.

  Attributes:
    failures: ``{name: error}`` of those that failed.
    occupied: those that other processes trained when their turn came.
  """

  failures: dict[str, str]
  occupied: list[S]


def sweep(
  task: Task[S],
  configs: list[S],
  output: pathlib.Path,
  data_root: pathlib.Path | None,
  jobs: int,
  console: Console,
) -> Outcome[S]:
  """Does the runs that are not finished.

  Args:
    task: what is trained.
    configs: the runs, in their order.
    output: folder for the results.
    data_root: folder of local copies of the data sets.
    jobs: runs at a time, each on its share of the cores.
    console: for the progress bars.

  Raises:
    InputError: jobs is not positive, or a finished run has other settings.
  """
  if jobs < 1:
    raise InputError(f"jobs must be at least 1, got {jobs}.")
  make_folder(output)
  todo = collections.deque(c for c in configs if not is_finished(task, c, output))
  outcome = Outcome({}, [])
  columns = (*rich.progress.Progress.get_default_columns(), "{task.completed}")
  with rich.progress.Progress(*columns, console=console) as progress:
    finished = progress.add_task("runs", total=len(configs))
    progress.update(finished, completed=len(configs) - len(todo))
    workers = [
      Worker(task, cores_of(job, jobs), output, data_root)
      for job in range(min(jobs, len(todo)))
    ]
    bars = {}
    while todo or bars:
      for worker in workers:
        if worker not in bars and todo:
          config = todo.popleft()
          worker.start(config)
          title = f"{config.label}, seed {config.seed}"
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
