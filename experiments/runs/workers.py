"""Processes that do one run after another."""

import multiprocessing
import os
import pathlib
import signal
import threading
import time
import traceback
from typing import Generic

from experiments.errors import InputError
from experiments.runs.task import S, Task
from experiments.runs.train import OccupiedError, train


class Worker(Generic[S]):
  """A process that does one run after another; a new one takes the place of a dead.

  Args:
    task: what it trains.
    cores: that it may use; all if None.
    output: folder for the results.
    data_root: folder of local copies of the data sets.

  Attributes:
    config: the run that it does, or did last.
    pipe: has what :meth:`receive` returns.
  """

  config: S

  def __init__(
    self,
    task: Task[S],
    cores: list[int] | None,
    output: pathlib.Path,
    data_root: pathlib.Path | None,
  ):
    self._arguments = (task, cores, output, data_root)
    self._spawn()

  def _spawn(self):
    context = multiprocessing.get_context("spawn")  # JAX has threads: no fork.
    self.pipe, other = context.Pipe()
    arguments = (other, *self._arguments)
    self._process = context.Process(target=_serve, args=arguments, daemon=True)
    self._process.start()
    other.close()  # Or the end of the process would not end the pipe.

  def start(self, config: S) -> None:
    """Begins with a run."""
    self.config = config
    try:
      self.pipe.send(config)
    except OSError:  # It died between two runs.
      self._spawn()
      self.pipe.send(config)

  def stop(self) -> None:
    """Ends the process, which has no run."""
    self.pipe.close()
    self._process.join()

  def receive(self) -> int | str | OccupiedError | None:
    """A number of steps; or, of a run that ended, None or its error."""
    try:
      return self.pipe.recv()
    except (EOFError, OSError):
      self._process.join()
      return (
        "a worker ended, or was killed; was there too little memory? Exit code "
        f"{self._process.exitcode}."
      )


def _serve(pipe, task, cores, output, data_root):
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
      train(task, config, output, data_root, on_step)
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


def cores_of(job: int, jobs: int) -> list[int] | None:
  """The cores of a job: an equal share, or all where there are too few or no names."""
  if not hasattr(os, "sched_getaffinity"):
    return None
  cores = sorted(os.sched_getaffinity(0))
  return cores[job::jobs] if jobs <= len(cores) else cores
