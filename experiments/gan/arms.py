"""What is compared in GANs: regularizers of the discriminator, presets, seeds."""

import dataclasses
from typing import Any

from experiments.gan.presets import Config, preset
from experiments.regularizers import Regularizer
from experiments.runs.task import Preset

DATASETS = {"digits": "digits", "cifar10": "CIFAR-10"}
BASELINE = Regularizer()
MHE = Regularizer("mhe", half_space=False)
HALF_MHE = Regularizer("mhe")
# The weight of docs/weights.md; the sweep ``weight`` asks whether it is one for a GAN.
RELATIVE = Regularizer("mhe", relative=True, weight=0.1)
RELATIVE_ORTHONORMAL = Regularizer("orthonormal", relative=True, weight=0.1)

# Seeds that confirm: those of the comparisons. Others explore.
CONFIRMING = range(5)
EXPLORING = range(100, 103)


class Base:
  """Configurations of a preset on the data sets."""

  def __init__(self, preset: Preset):
    self.preset: Preset = preset
    smoke = preset == "smoke"
    self.datasets = ("digits",) if smoke else tuple(DATASETS)
    self.confirming = range(2) if smoke else CONFIRMING
    self.exploring = range(2) if smoke else EXPLORING

  def __call__(self, dataset: str, **changes: Any) -> Config:
    """A configuration on a data set."""
    return dataclasses.replace(preset(self.preset, dataset), **changes)

  def mhe(self, *, spectral_norm: bool) -> Regularizer:
    """What MHE is in a preset; in ``paper`` the paper's energy and weights.

    The authors' code weighs the sum over the pairs, by 1e-6, or 1e-7 where there is
    spectral normalization; here it is their mean. In a layer of N neurons the sum is
    N (N - 1) times the mean: 0.26 times it, or 0.026, in the widest layers, N = 512,
    and less than that in the others, where one weight for all is more than theirs.
    """
    if self.preset != "paper":
      return RELATIVE
    return dataclasses.replace(HALF_MHE, weight=0.026 if spectral_norm else 0.26)
