"""Sampled gradients of many neurons of few weights, where estimates are at their worst.

  python -m experiments.benchmarks.sampled_low                  # minutes
  python -m experiments.benchmarks.sampled_low --preset smoke   # seconds, in the tests

Writes OUTPUT/benchmark_sampled_low.json.
"""

import pathlib
from typing import Literal

import rich.progress
import tyro

from experiments.benchmarks.sampled import PRESETS, measure_errors
from experiments.environment import environment
from experiments.kept import write_json

# (n, d), and the sample.
SHAPES = {"cpu": ((2000, 16), 128), "smoke": ((256, 4), 16)}


def main(
  preset: Literal["smoke", "cpu"] = "cpu",
  output: pathlib.Path = pathlib.Path("runs"),
) -> None:
  """Measures errors of sampled gradients at low dimension.

  Args:
    preset: "smoke" (seconds, for the tests) or "cpu".
    output: folder for benchmark_sampled_low.json.
  """
  output.mkdir(parents=True, exist_ok=True)
  shape, num_samples = SHAPES[preset]
  with rich.progress.Progress() as progress:
    errors = measure_errors(PRESETS[preset], shape, num_samples, progress)
  result = {
    "command": "python -m experiments.benchmarks.sampled_low",
    "config": {"shape": shape, "num_samples": num_samples},
    **environment(),
    "errors": errors,
  }
  write_json(output / "benchmark_sampled_low.json", result)


if __name__ == "__main__":
  tyro.cli(main)
