r"""Trains the language model, one run after the other.

python -m experiments.language tuning
"""

import pathlib

import tyro
from rich.console import Console

from experiments.errors import make_folder, told_in_a_line
from experiments.kept import write_json
from experiments.language import plan
from experiments.language.text import read


def main(what: str = "tuning", output: pathlib.Path = pathlib.Path("runs/language")):
  """Trains what is not there yet."""
  from experiments.language.training import train  # noqa: PLC0415  (starts JAX)

  console = Console()
  with told_in_a_line(console):
    make_folder(output)
    for run in getattr(plan, what)():
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
