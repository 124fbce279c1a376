"""All sweeps with faces, by name; what each asks is fixed before its first run.

The paper's numbers are 100 minus the accuracies, in percent, of Liu et al., Learning
towards Minimum Hyperspherical Energy, NeurIPS 2018: SphereFace-20 trained on
CASIA-WebFace. They were noted down from memory and not checked against its text.
"""

import dataclasses
from collections.abc import Callable

from experiments.faces.arms import (
  ALL,
  ARCFACE,
  ARCFACE_EASY,
  BATCH,
  COSFACE,
  NONE,
  RELATIVE,
  Base,
  name_of,
)
from experiments.faces.presets import Config
from experiments.runs.plan import Arm, Comparison, Sweep
from experiments.runs.task import Preset

VERIFICATION = "verification_error"
RANK_ONE = "rank_one_error"
MARGIN = 4  # Of what confirms: SphereFace's own choice.

# Margins 1 to 4; LFW, then MegaFace with a million distractors.
_LFW = {NONE: (96.35, 98.87, 98.97, 99.26), ALL: (97.15, 99.05, 99.13, 99.32)}
_MEGAFACE = {NONE: (39.12, 60.48, 63.71, 70.68), ALL: (45.90, 68.51, 66.89, 71.30)}


def margins(base: Base) -> Sweep[Config]:
  """Verification with and without the energy, whatever the margin?"""
  return _margins(base, "Verification", VERIFICATION, _LFW)


def identification(base: Base) -> Sweep[Config]:
  """The same runs, searching for people among all distractors."""
  return _margins(base, "Identification", RANK_ONE, _MEGAFACE)


def _margins(base, title, measure, papers):
  arms = [
    Arm(
      name_of(energy),
      f"m = {m}",
      base.sphereface(m, energy),
      round(100 - papers[energy][m - 1], 2) if energy in papers else None,
      measure,
    )
    for energy in (NONE, ALL, BATCH)
    for m in (1, 2, 3, 4)
  ]
  return Sweep(f"{title}: margins", "loss", arms, base.seeds)


def best(base: Base) -> Sweep[Config]:
  """The question itself, at one margin, on seeds that no other table has."""
  columns = {"verification": VERIFICATION, "rank-1": RANK_ONE}
  energies = (NONE, ALL, BATCH, RELATIVE)
  arms = [
    Arm(name_of(energy), column, base.sphereface(MARGIN, energy), measure=measure)
    for energy in energies
    for column, measure in columns.items()
  ]
  asks = tuple(
    Comparison(name_of(energy), name_of(NONE), column)
    for column in columns
    for energy in energies[1:]
  )
  title = f"SphereFace and SphereFace+, m = {MARGIN}"
  return Sweep(title, "loss", arms, base.new_seeds, asks=asks)


def weights(base: Base) -> Sweep[Config]:
  """The weight of the energy, and a start after a fifth of the steps."""
  columns = (ALL, BATCH, RELATIVE)
  later = {"start": 0.2, "ramp": 0.1}
  arms = [
    Arm("0", energy.name, base.sphereface(MARGIN), measure=VERIFICATION)
    for energy in columns
  ]
  cells = [(w, {}) for w in (0.01, 0.1, 1.0, 10.0, 100.0)]
  cells += [(w, later) for w in (1.0, 100.0)]
  for weight, changes in cells:
    for energy in columns:
      row = f"{weight:g}, later" if changes else f"{weight:g}"
      weighted = dataclasses.replace(energy, weight=weight, **changes)
      config = base.sphereface(MARGIN, weighted)
      arms.append(Arm(row, energy.name, config, measure=VERIFICATION))
  return Sweep("Weight of the energy", "weight", arms, base.seeds)


def rivals(base: Base) -> Sweep[Config]:
  """Other margins, with and without the energy."""
  arms = [
    Arm(energy.name, head.name, base(head=head, energy=energy), measure=VERIFICATION)
    for energy in (NONE, ALL, BATCH)
    for head in (COSFACE, ARCFACE_EASY, ARCFACE)
  ]
  return Sweep("CosFace and ArcFace", "energy", arms, base.seeds)


SWEEPS: dict[str, Callable[[Base], Sweep[Config]]] = {
  function.__name__: function
  for function in (best, margins, identification, weights, rivals)
}


def sweeps_of(preset: Preset) -> dict[str, Sweep[Config]]:
  """The sweeps of a preset by name."""
  return {name: function(Base(preset)) for name, function in SWEEPS.items()}
