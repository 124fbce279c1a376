"""What the input costs in training: batches alone, beside the steps that take them.

Images of CIFAR's size, padded, cropped and mirrored, for the smallest network of the
paper's experiments on CPU; and photographs, decoded, cropped and resized as for
ImageNet. The pixels are random: what they show does not matter.

  python -m experiments.benchmarks.input_pipeline                   # a minute
  python -m experiments.benchmarks.input_pipeline --preset smoke    # seconds

The run writes OUTPUT/benchmark_input_pipeline.json and prints the summary.
"""

import dataclasses
import io
import json
import pathlib
import time
from typing import Literal

import numpy as np
import tyro
from PIL import Image
from rich.console import Console

from experiments.classification.presets import PRESETS as RUNS
from experiments.classification.task import Run
from experiments.data import Data, Split
from experiments.data.batches import training_batches
from experiments.environment import environment
from experiments.runs.task import Preset


@dataclasses.dataclass(frozen=True)
class Config:
  """How many batches are timed, how often; of which run the steps are."""

  run: Preset = "cpu"
  batches: int = 100
  photographs: int = 32
  photograph_batches: int = 20
  rounds: int = 5


PRESETS = {
  "full": Config(),
  "smoke": Config("smoke", batches=3, photographs=4, photograph_batches=2, rounds=1),
}


class Photographs:
  """Encoded images of 500 x 375 pixels, each decoded when it is asked for."""

  def __init__(self, n: int):
    rng = np.random.default_rng(0)
    self._files = []
    for _ in range(n):
      coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3)).astype(np.uint8))
      file = io.BytesIO()
      coarse.resize((500, 375)).save(file, "JPEG", quality=90)
      self._files.append(file.getvalue())

  def __getitem__(self, index: int) -> Image.Image:
    """The image as a PIL image."""
    return Image.open(io.BytesIO(self._files[index])).convert("RGB")


def cifar_like() -> Data:
  """Random images of 32 x 32 pixels."""
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (5000, 32, 32, 3)).astype(np.uint8)
  split = Split(images, rng.integers(0, 10, 5000).astype(np.int32))
  return Data(split, split, tuple(map(str, range(10))), "random")


def seconds_per_step(stream) -> float:
  """Mean over all, from the start: some are made while others are waited for."""
  start = time.perf_counter()
  steps = sum(1 for _ in stream)
  return (time.perf_counter() - start) / steps


def run(config: Config) -> dict:
  """Times batches, steps and photographs in turns."""
  data, settings = cifar_like(), RUNS[config.run]
  rows = np.arange(len(data.train))
  network = Run(dataclasses.replace(settings, images_per_class=0), data)
  split = Split(Photographs(config.photographs), np.zeros(config.photographs, np.int32))
  seconds = {"batch": [], "step": [], "photographs": []}

  def trained(steps):
    for step in network.steps(*steps):
      network.state.loss.block_until_ready()
      yield step

  seconds_per_step(trained((0, 1)))  # Compiles.
  for turn in range(config.rounds):
    steps = 0, config.batches
    batches = training_batches(data.train, rows, settings.batch_size, turn, steps=steps)
    seconds["batch"].append(seconds_per_step(batches))
    seconds["step"].append(seconds_per_step(trained(steps)))
    photographs = training_batches(
      split, np.arange(len(split)), len(split), turn,
      steps=(0, config.photograph_batches), size=224,
    )  # fmt: skip
    seconds["photographs"].append(seconds_per_step(photographs))
  return {
    "command": "python -m experiments.benchmarks.input_pipeline",
    "config": dataclasses.asdict(config),
    "batch_size": settings.batch_size,
    "network": f"{settings.model}, {settings.width} channels",
    **environment(),
    "seconds": {k: [round(s, 6) for s in values] for k, values in seconds.items()},
  }


def summarize(result: dict) -> str:
  """The result in a sentence or two, from the JSON alone."""
  seconds = result["seconds"]
  batch, photographs = (np.median(seconds[name]) for name in ("batch", "photographs"))
  share = float(np.median(np.divide(seconds["batch"], seconds["step"])))
  images = result["batch_size"] / batch
  rate = result["config"]["photographs"] / photographs
  return (
    f"A batch of {result['batch_size']} augmented images of 32 x 32 pixels takes "
    f"{1e3 * batch:.1f} ms ({images:,.0f} images a second), {100 * share:.0f}% of a "
    f"step of {result['network']}, and is made while the step before it runs. "
    f"Photographs of 500 x 375 pixels are decoded, cropped and resized to 224 x 224 at "
    f"{rate:.0f} images a second."
  )


def main(
  preset: Literal["full", "smoke"] = "full",
  output: pathlib.Path = pathlib.Path("runs"),
) -> None:
  """Times the input of training.

  Args:
    preset: "full" or "smoke" (seconds, for the tests).
    output: folder for benchmark_input_pipeline.json.
  """
  console = Console()
  output.mkdir(parents=True, exist_ok=True)
  result = run(PRESETS[preset])
  path = output / "benchmark_input_pipeline.json"
  path.write_text(json.dumps(result) + "\n")
  console.print(summarize(result), highlight=False)
  console.print(f"Wrote {path}.")


if __name__ == "__main__":
  tyro.cli(main)
