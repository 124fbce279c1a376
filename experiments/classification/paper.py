"""The paper's experiments in image classification: which runs, and its numbers.

The numbers are test errors in percent of Liu et al., Learning towards Minimum
Hyperspherical Energy, NeurIPS 2018, arXiv:1805.09298. They were noted down from memory
and not checked against its text.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

from experiments.classification.arms import (
  BASELINE,
  CONFIRMING,
  DATASETS,
  HALF_MHE,
  MHE,
  ORTHONORMAL,
  RELATIVE,
  TUNING,
  Base,
  warmup_name,
)
from experiments.classification.presets import WARM_UP, Config
from experiments.regularizers import Regularizer
from experiments.runs.plan import Arm, Comparison, Sweep


def headline(base: Base) -> Sweep[Config]:
  """The question itself, on seeds that no other table has."""
  papers = ((7.75, 28.13), (6.22, 27.15), (6.28, 25.61))
  arms, seeds = _both(base, papers), CONFIRMING[base.preset]
  asks = tuple(
    Comparison(arm.row, BASELINE.name, arm.column)
    for arm in arms
    if arm.row != BASELINE.name
  )
  title = "Baseline, MHE and half-space MHE"
  return Sweep(title, "regularizer", arms, seeds, asks=asks)


def variants(base: Base) -> Sweep[Config]:
  """Exponents, half-space, angles; and rivals."""
  arms = [
    Arm("baseline", DATASETS[name], base(name), paper)
    for name, paper in zip(DATASETS, (7.75, 28.13))
  ]
  for metric, half_space in _KINDS:
    for s in (2.0, 1.0, 0.0):
      regularizer = base.weighted(Regularizer("mhe", s, metric, half_space))
      for name, paper in zip(DATASETS, _VARIANTS[metric, half_space, s]):
        config = base(name, regularizer=regularizer)
        arms.append(Arm(regularizer.name, DATASETS[name], config, paper))
  for regularizer in map(base.weighted, (Regularizer("authors"), ORTHONORMAL)):
    for name, title in DATASETS.items():
      config = base(name, regularizer=regularizer)
      arms.append(Arm(regularizer.name, title, config))
  return Sweep("Variants of the energy", "regularizer", arms, base.seeds)


_KINDS: tuple[tuple[Literal["chordal", "geodesic"], bool], ...] = (
  ("chordal", False),
  ("chordal", True),
  ("geodesic", False),
  ("geodesic", True),
)
_VARIANTS = {
  ("chordal", False, 2.0): (6.22, 27.15),
  ("chordal", False, 1.0): (6.74, 27.09),
  ("chordal", False, 0.0): (6.44, 26.16),
  ("chordal", True, 2.0): (6.28, 25.61),
  ("chordal", True, 1.0): (6.54, 26.30),
  ("chordal", True, 0.0): (6.30, 26.18),
  ("geodesic", False, 2.0): (6.21, 26.17),
  ("geodesic", False, 1.0): (6.77, 27.31),
  ("geodesic", False, 0.0): (6.45, 27.90),
  ("geodesic", True, 2.0): (6.52, 26.03),
  ("geodesic", True, 1.0): (6.49, 26.52),
  ("geodesic", True, 0.0): (6.44, 26.47),
}


def _both(base, papers, **changes):
  """Arms of the baseline, MHE and half-space MHE on both data sets."""
  return [
    Arm(
      regularizer.name,
      DATASETS[dataset],
      base(dataset, regularizer=regularizer, **changes),
      paper,
    )
    for regularizer, row in zip(map(base.weighted, _THREE), papers)
    for dataset, paper in zip(DATASETS, row)
  ]


def _three(base, columns, papers, changes):
  """Arms of the baseline, MHE and half-space MHE on CIFAR-100, a column a change."""
  return [
    Arm(
      regularizer.name,
      _title(column),
      base("cifar100", regularizer=regularizer, **changes(column)),
      paper,
    )
    for regularizer, row in zip(map(base.weighted, _THREE), papers)
    for column, paper in zip(columns, row)
  ]


_THREE = (BASELINE, MHE, HALF_MHE)


def _title(x):
  """``cnn-9`` as CNN-9, ``resnet-18`` as ResNet-18."""
  return str(x).replace("cnn", "CNN").replace("resnet", "ResNet")


def width(base: Base) -> Sweep[Config]:
  """Channels of the first stage."""
  if base.preset == "paper":
    columns = (16, 32, 64, 128, 256)
    papers = (
      (47.72, 38.64, 28.13, 24.95, 25.45),
      (36.84, 30.05, 26.75, 24.05, 23.14),
      (35.16, 29.33, 25.96, 23.38, 21.83),
    )
  else:
    columns, papers = (8, 16, 32), ((None,) * 3,) * 3
  arms = _three(base, columns, papers, changes=lambda width: {"width": width})
  return Sweep(
    "Width: channels of the first stage of CNN-9", "regularizer", arms, base.seeds
  )


def depth(base: Base) -> Sweep[Config]:
  """Layers."""
  papers = ((32.08, 28.13, math.nan), (28.16, 26.75, 26.90), (27.56, 25.96, 25.84))
  columns = ("cnn-6", "cnn-9", "cnn-15")
  arms = _three(base, columns, papers, changes=lambda model: {"model": model})
  return Sweep("Depth", "regularizer", arms, base.seeds)


def layers(base: Base) -> Sweep[Config]:
  """Which layers have an energy."""
  # The paper does not name the exponent here; its 26.16 is that of s = 0.
  papers = {
    ("MHE", "output"): 26.85,
    ("MHE", "hidden"): 26.55,
    ("MHE", "both"): 26.16,
    ("half-space MHE", "hidden"): 26.28,
    ("half-space MHE", "both"): 25.61,
  }
  columns = {"MHE": MHE, "half-space MHE": HALF_MHE}
  arms = [Arm("none", column, base("cifar100"), 28.13) for column in columns]
  for row in ("output", "hidden", "both"):
    for column, regularizer in columns.items():
      if (column, row) in papers:  # The output layer is always in full space.
        config = base(
          "cifar100",
          regularizer=dataclasses.replace(base.weighted(regularizer), layers=row),
        )
        arms.append(Arm(row, column, config, papers[column, row]))
  return Sweep("Layers that have an energy", "layers", arms, base.seeds)


def weight(base: Base) -> Sweep[Config]:
  """The weight of the energy."""
  columns = {"MHE": MHE, "half-space MHE": HALF_MHE}
  arms = [Arm("0", column, base("cifar100")) for column in columns]
  least = (0.01,) if base.preset == "paper" else ()
  for value in (*least, 0.1, 1.0, 10.0, 100.0):
    for column, regularizer in columns.items():
      config = base(
        "cifar100", regularizer=dataclasses.replace(regularizer, weight=value)
      )
      arms.append(Arm(f"{value:g}", column, config))
  return Sweep("Weight of the energy", "weight", arms, base.seeds)


def rate(base: Base) -> Sweep[Config]:
  """Learning rates, by errors on training images that a run has not seen."""
  changes, arms = {}, []
  for value in (0.01, 0.02, 0.05, 0.1, 0.2):
    for name, title in DATASETS.items():
      if base.preset == "paper":
        changes["images_per_class"] = {"cifar10": 4500, "cifar100": 450}[name]
      for kind in map(base.weighted, (BASELINE, HALF_MHE)):
        column = title if kind == BASELINE else f"{title}, {kind.name}"
        config = base(name, learning_rate=value, regularizer=kind, **changes)
        arms.append(Arm(f"{value:g}", column, config, measure="validation_error"))
  title = "Learning rate without and with the energy"
  return Sweep(title, "learning rate", arms, TUNING, compared=False)


def resnet(base: Base) -> Sweep[Config]:
  """ResNet-32."""
  papers = ((5.19, 22.87), (4.72, 22.19), (4.66, 22.04))
  arms = _both(base, papers, model="resnet-32")
  return Sweep("ResNet-32", "regularizer", arms, base.seeds)


def imagenet(base: Base) -> Sweep[Config]:
  """ResNet-18 and ResNet-34 on ImageNet."""
  papers = ((32.95, 30.04), (32.61, 29.75), (32.50, 29.60), (32.45, 29.50))
  arms = []
  kinds = map(base.weighted, (BASELINE, ORTHONORMAL, MHE, HALF_MHE))
  for regularizer, row in zip(kinds, papers):
    for model, paper in zip(("resnet-18", "resnet-34"), row):
      config = base(
        "imagenet", regularizer=regularizer, model=model, width=64, batch_size=256,
        images_per_class=0, steps=450_000, measurements=90, decay_at=(1 / 3, 2 / 3),
        curve_images=2000, weight_decay=1e-4, label_smoothing=0.0, learning_rate=0.1,
        warmup=0,
      )  # fmt: skip
      arms.append(Arm(regularizer.name, _title(model), config, paper))
  return Sweep("ImageNet", "regularizer", arms, base.seeds[:1], last=True)


def imbalance(base: Base) -> Sweep[Config]:
  """98% of one class of CIFAR-10, or 90% of two, are not trained on."""
  half_angular = dataclasses.replace(HALF_MHE, metric="geodesic")
  papers = {
    BASELINE: (9.80, 30.40, 12.00),
    ORTHONORMAL: (8.34, 26.80, 10.80),
    MHE: (7.98, 25.80, 10.25),
    HALF_MHE: (7.90, 26.40, 9.59),
    dataclasses.replace(MHE, metric="geodesic"): (7.96, 26.00, 9.88),
    half_angular: (7.59, 25.90, 9.89),
    RELATIVE: (None,) * 3,
  }
  if base.preset == "smoke":  # One form of the energy stands for all.
    papers = {kind: papers[kind] for kind in (BASELINE, HALF_MHE, RELATIVE)}
  single, multiple = ((0, 0.98),), ((0, 0.9), (1, 0.9))
  cases = (
    ("single", single, "test_error"),
    ("single, error of the class", single, "test_error_class_0"),
    ("multiple", multiple, "test_error"),
    ("multiple, errors of the classes", multiple, _BOTH_CLASSES),
  )
  # Of few images, 2% are too few to learn from.
  changes = {"images_per_class": 0} if base.preset == "cpu" else {}
  kinds = dict(zip(map(base.weighted, papers), papers.values()))
  arms = [
    Arm(
      regularizer.name,
      column,
      base("cifar10", regularizer=regularizer, dropped=dropped, **changes),
      paper,
      measure,
    )
    for regularizer, row in kinds.items()
    for (column, dropped, measure), paper in zip(cases, (*row, None))
  ]
  asks = tuple(
    Comparison(base.weighted(kind).name, BASELINE.name, column)
    for kind in (HALF_MHE, RELATIVE)
    for column in ("single, error of the class", "multiple, errors of the classes")
  )
  seeds = base.new_seeds(range(8, 13)) if base.preset == "cpu" else base.seeds
  return Sweep("Class imbalance", "regularizer", arms, seeds, asks=asks)


_BOTH_CLASSES = ("test_error_class_0", "test_error_class_1")


def start(base: Base) -> Sweep[Config]:
  """The paper's learning rate, with and without a warm-up that it does not have.

  Of its narrowest network, for which it reports the largest gain.
  """
  changes = {
    "images_per_class": 0, "batch_size": 128, "learning_rate": 0.1, "width": 16,
  }  # fmt: skip
  if base.preset == "cpu":
    changes |= {"steps": 4000, "measurements": 40, "curve_images": 1000}
  arms = [
    Arm(
      regularizer.name,
      warmup_name(warmup),
      base("cifar100", regularizer=regularizer, warmup=warmup, **changes),
    )
    for regularizer in map(base.weighted, (BASELINE, HALF_MHE))
    for warmup in (0, WARM_UP)
  ]
  return Sweep(
    "The start of training at learning rate 0.1", "regularizer", arms, base.seeds
  )


PAPER: dict[str, Callable[[Base], Sweep[Config]]] = {
  function.__name__: function
  for function in (
    rate, headline, variants, width, depth, layers, weight, resnet, imbalance, start,
    imagenet,
  )
}  # fmt: skip
