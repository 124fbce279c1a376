"""Settings of a run of a GAN, and its optimizers."""

import dataclasses
from typing import Literal

import optax

from experiments.errors import InputError
from experiments.gan.critic import Critic
from experiments.regularizers import Regularizer
from experiments.runs.settings import RunSettings
from experiments.runs.task import Preset

GRID = 64  # Images that the result of a run shows.


@dataclasses.dataclass(frozen=True)
class Config(RunSettings):
  """Everything that the numbers of a run depend on.

  Attributes:
    dataset: digits, cifar10 or cifar100.
    width: channels of the discriminator's first layer and the generator's last.
    spectral_norm: in every layer of the discriminator.
    regularizer: what is added to the discriminator's loss: of its convolutions, which
      are all hidden; its output layer is one neuron and has no pairs.
    learning_rate: of Adam, of both networks.
    steps: updates of both networks.
    batch_size: real images of an update, and samples.
    decay: of the average of the generator's parameters, which makes the samples that
      are scored; 0 scores the parameters themselves.
    critic: the classifier that scores.
    samples: that are scored at the end.
    curve_samples: that are scored on the way.
    measurements: how often that is done and the excess is measured; then the state is
      saved, if it is time to.
    seed: of initialization, order of the images, latents.
  """

  dataset: Literal["digits", "cifar10", "cifar100"] = "cifar10"
  width: int = 64
  spectral_norm: bool = False
  regularizer: Regularizer = dataclasses.field(default_factory=Regularizer)
  learning_rate: float = 1e-4
  steps: int = 200_000
  batch_size: int = 64
  decay: float = 0.999
  critic: Critic = dataclasses.field(default_factory=Critic)
  samples: int = 10_000
  curve_samples: int = 5000
  measurements: int = 40
  seed: int = 0

  def __post_init__(self):
    super().__post_init__()
    self.check_least(width=1, batch_size=2, samples=100, curve_samples=GRID)
    if self.regularizer.layers != "both":
      raise InputError(
        "regularizer.layers must be 'both', for the discriminator's output layer has "
        f"one neuron and no energy, got {self.regularizer.layers!r}."
      )
    if not 0 <= self.decay < 1:
      raise InputError(f"decay must be at least 0 and less than 1, got {self.decay}.")
    if self.learning_rate <= 0:
      raise InputError(f"learning_rate must be positive, got {self.learning_rate}.")

  @property
  def label(self) -> str:
    parts = ["gan", f"w{self.width}", "sn" * self.spectral_norm]
    return f"{self.dataset}_{'-'.join(filter(None, parts))}_{self.regularizer.label}"

  def optimizers(
    self,
  ) -> tuple[
    optax.GradientTransformationExtraArgs, optax.GradientTransformationExtraArgs
  ]:
    """Adam for the discriminator, on its loss and the regularizer; and the generator.

    The regularizer comes first: what Adam is given is the gradient of their sum.
    """
    adam = optax.adam(self.learning_rate, b1=0.5, b2=0.999)
    discriminator = self.regularizer.around(adam)
    return discriminator, optax.with_extra_args_support(adam)


PRESETS: dict[Preset, Config] = {
  "smoke": Config(
    dataset="digits", width=2, steps=6, batch_size=8, measurements=2,
    critic=Critic("cnn-3", width=2, steps=20, batch_size=32, augment=False),
    samples=1000, curve_samples=100,
  ),
  "cpu": Config(
    width=8, learning_rate=2e-4, steps=3000, measurements=10, curve_samples=2000,
    critic=Critic("cnn-6", width=16, steps=3000, batch_size=64, learning_rate=0.05),
  ),
  "paper": Config(),
}  # fmt: skip
_DIGITS_ON_CPU = Critic(
  "cnn-6", width=16, steps=500, batch_size=64, learning_rate=0.05, augment=False
)


# With what is enough for digits, no run of CIFAR-10 makes more than a few kinds of
# images. This is: hours on a core, minutes on an accelerator.
_CIFAR_ON_CPU = {"width": 16, "steps": 20_000}


def preset(name: Preset, dataset: str | None = None) -> Config:
  """Settings of a preset on a data set; without one, on that of the preset."""
  config = PRESETS[name]
  dataset = dataset or config.dataset
  if name != "smoke" and dataset == "digits":
    config = dataclasses.replace(config, critic=_DIGITS_ON_CPU)
  if name == "cpu" and dataset != "digits":
    config = dataclasses.replace(config, **_CIFAR_ON_CPU)
  return dataclasses.replace(config, dataset=dataset)
