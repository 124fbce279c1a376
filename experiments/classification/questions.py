"""Where it helps: sweeps that ask more than the paper's tables do.

What each was made to compare stands in its ``asks``, which is committed before its
first run.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from experiments.classification.arms import (
  BASELINE,
  DATASETS,
  HALF_MHE,
  MHE,
  ORTHONORMAL,
  RELATIVE,
  RELATIVE_ORTHONORMAL,
  Base,
  warmup_name,
)
from experiments.classification.presets import AUTHORS_FLOOR, WARM_UP, Config
from experiments.regularizers import Regularizer
from experiments.runs.plan import Arm, Comparison, Sweep

# What a run on all images of CIFAR-100 is, on two cores: that of ``start``.
_SHORT = {"steps": 4000, "measurements": 40, "curve_images": 1000}
_ALL_IMAGES = {
  "images_per_class": 0, "batch_size": 128, "learning_rate": 0.1, "width": 16,
}  # fmt: skip
UNSEEN = ("test_error", "validation_error")  # 20,000 images in all.


def claims(base: Base) -> Sweep[Config]:
  """The paper's schedule, a third of it: benefit, or a better start?"""
  kinds = {
    BASELINE: (0, WARM_UP),
    MHE: (0,),
    HALF_MHE: (0, WARM_UP),
    dataclasses.replace(HALF_MHE, weight=10.0): (0,),
    RELATIVE: (0, WARM_UP),
  }
  seeds = base.new_seeds(range(20, 23))
  return _schedule(base, kinds, seeds, steps=14_000, measurements=70)


def whole(base: Base) -> Sweep[Config]:
  """The paper's schedule."""
  kinds = {BASELINE: (0, WARM_UP), MHE: (0,), HALF_MHE: (0,), RELATIVE: (0,)}
  seeds = base.new_seeds(range(20, 21))
  return _schedule(base, kinds, seeds, steps=42_500, measurements=85)


def plateau(base: Base) -> Sweep[Config]:
  """The authors' own loss, whose gradient vanishes where a network is sure and wrong.

  The paper's learning rate without a warm-up: who leaves the plateau, and when, and
  what is left beside that? Cross-entropy, to compare with.
  """
  kinds = (
    BASELINE,
    MHE,
    HALF_MHE,
    RELATIVE,
    dataclasses.replace(HALF_MHE, form="spread", weight=0.5),
    dataclasses.replace(ORTHONORMAL, form="spread", weight=0.5),
  )
  columns = {"the authors' loss": AUTHORS_FLOOR, "cross-entropy": 0.0}
  arms = [
    Arm(
      kind.weighted_name,
      column,
      base(
        "cifar100", regularizer=kind, authors=True, floor=floor,
        **_ALL_IMAGES, **_on_cpu(base, **_SHORT),
      ),
    )
    for column, floor in columns.items()
    for kind in (kinds if floor else (BASELINE, HALF_MHE))
  ]  # fmt: skip
  asks = tuple(
    Comparison(kind.weighted_name, BASELINE.name, "the authors' loss")
    for kind in kinds[1:]
  )
  seeds = base.new_seeds(range(30, 33))
  return Sweep("The authors' loss", "regularizer", arms, seeds, asks=asks)


def _schedule(base, kinds, seeds, **changes):
  """Regularizers, each with some numbers of steps of warm-up."""
  changes = _on_cpu(base, **changes, curve_images=1000)
  widths = (16, 64) if base.preset == "paper" else (16,)
  arms = [
    Arm(
      kind.weighted_name,
      warmup_name(warmup) if width == 16 else f"width {width}, {warmup_name(warmup)}",
      base(
        "cifar100", regularizer=kind, warmup=warmup, authors=True,
        **(_ALL_IMAGES | {"width": width}), **changes,
      ),
    )
    for width in widths
    for kind, warmups in kinds.items()
    for warmup in warmups
  ]  # fmt: skip
  asks = tuple(
    Comparison(kind.weighted_name, BASELINE.name, warmup_name(warmup))
    for kind in (HALF_MHE, RELATIVE)
    for warmup in kinds[kind]
  )
  title = "The paper's learning rate, in its authors' details"
  return Sweep(title, "regularizer", arms, seeds, asks=asks)


def deep(base: Base) -> Sweep[Config]:
  """CNN-15, with and without a warm-up, both forms and their rival."""
  kinds = (BASELINE, HALF_MHE, RELATIVE, RELATIVE_ORTHONORMAL)
  return _depths(base, "Deep and narrow", kinds, ("cnn-15",))


def shallow(base: Base) -> Sweep[Config]:
  """CNN-9 and CNN-6, to compare with."""
  kinds = (BASELINE, HALF_MHE, RELATIVE)
  return _depths(base, "Less deep", kinds, ("cnn-9", "cnn-6"))


def _depths(base, title, kinds, models):
  arms = [
    Arm(
      kind.weighted_name,
      f"{model.upper()}, {warmup_name(warmup)}",
      base(
        "cifar100", regularizer=kind, model=model, warmup=warmup,
        **_ALL_IMAGES, **_on_cpu(base, **_SHORT),
      ),
    )
    for kind in map(base.weighted, kinds)
    for model in models
    for warmup in (WARM_UP, 0)
  ]  # fmt: skip
  return Sweep(title, "regularizer", arms, base.new_seeds(range(10, 13)))


def rates(base: Base) -> Sweep[Config]:
  """Learning rates of CNN-15, with a warm-up, with and without the energy."""
  arms = [
    Arm(f"{rate:g}", kind.weighted_name, _deep_config(base, kind, learning_rate=rate))
    for rate in (0.02, 0.05, 0.1, 0.2)
    for kind in (BASELINE, RELATIVE)
  ]
  title = "Learning rate of CNN-15"
  seeds = base.new_seeds(range(10, 13))
  return Sweep(title, "learning rate", arms, seeds, compared=False)


def confirm(base: Base) -> Sweep[Config]:
  """CNN-15 on new seeds, each regularizer at the better of two learning rates.

  Of seed 10 of ``rates``, the baseline is best at 0.05, with the energy 0.1 is; so that
  the first question is: best against best.
  """
  kinds = (BASELINE, HALF_MHE, RELATIVE, RELATIVE_ORTHONORMAL)
  column = f"CNN-15, {warmup_name(WARM_UP)}"
  arms = [
    Arm(
      f"{kind.weighted_name}, rate {rate:g}",
      column,
      _deep_config(base, kind, learning_rate=rate),
    )
    for kind in map(base.weighted, kinds)
    for rate in (0.05, 0.1)
  ]
  baseline, half, relative, orthonormal = (
    base.weighted(kind).weighted_name for kind in kinds
  )
  asks = (
    Comparison(f"{relative}, rate 0.1", f"{baseline}, rate 0.05", column),
    Comparison(f"{relative}, rate 0.1", f"{baseline}, rate 0.1", column),
    Comparison(f"{half}, rate 0.1", f"{baseline}, rate 0.05", column),
    Comparison(f"{relative}, rate 0.1", f"{orthonormal}, rate 0.1", column),
  )
  seeds = base.new_seeds(range(20, 25))
  return Sweep("CNN-15, each at its rate", "regularizer", arms, seeds, asks=asks)


def _deep_config(base, regularizer, **changes):
  changes = _ALL_IMAGES | _on_cpu(base, **_SHORT) | changes
  return base(
    "cifar100", regularizer=regularizer, model="cnn-15", warmup=WARM_UP, **changes
  )


def warm(base: Base) -> Sweep[Config]:
  """CNN-9 with a warm-up, on new seeds: is anything left of the gain?"""
  kinds = (BASELINE, MHE, HALF_MHE, ORTHONORMAL, RELATIVE)
  cells = {kind.weighted_name: (kind, 0.1) for kind in map(base.weighted, kinds)}
  cells |= {f"baseline, rate {rate:g}": (BASELINE, rate) for rate in (0.05, 0.2)}
  column = f"CNN-9, {warmup_name(WARM_UP)}"
  arms = [
    Arm(
      row,
      column,
      base(
        "cifar100", regularizer=kind, warmup=WARM_UP,
        **(_ALL_IMAGES | {"learning_rate": rate}), **_on_cpu(base, **_SHORT),
      ),
    )
    for row, (kind, rate) in cells.items()
  ]  # fmt: skip
  asks = tuple(
    Comparison(row, BASELINE.name, column)
    for row, (kind, _) in cells.items()
    if kind != BASELINE
  )
  seeds = base.new_seeds(range(10, 18))
  return Sweep("All images, with a warm-up", "regularizer", arms, seeds, asks=asks)


def few(base: Base) -> Sweep[Config]:
  """Few images of CIFAR-100, on new seeds; full space or half-space?"""
  kinds = (BASELINE, MHE, HALF_MHE, Regularizer("authors"), RELATIVE)
  column = DATASETS["cifar100"]
  changes = {"images_per_class": 50} if base.preset == "paper" else {}
  kinds = tuple(map(base.weighted, kinds))
  arms = [
    Arm(
      kind.weighted_name,
      column,
      base("cifar100", regularizer=kind, **changes),
      measure=UNSEEN,
    )
    for kind in kinds
  ]
  baseline, mhe, half, *others = (kind.weighted_name for kind in kinds)
  asks = tuple(Comparison(row, baseline, column) for row in (mhe, half, *others))
  asks += (Comparison(half, mhe, column),)
  first = 12 if base.preset == "paper" else 8
  seeds = base.new_seeds(range(first, first + 12))
  return Sweep("Few images", "regularizer", arms, seeds, asks=asks)


def noise(base: Base) -> Sweep[Config]:
  """What rounding does: runs that start one rounding error apart."""
  count = 2 if base.preset == "smoke" else 8
  settings = {
    "CIFAR-10, few images": ("cifar10", {}),
    "CNN-9, all images of CIFAR-100": (
      "cifar100",
      {"warmup": WARM_UP, **_ALL_IMAGES, **_on_cpu(base, **_SHORT)},
    ),
  }
  arms = [
    Arm(f"{number}", column, base(dataset, rounding=number, **changes))
    for number in range(1, count + 1)
    for column, (dataset, changes) in settings.items()
  ]
  seeds = base.new_seeds(range(10, 11))
  return Sweep("Rounding alone", "rounding", arms, seeds, compared=False)


QUESTIONS: dict[str, Callable[[Base], Sweep[Config]]] = {
  function.__name__: function
  for function in (
    deep,
    rates,
    confirm,
    shallow,
    warm,
    few,
    claims,
    whole,
    plateau,
    noise,
  )
}


def _on_cpu(base, **changes: Any) -> dict[str, Any]:
  """What is less on two cores than in the paper."""
  return changes if base.preset == "cpu" else {}
