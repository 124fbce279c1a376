"""One run of a task, from wherever it is to its end."""

import dataclasses
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import filelock
import numpy as np

from experiments.environment import environment
from experiments.errors import InputError
from experiments.kept import write_json
from experiments.runs.checkpoints import Checkpoints
from experiments.runs.results import settings_of
from experiments.runs.settings import RunSettings
from experiments.runs.task import Diverged, Run, S, Task

SAVING = 0.05  # Share of the time that saving may take: fast runs are saved less often,
LONGEST = 300.0  # but in any case after so many seconds, and at the first measurement.


class OccupiedError(InputError):
  """Another process trains this run."""


def train(
  task: Task[S],
  config: S,
  output: pathlib.Path,
  data_root: pathlib.Path | None = None,
  on_step: Callable[[int], None] = lambda step: None,
) -> dict[str, Any]:
  """Trains one run, or goes on with it, or returns what is finished already.

  Args:
    task: what is trained.
    config: the run.
    output: folder for NAME.json, and for NAME.checkpoint while the run lasts.
    data_root: folder of local copies of the data sets, called as these are.
    on_step: is told the number of finished steps.

  Returns:
    What the JSON holds. Of a run that diverged it says so under ``"diverged"``; there
    are no final measures, and NAME.checkpoint is kept: the last state that was saved.

  Raises:
    OccupiedError: another process trains it.
    InputError: of the task; or what is finished is no result, or has other settings,
      for the defaults were others then; or what is to go on cannot be read, or was
      begun with other data.
  """
  path = output / f"{config.name}.json"
  try:
    with filelock.FileLock(path.with_suffix(".lock"), timeout=0):
      checkpoints = Checkpoints(path.with_suffix(".checkpoint"))
      if not path.exists():
        run = task.start(config, data_root)
        result = _train(task, config, run, checkpoints, on_step)
        write_json(path, result)
      # Before anything is removed.
      check_settings(settings_of(path, task.settings), config, path)
      if has_diverged(config, output):
        checkpoints.close()
      else:
        checkpoints.remove()
  except filelock.Timeout:
    raise OccupiedError(f"{config.name} is being trained by another process.") from None
  path.with_suffix(".lock").unlink(missing_ok=True)  # It guards nothing any more.
  on_step(config.steps)
  return json.loads(path.read_text())


def is_finished(task: Task[S], config: S, output: pathlib.Path) -> bool:
  """Whether a run has its result, and nothing is left that it would remove.

  Raises:
    InputError: as :func:`train`.
  """
  path = output / f"{config.name}.json"
  if not path.exists():
    return False
  check_settings(settings_of(path, task.settings), config, path)
  return has_diverged(config, output) or not path.with_suffix(".checkpoint").exists()


def has_diverged(config: RunSettings, output: pathlib.Path) -> bool:
  """Whether a run has a result, and that is that it diverged."""
  path = output / f"{config.name}.json"
  return path.exists() and "diverged" in json.loads(path.read_text())


def check_settings(found: RunSettings, config: RunSettings, path: pathlib.Path) -> None:
  """Names have what differs from the defaults, and these may have changed.

  Raises:
    InputError: what was found under the name of a run has other settings.
  """
  if found != config:
    raise InputError(
      f"{path} must have the settings of the run, {config}, got {found}; name another "
      "output."
    )


def _train(task, config, run: Run, checkpoints, on_step):
  """From what was saved last, if anything was; what the JSON holds."""
  if checkpoints.exist():
    run.state, log = checkpoints.restore(run.state)
    found = task.settings.from_json(log["config"])
    check_settings(found, config, checkpoints.folder)
    if log.get("data") != run.data_source:
      raise InputError(
        f"{checkpoints.folder} must be of the data of the run, {run.data_source}, got "
        f"{log.get('data')}; name another output."
      )
  else:
    log = {
      "config": dataclasses.asdict(config),
      "data": run.data_source,
      "seconds": 0.0,
      "environments": [],
      "history": [run.measure(0)],
    }
  if environment() not in log["environments"]:
    log["environments"].append(environment())  # In another one, numbers differ.
  first = log["history"][-1]["step"]
  start = time.perf_counter() - log["seconds"]
  due = start
  try:
    for step in run.steps(first, config.steps):
      on_step(step)
      if step % config.steps_between == 0:
        log["history"].append(run.measure(step))
        log["seconds"] = round(time.perf_counter() - start, 2)
        due = _saved(checkpoints, step, run.state, log, due)
    outcome = run.final_measures()
  except Diverged as error:
    outcome = {"diverged": str(error)}
  return {
    "command": f"python -m {task.module} --repeat {config.name}.json",
    "name": config.name,
    **outcome,
    **log,
    **environment(),
  }


def _saved(checkpoints, step, state, log, due):
  """Saves, if that is due; when it is due next."""
  start = time.perf_counter()
  if start < due:
    return due
  checkpoints.save(step, state, log)
  end = time.perf_counter()
  return end + min((end - start) / SAVING, LONGEST)


def number(x: Any) -> float | None:
  """For the JSON; not all of its readers know NaN, which diverged runs have."""
  return round(float(x), 5) if np.isfinite(x) else None
