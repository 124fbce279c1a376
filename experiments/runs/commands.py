"""The commands of a task: one run, and sweeps."""

import dataclasses
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Annotated, Generic

import rich.progress
import tyro
from rich.console import Console
from rich.markup import escape

from experiments.errors import InputError, make_folder, told_in_a_line
from experiments.runs.plan import Sweep, runs_of
from experiments.runs.results import settings_of
from experiments.runs.sweep import sweep
from experiments.runs.task import Preset, S, Task
from experiments.runs.train import has_diverged, is_finished, train

_one_of_both = tyro.conf.create_mutex_group(required=False)


@dataclasses.dataclass(frozen=True)
class Start:
  """Where the settings are from that the command does not name.

  Attributes:
    preset: smoke, cpu or paper.
    repeat: result whose run is to be repeated, in an output of its own.
  """

  preset: Annotated[Preset, _one_of_both] = "cpu"
  repeat: Annotated[pathlib.Path | None, _one_of_both] = None


@dataclasses.dataclass(frozen=True)
class RunArguments(Generic[S]):
  """Arguments of the command for one run.

  Attributes:
    config: the run.
    start: where the settings of the run are from.
    output: folder for the results.
    data_root: folder of local copies of the data sets, called as these are; without
      it, the Hugging Face hub is asked.
  """

  config: Annotated[S, tyro.conf.arg(name="")]
  start: Annotated[Start, tyro.conf.arg(name="")]
  output: pathlib.Path
  data_root: pathlib.Path | None = None


def run_command(task: Task, description: str | None) -> None:
  """``python -m MODULE``: trains one run.

  Args:
    task: what is trained.
    description: for the help.
  """

  def settings_to_start_from(
    start: Annotated[Start, tyro.conf.arg(name="")], dataset: str | None = None
  ):
    """Those of a preset depend on the data set."""
    if start.repeat is not None:
      return settings_of(start.repeat, task.settings)
    return task.preset(start.preset, dataset)

  console = Console()
  columns = (*rich.progress.Progress.get_default_columns(), "{task.completed}")
  with told_in_a_line(console):
    # They are the defaults of all other arguments, so they are read before these.
    config, _ = tyro.cli(
      settings_to_start_from, return_unknown_args=True, add_help=False
    )
    default = RunArguments(config, Start(), task.output)
    arguments = tyro.cli(
      RunArguments[task.settings], default=default, description=description
    )
    config, output = arguments.config, arguments.output
    if arguments.start.repeat and (output / f"{config.name}.json").exists():
      raise InputError(
        f"output must be a folder that does not hold the run yet, got {output}."
      )
    make_folder(output)
    path = output / f"{config.name}.json"
    was_there = path.exists()
    try:
      with rich.progress.Progress(*columns, console=console) as progress:
        bar = progress.add_task(config.label, total=config.steps)
        result = train(
          task,
          config,
          output,
          arguments.data_root,
          lambda step: progress.update(bar, completed=step),
        )
    except KeyboardInterrupt:
      console.print("Stopped; the same command goes on.")
      sys.exit(130)
  ended = (
    f"it was in {path} already, of data from {result['data']['from']}"
    if was_there
    else f"wrote {path}"
  )
  console.print(
    f"{_told(task, result, path)}, {result['seconds']:.0f} s; {ended}.",
    highlight=False,
    markup=False,
    soft_wrap=True,
  )
  if "diverged" in result:
    sys.exit(1)


def _told(task, result, path):
  if "diverged" not in result:
    return task.tell(result)
  kept = path.with_suffix(".checkpoint").exists()
  state = "The last saved state is kept" if kept else "No state was saved before"
  return f"Diverged: {result['diverged']} {state}"


@dataclasses.dataclass(frozen=True)
class SweepArguments:
  """Arguments of the command for sweeps.

  Attributes:
    sweeps: which; all of them by default.
    preset: whose.
    output: folder for the results, one JSON file a run.
    data_root: folder of local copies of the data sets, called as these are; without
      it, the Hugging Face hub is asked.
    jobs: runs at a time, each on its share of the cores.
    seeds: only these of the seeds that each sweep has.
  """

  sweeps: Annotated[tuple[str, ...], tyro.conf.Positional]
  preset: Preset
  output: pathlib.Path
  data_root: pathlib.Path | None = None
  jobs: int = 1
  seeds: tuple[int, ...] | None = None


def sweep_command(
  task: Task[S],
  sweeps_of: Callable[[Preset], dict[str, Sweep[S]]],
  description: str | None,
) -> None:
  """``python -m MODULE.sweep``: works through runs, and ends with 1 if some are left.

  Args:
    task: what is trained.
    sweeps_of: the sweeps of a preset, by name.
    description: for the help.
  """
  default = SweepArguments((), "smoke", task.output)
  arguments = tyro.cli(SweepArguments, default=default, description=description)
  console, output = Console(), arguments.output
  with told_in_a_line(console):
    configs = _chosen(sweeps_of(arguments.preset), arguments)
    try:
      failures, occupied = sweep(
        task, configs, output, arguments.data_root, arguments.jobs, console
      )
      missing = [c for c in occupied if not is_finished(task, c, output)]
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
  diverged = [c.name for c in configs if has_diverged(c, output)]
  if diverged:
    console.print(
      f"Diverged, and count as such: {len(diverged)} ({', '.join(diverged)}).",
      highlight=False,
    )
  num_done = len(configs) - len(failures) - len(missing)
  console.print(
    f"{num_done} of {len(configs)} runs are in {escape(str(output))}.", highlight=False
  )
  sys.exit(bool(failures or missing))


def _chosen(sweeps, arguments):
  """The runs that the arguments of the command name."""
  for name in arguments.sweeps:
    if name not in sweeps:
      raise InputError(
        f"sweeps of preset {arguments.preset!r} must be of {', '.join(sweeps)}, got "
        f"{name!r}."
      )
  chosen = [sweeps[name] for name in arguments.sweeps or sweeps]
  planned = {seed for sweep in chosen for seed in sweep.seeds}
  seeds = arguments.seeds
  if seeds == ():
    raise InputError("seeds must be one or more, got none.")
  if seeds is not None and not planned.issuperset(seeds):
    raise InputError(
      f"seeds must be of {', '.join(map(str, sorted(planned)))}, those of the "
      f"sweeps, got {', '.join(map(str, seeds))}."
    )
  return runs_of(chosen, seeds)
