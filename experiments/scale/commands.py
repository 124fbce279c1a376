"""The commands of this room: a preset, changed as is wished, in all of its arms."""

import dataclasses
import pathlib
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Generic, Literal, TypeVar

import rich.progress
import tyro
from rich.console import Console

from experiments.environment import environment
from experiments.errors import InputError, make_folder, told_in_a_line
from experiments.kept import write_json
from experiments.runs.settings import Settings

Preset = Literal["smoke", "cpu"]
S = TypeVar("S", bound=Settings)


@dataclasses.dataclass(frozen=True)
class Experiment(Generic[S]):
  """What a command does.

  Attributes:
    name: of the module, and of its files.
    arm: name of the setting by which arms differ.
    presets: settings by name, with the arms that are run by default.
    run: of settings, and of a function that is told the number of steps so far, to what
      the JSON holds.
    tell: a result in a line.
  """

  name: str
  arm: str
  presets: Mapping[Preset, tuple[S, tuple[str, ...]]]
  run: Callable[[S, Callable[[int], None]], dict[str, Any]]
  tell: Callable[[dict[str, Any]], str]

  def settings_of(self, config: S, arm: str) -> S:
    """Those of an arm.

    Raises:
      InputError: there is no such arm, or it cannot have these settings.
    """
    settings: Any = config  # A dataclass, which its class does not say.
    return dataclasses.replace(settings, **{self.arm: arm})

  def path(self, folder: pathlib.Path, preset: Preset, arm: str) -> pathlib.Path:
    """Of a result."""
    return folder / f"{self.name}_{preset}_{arm}.json"


@dataclasses.dataclass(frozen=True)
class Arguments(Generic[S]):
  """Arguments of a command.

  Attributes:
    config: what all arms share.
    arms: which are run, each into a file of its own; by default those of the preset.
    preset: smoke (seconds, for the tests) or cpu (minutes on two cores).
    output: folder for the results, NAME_PRESET_ARM.json.
  """

  config: Annotated[S, tyro.conf.arg(name="")]
  arms: tuple[str, ...]
  preset: Preset = "cpu"
  output: pathlib.Path = pathlib.Path("runs/scale")


def run_command(experiment: Experiment[S], description: str | None) -> None:
  """``python -m experiments.scale.NAME``."""

  def preset_of(preset: Preset = "cpu") -> Preset:
    """Its settings are the defaults of all other arguments."""
    return preset

  console = Console()
  with told_in_a_line(console):
    preset, _ = tyro.cli(preset_of, return_unknown_args=True, add_help=False)
    config, arms = experiment.presets[preset]
    arguments = tyro.cli(
      Arguments[type(config)],
      default=Arguments(config, arms, preset),
      description=description,
    )
    configs = {
      arm: experiment.settings_of(arguments.config, arm) for arm in arguments.arms
    }
    if not configs:
      raise InputError(f"arms must be some of {', '.join(arms)}, got none.")
    make_folder(arguments.output)
    for arm, config in configs.items():
      result = _run(experiment, config, arm, console)
      path = experiment.path(arguments.output, preset, arm)
      write_json(path, result)
      console.print(
        f"{arm}: {experiment.tell(result)}; wrote {path}.",
        highlight=False,
        soft_wrap=True,
      )


def _run(experiment, config, arm, console):
  start = time.perf_counter()
  columns = (*rich.progress.Progress.get_default_columns(), "{task.completed}")
  with rich.progress.Progress(*columns, console=console) as progress:
    bar = progress.add_task(f"{experiment.name}, {arm}", total=config.steps)
    result = experiment.run(config, lambda step: progress.update(bar, completed=step))
  module = f"experiments.scale.{experiment.name}"
  return {
    "command": shlex.join(["python", "-m", module, *sys.argv[1:]]),
    "config": dataclasses.asdict(config),
    **environment(),
    "seconds": round(time.perf_counter() - start, 1),
    **result,
  }
