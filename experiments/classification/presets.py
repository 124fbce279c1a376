"""Settings of a run of classification, and its optimizer."""

import collections
import dataclasses

import jax
import jax.numpy as jnp
import optax

from experiments import models
from experiments.data import Name
from experiments.errors import InputError
from experiments.regularizers import Regularizer
from experiments.runs.settings import RunSettings
from experiments.runs.task import Preset


@dataclasses.dataclass(frozen=True)
class Config(RunSettings):
  """Everything that the numbers of a run depend on.

  Attributes:
    dataset: digits, cifar10, cifar100 or imagenet.
    images_per_class: drawn for the training set by the seed; 0 for all of them.
    shrink: side of the squares of pixels that are averaged into one: 2 makes 16 x 16
      images of those of CIFAR.
    dropped: of which classes which share is taken away: class imbalance.
    model: cnn-6, cnn-9, cnn-15, resnet-32, ..., or resnet-18 and resnet-34.
    width: channels of its first stage.
    regularizer: what is added to the loss.
    learning_rate: of SGD with momentum.
    warmup: steps in which it rises to that.
    decay_at: shares of the steps after which it is divided by 10.
    steps: updates.
    batch_size: images of an update.
    weight_decay: the loss has half of it times the squared norm of all parameters
      but the biases.
    label_smoothing: share of the label that all classes have.
    floor: added to the probabilities before their logarithm. The authors' loss has
      1e-4: where a network is sure and wrong, its gradient vanishes.
    augment: crop and flip at random.
    authors: details in which the authors' code differs from what is usual today: see
      :class:`experiments.models.CNN`; crops are padded with mirrored pixels, not gray.
    curve_images: images on which the test error is measured on the way.
    measurements: how often that is done and the energies are measured; then the state
      is saved, if it is time to.
    seed: of initialization, choice and order of the images, augmentation.
    rounding: unless it is 0, every parameter starts one rounding error off, up or down
      by this seed: what differs between such runs is what rounding alone does.
  """

  dataset: Name = "cifar100"
  images_per_class: int = 0
  shrink: int = 1
  dropped: tuple[tuple[int, float], ...] = ()
  model: str = "cnn-9"
  width: int = 64
  regularizer: Regularizer = dataclasses.field(default_factory=Regularizer)
  learning_rate: float = 0.1
  warmup: int = 0
  decay_at: tuple[float, ...] = (20 / 42.5, 30 / 42.5, 37.5 / 42.5)
  steps: int = 42500
  batch_size: int = 128
  weight_decay: float = 5e-4
  label_smoothing: float = 0.01
  floor: float = 0.0
  augment: bool = True
  authors: bool = False
  curve_images: int = 10000
  measurements: int = 85
  seed: int = 0
  rounding: int = 0

  def __post_init__(self):
    super().__post_init__()
    self.check_least(
      shrink=1, width=1, batch_size=1, curve_images=1, images_per_class=0, warmup=0,
      weight_decay=0, rounding=0,
    )  # fmt: skip
    # Whatever their order, runs are the same.
    for name in ("dropped", "decay_at"):
      object.__setattr__(self, name, tuple(sorted(getattr(self, name))))
    models.build(self.model, width=self.width, num_classes=1)  # Or it is named.
    if not 0 <= self.label_smoothing <= 1:
      raise InputError(f"label_smoothing must be 0 to 1, got {self.label_smoothing}.")
    if not 0 <= self.floor < 1:
      raise InputError(f"floor must be 0 or more and below 1, got {self.floor}.")
    if self.learning_rate <= 0:
      raise InputError(f"learning_rate must be positive, got {self.learning_rate}.")
    if not all(0 <= share <= 1 for share in self.decay_at):
      raise InputError(f"decay_at must be shares from 0 to 1, got {self.decay_at}.")
    if not all(label >= 0 and 0 <= share <= 1 for label, share in self.dropped):
      raise InputError(
        f"dropped must be classes and shares from 0 to 1, got {self.dropped}."
      )
    if len(dict(self.dropped)) < len(self.dropped):
      raise InputError(f"dropped must name each class once, got {self.dropped}.")

  @property
  def label(self) -> str:
    return f"{self.dataset}_{self.model}-w{self.width}_{self.regularizer.label}"

  def optimizer(self) -> optax.GradientTransformationExtraArgs:
    """SGD with momentum on the loss and the weight decay, and the regularizer."""
    return self.regularizer.around(
      optax.chain(
        optax.add_decayed_weights(self.weight_decay, mask=_decays),
        optax.sgd(self.learning_rate_at, momentum=0.9),
      )
    )

  def learning_rate_at(self, count: jax.typing.ArrayLike) -> jax.typing.ArrayLike:
    """The schedule: after how many updates which learning rate."""
    decays = collections.Counter(round(self.steps * share) for share in self.decay_at)
    boundaries = {step: 0.1**count for step, count in decays.items()}
    rate = optax.piecewise_constant_schedule(self.learning_rate, boundaries)(count)
    if not self.warmup:
      return rate
    return rate * jnp.minimum(1.0, (count + 1) / self.warmup)


def _decays(params):
  """All parameters but the bias of the classifier; the authors' has none."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: jax.tree_util.keystr(path) != "['score']['bias']", params
  )


AUTHORS_FLOOR = 1e-4
WARM_UP = 500  # Updates, where all images are trained on at the paper's rate.
PRESETS: dict[Preset, Config] = {
  "smoke": Config(
    dataset="digits", images_per_class=8, model="cnn-3", width=2, steps=4,
    batch_size=16, curve_images=64, measurements=2,
  ),
  "cpu": Config(
    images_per_class=50, shrink=2, width=16, learning_rate=0.02, warmup=100,
    steps=4000, batch_size=64, curve_images=2000, measurements=10,
  ),
  # The paper has no warm-up; here its network of width 64 ends in NaN without one.
  "paper": Config(authors=True, warmup=WARM_UP),
}  # fmt: skip
# On few images, for few steps. Learning rates: see the sweep ``rate``.
_ON_CPU = {"cifar10": {"images_per_class": 200, "learning_rate": 0.1}}


def preset(name: Preset, dataset: str | None = None) -> Config:
  """Settings of a preset on a data set; without one, on that of the preset."""
  config = PRESETS[name]
  if dataset is None:
    return config
  changes = _ON_CPU.get(dataset, {}) if name == "cpu" else {}
  return dataclasses.replace(config, dataset=dataset, **changes)
