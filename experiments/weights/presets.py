"""What is trained: networks, potentials, weights and seeds. Fixed before any run."""

import dataclasses
import itertools
from typing import Literal

Network = Literal["mlp", "cnn", "cnn-bn", "resnet", "vit"]
Space = Literal["half", "full"]
FORMS = ("mean", "relative", "log")
OUTPUT = "head/kernel"  # The path of every network's classifier.

# Stochastic gradient descent with momentum 0.9, and AdamW for the transformer: usual
# rates, not tuned for any form of the energy.
LEARNING_RATES = {"mlp": 0.05, "cnn": 0.05, "cnn-bn": 0.1, "resnet": 0.1, "vit": 1e-3}


@dataclasses.dataclass(frozen=True)
class Training:
  """What all runs of a preset share.

  Attributes:
    seeds: of initialization and order of the data; every weight has all of them.
    weights: ``{form: weights}`` as pairs; the weight 0 is always there.
    steps: of an update.
    batch_size: images in it.
    train_images: that there are to train on.
    test_images: that errors are measured on.
  """

  seeds: tuple[int, ...]
  weights: tuple[tuple[str, tuple[float, ...]], ...]
  steps: int
  batch_size: int
  train_images: int
  test_images: int

  @property
  def arms(self) -> list[tuple[str, float]]:
    """``(form, weight)``, of which the first is no energy."""
    arms = [(form, weight) for form, weights in self.weights for weight in weights]
    return [("none", 0.0), *arms]


@dataclasses.dataclass(frozen=True)
class Cell:
  """Runs that are trained at once and have one file.

  Attributes:
    network: kind of network.
    width: factor of the widths of its layers.
    s: exponent of the Riesz potential.
    space: "half" for half-space energies of the hidden layers.
    training: what is the same in all cells.
  """

  network: Network
  width: int
  s: float
  space: Space
  training: Training

  @property
  def name(self) -> str:
    """Of its file."""
    return f"{self.network}_x{self.width}_s{self.s:g}_{self.space}"


@dataclasses.dataclass(frozen=True)
class Preset:
  """A grid of cells."""

  training: Training
  networks: tuple[Network, ...] = ("mlp", "cnn", "cnn-bn", "resnet", "vit")
  widths: tuple[int, ...] = (1, 8)
  potentials: tuple[tuple[Space, float], ...] = (
    ("half", 2.0),
    ("half", 0.0),
    ("half", 1.0),
    ("full", 2.0),
  )

  @property
  def cells(self) -> list[Cell]:
    """Of one network and width side by side: they are compiled once."""
    grid = itertools.product(self.networks, self.widths, self.potentials)
    return [Cell(n, w, s, space, self.training) for n, w, (space, s) in grid]


def weights(mean: tuple[float, ...], relative: tuple[float, ...]):
  """The weights of the forms: the two relative ones have the same."""
  return (("mean", mean), ("relative", relative), ("log", relative))


PRESETS = {
  "smoke": Preset(
    Training((0, 1), weights((10.0,), (0.1,)), 4, 8, 64, 32),
    networks=("mlp", "vit"),
    widths=(1,),
    potentials=(("half", 2.0),),
  ),
  "cpu": Preset(
    Training(
      (0, 1, 2),
      weights((0.1, 1.0, 10.0, 100.0, 1000.0), (0.003, 0.03, 0.3, 3.0)),
      steps=200,
      batch_size=64,
      train_images=5_000,
      test_images=2_000,
    ),
    widths=(1, 4),
    potentials=(("half", 2.0),),
  ),
  "accelerator": Preset(
    Training(
      (0, 1, 2),
      weights((0.1, 1.0, 10.0, 100.0, 1000.0), (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)),
      steps=600,
      batch_size=64,
      train_images=10_000,
      test_images=5_000,
    ),
  ),
}
