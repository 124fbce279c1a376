"""What is compared with faces: margins, energies, seeds."""

import dataclasses
from typing import Any

from experiments.faces.energy import Energy
from experiments.faces.heads import Head
from experiments.faces.presets import Config, annealed, preset
from experiments.runs.task import Preset

NONE = Energy()
ALL = Energy("all")
BATCH = Energy("batch")
RELATIVE = Energy("all", relative=True, weight=0.1)

# The published margins of the rivals, at scales for few people.
COSFACE = Head("cosface", 0.35, 30.0)
ARCFACE = Head("arcface", 0.5, 30.0)
# With its published margin, short schedules do not learn who is trained on.
ARCFACE_EASY = Head("arcface", 0.2, 30.0)

# Seeds that explore, and those that confirm, which no other table has.
EXPLORING = {"smoke": range(2), "cpu": range(3), "paper": range(3)}
CONFIRMING = {"smoke": range(2), "cpu": range(10, 16), "paper": range(10, 15)}


class Base:
  """Configurations of a preset."""

  def __init__(self, preset_name: Preset):
    self.preset: Preset = preset_name
    self.seeds = EXPLORING[preset_name]
    self.new_seeds = CONFIRMING[preset_name]
    self._config = preset(preset_name)

  def __call__(self, **changes: Any) -> Config:
    """A configuration."""
    return dataclasses.replace(self._config, **changes)

  def sphereface(self, m: int, energy: Energy = NONE) -> Config:
    """SphereFace with margin m or, with an energy, SphereFace+."""
    return self(head=annealed(self._config.steps, m), energy=energy)


def name_of(energy: Energy) -> str:
  """SphereFace, or SphereFace+ and which energy."""
  return "SphereFace" if energy == NONE else f"SphereFace+, {energy.name}"
