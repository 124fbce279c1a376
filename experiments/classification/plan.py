"""All sweeps of classification, by name."""

from collections.abc import Callable

from experiments.classification.arms import Base
from experiments.classification.paper import PAPER
from experiments.classification.presets import Config
from experiments.classification.questions import QUESTIONS
from experiments.runs.plan import Sweep
from experiments.runs.task import Preset

SWEEPS: dict[str, Callable[[Base], Sweep[Config]]] = PAPER | QUESTIONS


def sweeps_of(preset: Preset) -> dict[str, Sweep[Config]]:
  """The sweeps of a preset by name; ImageNet is out of reach of ``cpu``."""
  return {
    name: function(Base(preset))
    for name, function in SWEEPS.items()
    if (preset, name) != ("cpu", "imagenet")
  }
