"""What is compared in image classification: regularizers, presets, seeds."""

import dataclasses
from typing import Any

from experiments.classification.presets import Config, preset
from experiments.regularizers import Regularizer
from experiments.runs.task import Preset

DATASETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
BASELINE = Regularizer()
MHE = Regularizer("mhe", half_space=False)
HALF_MHE = Regularizer("mhe")
ORTHONORMAL = Regularizer("orthonormal")
# The weight was chosen on handwritten digits and five other networks: docs/weights.md.
RELATIVE = Regularizer("mhe", relative=True, weight=0.1)
RELATIVE_ORTHONORMAL = Regularizer("orthonormal", relative=True, weight=0.1)

# Seeds that explore: of all of the paper's tables but the headline, which confirms, and
# the learning rate's. Those of smoke confirm nothing.
EXPLORING = {"smoke": range(2), "cpu": range(3), "paper": range(5)}
CONFIRMING = {"smoke": range(2), "cpu": range(3, 8), "paper": range(5, 10)}
TUNING = range(100, 101)  # By whose validation errors settings are judged.


class Base:
  """Configurations of a preset on the data sets of the paper."""

  def __init__(self, preset: Preset):
    self.preset: Preset = preset
    self.seeds = EXPLORING[preset]

  def __call__(self, dataset: str, **changes: Any) -> Config:
    """A configuration on a data set; all of ``smoke`` is on handwritten digits."""
    if self.preset == "smoke":
      kept = ("regularizer", "dropped", "seed", "rounding")
      changes = {name: x for name, x in changes.items() if name in kept}
      return dataclasses.replace(preset("smoke"), **changes)
    return dataclasses.replace(preset(self.preset, dataset), **changes)

  def new_seeds(self, seeds: range) -> range:
    """Seeds that no table of the paper has; those of ``smoke`` confirm nothing."""
    return self.seeds if self.preset == "smoke" else seeds

  def weighted(self, regularizer: Regularizer) -> Regularizer:
    """With the weight of the preset; those in relative units have their own."""
    if regularizer == BASELINE or regularizer.relative:
      return regularizer
    return dataclasses.replace(regularizer, weight=WEIGHTS[self.preset])


# That of cpu makes up for the shorter schedule: the sum of learning rate times weight
# over the steps is that of the paper's schedule on CIFAR-10, and a fifth of it on
# CIFAR-100.
WEIGHTS = {"smoke": 1.0, "cpu": 10.0, "paper": 1.0}


def warmup_name(steps: int) -> str:
  """What the columns of tables call it."""
  return f"{steps} steps of warm-up" if steps else "no warm-up"
