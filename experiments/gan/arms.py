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
    """What MHE is in a preset; in ``paper`` what it is in the authors' code.

    That weighs by 1e-6, or 1e-7 beside spectral normalization, the sum over the pairs
    of log(1 / z^2) divided by N^2, and counts it twice, once for each call of the
    discriminator: the mean over the N (N - 1) / 2 pairs. Here log(1 / z) is s = 0, half
    of that. In half-space, as it is meant there.
    """
    if self.preset != "paper":
      return RELATIVE
    return Regularizer("mhe", s=0.0, weight=2e-7 if spectral_norm else 2e-6)
