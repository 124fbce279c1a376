"""Settings of a run with faces, and its optimizer."""

import collections
import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.errors import InputError
from experiments.faces.energy import Energy
from experiments.faces.heads import Head
from experiments.models.faces import SphereFace, check_layers
from experiments.runs.settings import RunSettings
from experiments.runs.task import Preset


@dataclasses.dataclass(frozen=True)
class Config(RunSettings):
  """Everything that the numbers of a run depend on.

  Attributes:
    dataset: orl, or a folder of faces: see :mod:`experiments.data.faces`.
    tested_on: another one that is tested on; by default, other people of the same.
    test_folds: of the pairs that come with what is tested on; all by default.
    least_images: of a person who is trained on.
    image_size: pixels of the sides.
    layers: convolutions of the SphereFace network: 4, 10, 20, 36 or 64.
    width: channels of its first stage.
    features: dimension of what it makes of an image.
    head: the margin.
    energy: of the class weights.
    learning_rate: of SGD with momentum.
    warmup: steps in which it rises to that.
    decay_at: shares of the steps after which it is divided by 10.
    steps: updates.
    batch_size: images of an update.
    weight_decay: the loss has half of it times the squared norm of all kernels.
    flip: mirror images at random.
    measurements: how often a run is measured on the way, and saved if it is time to.
    seed: of initialization, order of the images and flips.
  """

  dataset: str = "casia"
  tested_on: str = ""
  test_folds: tuple[int, ...] = ()
  least_images: int = 5
  image_size: int = 64
  layers: int = 20
  width: int = 64
  features: int = 512
  head: Head = dataclasses.field(default_factory=Head)
  energy: Energy = dataclasses.field(default_factory=Energy)
  learning_rate: float = 0.1
  warmup: int = 0
  decay_at: tuple[float, ...] = (16 / 28, 24 / 28)
  steps: int = 28_000
  batch_size: int = 256
  weight_decay: float = 5e-4
  flip: bool = True
  measurements: int = 28
  seed: int = 0

  def __post_init__(self):
    super().__post_init__()
    self.check_least(
      least_images=1, image_size=1, width=1, features=2, batch_size=1, warmup=0,
      weight_decay=0,
    )  # fmt: skip
    check_layers(self.layers)
    # Whatever their order, runs are the same.
    for name in ("decay_at", "test_folds"):
      object.__setattr__(self, name, tuple(sorted(getattr(self, name))))
    for name in ("dataset", "tested_on"):
      folder = getattr(self, name)
      if not re.fullmatch(r"[\w-][\w.-]{0,99}", folder or self.dataset):
        raise InputError(
          f"{name} must be the name of a folder, of at most 100 letters, digits, and "
          f"_-., got {folder!r}."
        )
    if self.tested_on == self.dataset:
      raise InputError(
        f"tested_on must be another data set than {self.dataset}; leave it out to test "
        "on other people of the same."
      )
    if self.learning_rate <= 0:
      raise InputError(f"learning_rate must be positive, got {self.learning_rate}.")
    if not all(0 <= share <= 1 for share in self.decay_at):
      raise InputError(f"decay_at must be shares from 0 to 1, got {self.decay_at}.")

  @property
  def data_sets(self) -> tuple[str, ...]:
    return self.dataset, self.tested_on

  @property
  def label(self) -> str:
    head = f"{self.head.kind}-m{self.head.margin:g}"
    energy = "" if self.energy.kind == "none" else f"_mhe-{self.energy.kind}"
    return f"{self.dataset}_{self.layers}-w{self.width}_{head}{energy}"

  def model(self) -> SphereFace:
    """The network."""
    return SphereFace(self.layers, self.width, self.features)

  def optimizer(self) -> optax.GradientTransformationExtraArgs:
    """SGD with momentum on the loss and the weight decay."""
    return optax.chain(
      optax.add_decayed_weights(self.weight_decay, mask=_are_kernels),
      optax.sgd(self.learning_rate_at, momentum=0.9),
    )

  def learning_rate_at(self, count: jax.typing.ArrayLike) -> jax.typing.ArrayLike:
    """The schedule: after how many updates which learning rate."""
    decays = collections.Counter(round(self.steps * share) for share in self.decay_at)
    boundaries = {step: 0.1**times for step, times in decays.items()}
    rate = optax.piecewise_constant_schedule(self.learning_rate, boundaries)(count)
    if not self.warmup:
      return rate
    return rate * jnp.minimum(1.0, (count + 1) / self.warmup)


def _are_kernels(params):
  """Neither the biases nor, as He et al. have it, the slopes of PReLU."""
  return jax.tree.map(lambda x: x.ndim > 1, params)


def annealed(steps: int, m: float = 4.0) -> Head:
  """SphereFace, whose lambda is least after two fifths of a short schedule.

  The published one takes 1,658 steps to that, the same share of which would be too few
  here to tell people apart at all before the margin is asked for.
  """
  head = Head(margin=m)
  gamma = (head.base / head.least - 1.0) / (0.4 * steps)
  return dataclasses.replace(head, gamma=max(head.gamma, round(gamma, 6)))


_CPU_STEPS = 1000
PRESETS: dict[Preset, Config] = {
  "smoke": Config(
    dataset="orl", image_size=16, layers=4, width=4, features=8, steps=8,
    batch_size=16, learning_rate=0.02, measurements=2, head=annealed(8),
  ),
  "cpu": Config(
    dataset="lfw", test_folds=(0, 1, 2, 3, 4), layers=4, width=32, features=128,
    # A warm-up of 20 steps left one of six seeds with infinite losses, in all arms.
    steps=_CPU_STEPS, batch_size=128, warmup=100, measurements=10,
    head=annealed(_CPU_STEPS),
  ),
  # Liu et al., SphereFace, section 4.1: CASIA-WebFace, 28,000 iterations, the rate
  # divided by 10 at 16,000 and 24,000; their 512 images are of four GPUs.
  "paper": Config(tested_on="lfw", image_size=112),
}  # fmt: skip


def preset(name: Preset, dataset: str | None = None) -> Config:
  """Settings of a preset on a data set; without one, on that of the preset.

  On another one, what is tested is other people of the same.
  """
  config = PRESETS[name]
  if dataset is None or dataset == config.dataset:
    return config
  changes: dict[str, Any] = {"tested_on": "", "test_folds": ()}
  if dataset == PRESETS["cpu"].dataset:
    changes["test_folds"] = PRESETS["cpu"].test_folds
  return dataclasses.replace(config, dataset=dataset, **changes)
