"""The smallest task: a random walk, whose final measures are what it summed up.

The runner's tests train it, also as processes: ``python counting.py``, and as a sweep
with ``python counting.py sweep``.
"""

import dataclasses
import sys
import time

import numpy as np

from experiments.errors import InputError
from experiments.runs.commands import run_command, sweep_command
from experiments.runs.plan import Arm, Sweep
from experiments.runs.settings import RunSettings, Settings
from experiments.runs.task import Diverged, Task
from experiments.runs.train import number


@dataclasses.dataclass(frozen=True)
class Stride(Settings):
  """How far a step goes."""

  scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class Config(RunSettings):
  """A walk; ``fails`` is the step that raises, ``seconds`` what each takes.

  It diverges in the step ``diverges``.
  """

  dataset: str = "noise"
  steps: int = 6
  measurements: int = 3
  seed: int = 0
  stride: Stride = dataclasses.field(default_factory=Stride)
  fails: int = 0
  diverges: int = 0
  seconds: float = 0.0

  @property
  def label(self):
    return f"walk-{self.stride.scale:g}"


class Walk:
  """Sums up numbers that follow from the seed and the step."""

  def __init__(self, config, data_root):
    if data_root is not None and not data_root.is_dir():
      raise InputError(f"the folder of the data must exist, got {data_root}.")
    self.config = config
    self.data_source = {"from": "nowhere", "fingerprint": "none"}
    self.state = {"sum": np.zeros(3), "since": np.zeros(())}

  def steps(self, first, last):
    for step in range(first + 1, last + 1):
      time.sleep(self.config.seconds)
      if step == self.config.fails:
        raise ValueError(f"step {step} is its own fault")
      if step == self.config.diverges:
        raise Diverged(f"step {step} led nowhere; try a smaller stride.")
      move = np.random.default_rng([self.config.seed, step]).normal(size=3)
      self.state = {
        "sum": self.state["sum"] + self.config.stride.scale * move,
        "since": self.state["since"] + 1,
      }
      yield step

  def measure(self, step):
    since = float(self.state["since"])
    self.state = self.state | {"since": np.zeros(())}
    return {"step": step, "since": since, "sum": self.state["sum"].tolist()}

  def final_measures(self):
    return {"test_error": number(np.abs(self.state["sum"]).sum())}


PRESETS = {
  "smoke": Config(),
  "cpu": Config(steps=60, measurements=30, seconds=0.02),
  "paper": Config(steps=3000, measurements=30),
}


def preset(name, dataset):
  config = PRESETS[name]
  return config if dataset is None else dataclasses.replace(config, dataset=dataset)


def tell(result):
  return f"walked {result['test_error']:.2f}"


def sweeps_of(name):
  config = PRESETS[name]

  def arms(*scales):
    return [
      Arm(f"{scale:g}", "walk", dataclasses.replace(config, stride=Stride(scale)))
      for scale in scales
    ]

  lost = Arm("1", "walk", dataclasses.replace(config, diverges=3))
  faulty = Arm("1", "walk", dataclasses.replace(config, fails=3))
  return {
    "far": Sweep("Days", "stride", arms(100.0), range(2), last=True),
    "near": Sweep("Strides", "stride", arms(1.0, 2.0), range(2)),
    "other": Sweep("Other seeds", "stride", arms(1.0, 3.0), range(1, 3)),
    "lost": Sweep("Diverging", "stride", [lost], range(1)),
    "faulty": Sweep("Faults", "stride", [*arms(2.0), faulty], range(1)),
  }


TASK = Task("counting", Config, preset, Walk, tell)

if __name__ == "__main__":
  # Of the module and not of this script: workers look for what they are sent there.
  import counting

  if sys.argv[1:2] == ["sweep"]:
    del sys.argv[1]
    sweep_command(counting.TASK, counting.sweeps_of, __doc__)
  else:
    run_command(counting.TASK, __doc__)
