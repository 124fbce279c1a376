"""Figures of the experiments in classification."""

import pathlib

from experiments.classification.arms import Base
from experiments.classification.figures.errors import (
  draw_differences,
  draw_gain,
  draw_rates,
  draw_weights,
)
from experiments.classification.figures.layers import (
  draw_curves,
  draw_deep,
  draw_energies,
  draw_start,
)
from experiments.classification.presets import Config
from experiments.report import figures as report
from experiments.runs.results import Results
from experiments.runs.task import Preset

FIGURES = {
  "differences": draw_differences,
  "curves": draw_curves,
  "weights": draw_weights,
  "energies": draw_energies,
  "start": draw_start,
  "deep": draw_deep,
  "rates": draw_rates,
  "gain": draw_gain,
}


def draw_all(
  preset: Preset, results: Results[Config], folder: pathlib.Path
) -> list[pathlib.Path]:
  """Draws what there are results for; returns the files."""
  return report.draw_all(FIGURES, Base(preset), results, folder, "classification")
