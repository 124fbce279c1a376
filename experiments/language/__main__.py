r"""Trains the language model, one run after the other.

  python -m experiments.language --what tuning

A run is a JSON file in OUTPUT; those that are there are skipped, so that the command
can be stopped and given again. `experiments.language.report` makes the tables.
"""

import pathlib
from typing import Literal

import tyro
from rich.console import Console

from experiments.errors import make_folder, told_in_a_line
from experiments.kept import write_json
from experiments.language.plan import PLANS
from experiments.language.text import read


def main(
  what: Literal["tuning", "controls", "confirming", "longer"] = "tuning",
  output: pathlib.Path = pathlib.Path("runs/language"),
) -> None:
  """Trains what is not there yet.

  Args:
    what: a plan; a run takes a minute of one core.
    output: folder of the runs.
  """
  from experiments.language.training import train  # noqa: PLC0415  (starts JAX)

  console = Console()
  with told_in_a_line(console):
    make_folder(output)
    for run in PLANS[what]():
      path = output / f"{run.name}.json"
      if path.exists():
        continue
      result = train(run, read(run.half))
      write_json(path, result)
      last = result["history"][-1]
      console.print(
        f"{run.name}: {last['validation']:.4f} nats, {last['seconds']:.0f} s"
      )


if __name__ == "__main__":
  tyro.cli(main)
