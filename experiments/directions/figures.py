"""The picture of docs/directions.md."""

from typing import Any

import numpy as np

from experiments.directions.sets import ENERGY, RIVALS
from experiments.directions.wasserstein import COLORS
from experiments.report.figures import subplots

_LOOKS = {
  ENERGY: ("#c8102e", "o"),
  "independent": ("#888888", "s"),
  "orthogonal blocks": ("#e0a100", "D"),
  "tight frame": ("#1f4e9c", "^"),
  "Fibonacci": ("#2e8b57", "v"),
  "half Fibonacci": ("#7fbf9a", "<"),
}


def draw(results: dict[str, Any]):
  """What is lost to few directions in each task: every seed, and the means."""
  figure, (panels,) = subplots(1, 3, (10.0, 3.4))
  distances = results["wasserstein"]
  colors = {
    n: values
    for (data, _, n), values in zip(distances["settings"]["cases"], distances["errors"])
    if data == COLORS
  }
  _lines(panels[0], colors)
  panels[0].set_ylabel("error of a distance, %")
  panels[0].set_title(f"sliced Wasserstein, {COLORS}", fontsize=9)
  harmonics = results["harmonics"]
  _lines(panels[1], dict(zip(harmonics["settings"]["counts"], harmonics["conditions"])))
  panels[1].set_ylabel("condition number")
  panels[1].set_title("even harmonics", fontsize=9)
  panels[1].legend(frameon=False, fontsize=8)
  bits = results["bits"]
  for form, (color, marker) in _LOOKS.items():
    if form in bits["recall"]:
      x, y = bits["angle"][form], bits["recall"][form]
      panels[2].scatter(x, y, s=14, color=color, marker=marker, alpha=0.7)
  panels[2].set_xlabel("error of an angle, degrees")
  panels[2].set_ylabel(f"recall@{bits['settings']['neighbors']}, %")
  panels[2].set_title("sign bits, digits: up and left is better", fontsize=9)
  return figure


def _lines(panel, by_count):
  counts = list(by_count)
  for form in (ENERGY, *RIVALS):
    color, marker = _LOOKS[form]
    values = np.array([by_count[n][form] for n in counts])
    panel.plot(
      counts, values.mean(1), color=color, marker=marker, markersize=4, label=form
    )
    repeated = np.repeat(counts, values.shape[1])
    panel.scatter(repeated, values, s=5, color=color, alpha=0.35)
  panel.set_xscale("log", base=2)
  panel.set_yscale("log")
  panel.set_xticks(counts, [str(n) for n in counts])
  panel.set_xlabel("directions")
