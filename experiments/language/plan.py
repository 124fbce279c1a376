"""What is trained: optimizers, forms, rates and seeds."""

import dataclasses
import itertools
from typing import Literal

Optimizer = Literal["adamw", "muon"]
Form = Literal[
  "without",
  "today",
  "spread",
  "spread 1",
  "orthonormal",
  "orthonormal 1",
  # Controls.
  "hidden",
  "ends",
  "held",
  "spread held",
  "spread 1 held",
  "random",
]


@dataclasses.dataclass(frozen=True)
class Run:
  """One run.

  Attributes:
    half: of the text: on the first everything is chosen.
    steps: of an update.
    optimizer: AdamW, or Muon with AdamW for what is no hidden matrix.
    form: what is done for the energy.
    rate: largest learning rate.
    seed: of parameters and batches.
    zero: whether branches and head start at zero.
    width: of the model.
    blocks: of it.
    length: bytes of a window.
    batch_size: windows of a batch.
  """

  half: int
  steps: int
  optimizer: Optimizer
  form: Form
  rate: float
  seed: int
  zero: bool = False
  width: int = 96
  blocks: int = 4
  length: int = 96
  batch_size: int = 16

  @property
  def name(self) -> str:
    """Of its file."""
    start = "_zero" if self.zero else ""
    form = self.form.replace(" ", "-")
    arm = f"{self.optimizer}_{form}_{self.rate:g}"
    return f"half{self.half}_{self.steps}_{arm}{start}_seed{self.seed}"


RATES: dict[Optimizer, tuple[float, ...]] = {
  "adamw": (0.002, 0.004, 0.008, 0.016, 0.032),
  "muon": (0.005, 0.01, 0.02, 0.04, 0.08, 0.16),
}
# Those that are asked about, at every rate; the others where they might be best.
ASKED: tuple[Form, ...] = ("without", "spread 1")
OTHERS: tuple[Form, ...] = ("spread", "orthonormal 1", "today")
_HIGH: dict[Optimizer, tuple[float, ...]] = {
  "adamw": (0.004, 0.016),
  "muon": (0.04, 0.08),
}


def tuning() -> list[Run]:
  """Forms and rates, on the first half of the text."""
  parts: list[tuple[tuple[Form, ...], dict[Optimizer, tuple[float, ...]]]] = [
    (ASKED, RATES),
    (OTHERS, _HIGH),
  ]
  return [
    Run(0, 300, optimizer, form, rate, 0)
    for forms, rates in parts
    for form in forms
    for optimizer in rates
    for rate in rates[optimizer]
  ]


CONTROLS: tuple[Form, ...] = (
  "held",
  "spread 1 held",
  "random",
  "hidden",
  "ends",
  "orthonormal",
)


def controls() -> list[Run]:
  """What else could be the reason, at rates that are best without and with it."""
  grid = itertools.product((0.016, 0.004), CONTROLS)
  adamw = [Run(0, 300, "adamw", form, rate, 0) for rate, form in grid]
  return [Run(0, 300, "muon", "ends", 0.04, 0), *adamw]


# Each at its best rate of the first half.
BEST: tuple[tuple[Optimizer, Form, float], ...] = (
  ("adamw", "without", 0.004),
  ("adamw", "spread 1", 0.016),
  ("muon", "without", 0.04),
  ("muon", "spread 1", 0.08),
)


def confirming() -> list[Run]:
  """The best of the first half, on the second and with other seeds."""
  return [Run(1, 300, *arm, seed) for seed in range(5) for arm in BEST]


def longer() -> list[Run]:
  """Whether it lasts: four times the steps, and half the rates beside the best."""
  halved: list[tuple[Optimizer, Form, float]] = [
    (optimizer, form, rate / 2)
    for optimizer, form, rate in BEST
    if optimizer == "adamw"
  ]
  return [Run(0, 1200, *arm, 0) for arm in (*BEST, *halved)]


PLANS = {
  "tuning": tuning,
  "controls": controls,
  "confirming": confirming,
  "longer": longer,
}
