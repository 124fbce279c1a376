"""Does the redundancy of neurons say which channels of a CNN can go?

A small CNN is trained on the embedded handwritten digits, with and without the energy;
then a growing share of the channels of every convolution is removed, the same share of
each, and nothing is trained again. Which ones go is said by the energy of each neuron,
by pairs of twins, by magnitude, or by chance.

  python -m experiments.pruning --preset smoke    # seconds, in the tests
  python -m experiments.pruning --preset cpu      # minutes on two cores

Every run is a JSON file in OUTPUT; runs that are there already are skipped, so that the
command can be stopped and given again. Tables and the picture of docs/pruning.md are
made by experiments.pruning.report.
"""

import pathlib
from typing import Literal

import rich.progress
import tyro
from rich.console import Console

from experiments.errors import InputError, make_folder, told_in_a_line
from experiments.kept import write_json
from experiments.pruning.training import ARMS, PRESETS, Arm, as_json, read, run


def main(
  preset: Literal["smoke", "cpu"] = "smoke",
  output: pathlib.Path = pathlib.Path("runs/pruning"),
) -> None:
  """Trains CNNs on handwritten digits and removes their channels.

  Args:
    preset: "smoke" (seconds, for the tests) or "cpu" (minutes).
    output: folder for the JSON of the runs.
  """
  console, config = Console(), PRESETS[preset]
  with told_in_a_line(console):
    make_folder(output)
    runs = read(output)
    if runs and runs[0]["config"] != as_json(config):
      raise InputError(f"{output} has runs of other settings: name another output.")
    done = {(r["arm"], r["seed"]) for r in runs}
    # Seed by seed, so that what is stopped has pairs.
    todo: list[tuple[Arm, int]] = [
      (arm, seed)
      for seed in config.training.seeds
      for arm in ARMS
      if (arm, seed) not in done
    ]
    for arm, seed in rich.progress.track(todo, "training and pruning", console=console):
      path = output / f"{arm}_seed{seed}.json"
      write_json(path, run(config, arm, seed), indent=1)
  console.print(f"{len(done) + len(todo)} runs are in {output}.", highlight=False)


if __name__ == "__main__":
  tyro.cli(main)
