"""All sweeps of GANs, by name.

What ``four`` was made to compare stands in its ``asks``, which is committed before its
first run.
"""

import dataclasses
from collections.abc import Callable

from experiments.gan.arms import (
  BASELINE,
  DATASETS,
  HALF_MHE,
  MHE,
  RELATIVE,
  RELATIVE_ORTHONORMAL,
  Base,
)
from experiments.gan.presets import Config
from experiments.runs.plan import Arm, Comparison, Sweep
from experiments.runs.task import Preset

MEASURE = "frechet"
# Rows of ``four``: with spectral normalization, with an energy.
FOUR = {
  "baseline": (False, False),
  "SN": (True, False),
  "MHE": (False, True),
  "SN + MHE": (True, True),
}


def four(base: Base) -> Sweep[Config]:
  """The paper's table: spectral normalization and MHE, each alone and both."""
  arms = [
    Arm(
      row,
      DATASETS[dataset],
      base(
        dataset,
        spectral_norm=with_norm,
        regularizer=base.mhe(spectral_norm=with_norm) if with_energy else BASELINE,
      ),
      measure=MEASURE,
    )
    for row, (with_norm, with_energy) in FOUR.items()
    for dataset in base.datasets
  ]
  asks = tuple(
    Comparison(row, against, DATASETS[dataset])
    for dataset in base.datasets
    for row, against in (("MHE", "baseline"), ("SN + MHE", "SN"))
  )
  title = "Spectral normalization (SN) and MHE"
  return Sweep(title, "discriminator", arms, base.confirming, asks=asks)


def forms(base: Base) -> Sweep[Config]:
  """Full space, half-space, relative units, and the rival."""
  kinds = (BASELINE, MHE, HALF_MHE, RELATIVE, RELATIVE_ORTHONORMAL)
  arms = [
    Arm(
      kind.weighted_name,
      DATASETS[dataset],
      base(dataset, regularizer=kind),
      measure=MEASURE,
    )
    for kind in kinds
    for dataset in base.datasets
  ]
  return Sweep("Forms of the energy", "regularizer", arms, base.exploring)


def weight(base: Base) -> Sweep[Config]:
  """The weight of the energy in relative units, without and with SN."""
  columns = {
    f"{DATASETS[dataset]}{', SN' * with_norm}": (dataset, with_norm)
    for dataset in base.datasets
    for with_norm in (False, True)
  }
  weights = (0.0, 0.1) if base.preset == "smoke" else (0.0, 0.001, 0.01, 0.1, 1.0)
  arms = [
    Arm(
      f"{value:g}",
      column,
      base(
        dataset,
        spectral_norm=with_norm,
        regularizer=dataclasses.replace(RELATIVE, weight=value) if value else BASELINE,
      ),
      measure=MEASURE,
    )
    for value in weights
    for column, (dataset, with_norm) in columns.items()
  ]
  return Sweep("Weight of the energy", "weight", arms, base.exploring)


SWEEPS: dict[str, Callable[[Base], Sweep[Config]]] = {
  function.__name__: function for function in (four, forms, weight)
}


def sweeps_of(preset: Preset) -> dict[str, Sweep[Config]]:
  """The sweeps of a preset by name."""
  return {name: function(Base(preset)) for name, function in SWEEPS.items()}
