"""The picture of docs/features.md."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.features.forms import FORMS
from experiments.report.figures import subplots

_COLORS = {"energy": "#c8102e", "uniformity": "#8b1a3a", "none": "#777777"}


def draw(results: Sequence[dict[str, Any]]):
  """Accuracy of every seed, and the mean, for each number of features."""
  figure, (panels,) = subplots(1, len(results), (3.3 * len(results), 3.4), sharey=True)
  for panel, result in zip(panels, results):
    for y, form in enumerate(FORMS):
      values = np.asarray(result["forms"][form]["accuracy"])
      color = _COLORS.get(form, "#1f4e9c")
      shifts = np.linspace(-0.2, 0.2, len(values))  # Of a seed the same in every row.
      panel.scatter(values, y + shifts, s=14, color=color, alpha=0.6, zorder=2)
      panel.vlines(values.mean(), y - 0.32, y + 0.32, color=color, lw=3)
    panel.grid(axis="y", color="#eeeeee", zorder=0)
    panel.set_title(f"{result['settings']['d']} features", fontsize=10)
    panel.set_xlabel("accuracy, %")
  panels[0].set_yticks(range(len(FORMS)), list(FORMS))
  panels[0].invert_yaxis()
  return figure
