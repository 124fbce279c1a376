"""What is trained: networks, optimizers, forms and seeds."""

import dataclasses
import itertools
import json
from typing import Any, Literal

from experiments.spread.variants import Variant
from mhe_jax import Orthonormality, RelativeExcess

Network = Literal[
  "mlp", "cnn", "resnet", "unet", "transformer", "vit", "lora", "policy"
]
Start = Literal["zero", "usual"]
Optimizer = Literal["adam", "adamw", "sgd", "lion"]
NETWORKS: tuple[Network, ...] = (
  "mlp", "cnn", "resnet", "unet", "transformer", "vit", "lora", "policy"
)  # fmt: skip
STARTS: tuple[Start, ...] = ("zero", "usual")
OPTIMIZERS: tuple[Optimizer, ...] = ("adam", "adamw", "sgd", "lion")

FORMS = ("without", "loss", "spread", "orthonormal")

# What could have been chosen instead, and what was.
VARIANTS = {
  "spread": Variant(),
  "each neuron by a share of its own": Variant(cap="neuron"),
  "rotated, the optimizer's norms": Variant(move="rotate"),
  "rotated, norms held": Variant(move="hold"),
  "fades below 4 sqrt(d) / n": Variant(fade="pull / n"),
  "fades as the root of the excess": Variant(fade="root"),
  "fades as the excess": Variant(fade="linear"),
  "fades where the best is near": Variant(fade="newton"),
  "never fades": Variant(fade="never"),
  "share 0.25": Variant(0.25),
  "share 1": Variant(1.0),
  "share 1, falling to 0": Variant(1.0, decay=200),
  "share 2": Variant(2.0),
  "orthonormal": Variant(objective=RelativeExcess(Orthonormality())),
  "anywhere": Variant(anywhere=True),
}


@dataclasses.dataclass(frozen=True)
class Cell:
  """Runs of a network and an optimizer, which have one file.

  Attributes:
    network: what is trained.
    optimizer: by what.
    forms: without the energy, and with it in several forms.
    starts: initializations.
    seeds: of parameters and batches, the same for all forms.
    steps: of an update.
  """

  network: Network
  optimizer: Optimizer
  forms: tuple[str, ...] = FORMS
  starts: tuple[Start, ...] = STARTS
  seeds: tuple[int, ...] = (0, 1)
  steps: int = 200

  @property
  def name(self) -> str:
    """Of its file."""
    return f"{self.network}_{self.optimizer}"

  def as_json(self) -> dict[str, Any]:
    """The settings, as they are read again."""
    return json.loads(json.dumps(dataclasses.asdict(self)))


def cells(**options) -> list[Cell]:
  """All networks with all optimizers."""
  return [Cell(*pair, **options) for pair in itertools.product(NETWORKS, OPTIMIZERS)]


_TRIED = ("without", "loss", *VARIANTS)
PRESETS = {
  "smoke": [
    Cell("mlp", "sgd", seeds=(0,), starts=("zero",), steps=4),
    Cell("policy", "adam", seeds=(0,), starts=("zero",), steps=4),
  ],
  "cpu": cells(),
  "search": [
    Cell(network, optimizer, _TRIED, seeds=(2, 3))
    for network in ("mlp", "transformer", "lora", "policy")
    for optimizer in ("adam", "sgd")
  ],
}
