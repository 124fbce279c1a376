"""The pictures of docs/alternatives.md."""

from typing import Any

import numpy as np

from experiments.alternatives.minima import MEASURES, OBJECTIVES
from experiments.alternatives.report import NAMES, case_of
from experiments.alternatives.training import ARMS
from experiments.report.figures import subplots

_COLORS = {
  "without": "#777777",
  "energy": "#c8102e",
  "orthonormal": "#e0a100",
  "koleo": "#5b9bd5",
  "spectral": "#7a5195",
  "muon": "#2e8b57",
  "muon_energy": "#8b1a3a",
}
_TITLES = {"random": "from random directions", "copies": "from pairs of copies"}


def draw_minima(minima: dict[str, Any]):
  """What was minimized against what is measured, in half-space, of the middle size."""
  from matplotlib.colors import LogNorm  # noqa: PLC0415  (only when called)

  sizes = minima["settings"]["sizes"]
  n, d = sizes[len(sizes) // 2]
  cases = {start: case_of(minima, n, d, "half", start) for start in _TITLES}
  scales = {name: _scale(cases, name) for name in MEASURES}
  names = [name for name in OBJECTIVES if name in cases["random"]["ends"]]
  figure, (panels,) = subplots(1, 2, (8.8, 4.6), sharey=True)
  for panel, (start, title) in zip(panels, _TITLES.items()):
    case = cases[start]
    rows = [case["before"], *(case["ends"][name] for name in names)]
    shares = np.array([[_share(row[m], *scales[m]) for m in MEASURES] for row in rows])
    panel.imshow(
      np.clip(shares, 0.01, 100.0), cmap="RdYlBu_r", norm=LogNorm(0.01, 100.0),
      aspect="auto",
    )  # fmt: skip
    for (i, j), share in np.ndenumerate(shares):
      dark = not 0.04 < share < 15.0
      panel.text(
        j, i, _text(share), ha="center", va="center", fontsize=9,
        color="white" if dark else "black",
      )  # fmt: skip
    panel.set_title(title, fontsize=10)
    panel.set_xticks(
      range(len(MEASURES)), list(MEASURES), rotation=35, ha="right", fontsize=9
    )
    panel.set_xlabel("measured")
    panel.spines[:].set_visible(False)
    panel.tick_params(length=0)
  panels[0].set_yticks(range(len(names) + 1), ["nothing", *names], fontsize=9)
  panels[0].set_ylabel("minimized")
  figure.suptitle(
    f"{n} neurons in {d} dimensions, half-space: 0 = best found, 1 = random",
    fontsize=11,
  )
  return figure


def _scale(cases, name):
  """The best that any descent found, and the mean of random directions."""
  ends = [end[name] for case in cases.values() for end in case["ends"].values()]
  return np.min(ends), np.mean(cases["random"]["before"][name])


def _share(values, best, random):
  return float((np.mean(values) - best) / (random - best))


def _text(share):
  if share < 0.005:
    return "0"
  return f"{share:.2f}" if share < 10 else f"{share:.0f}"


def draw_training(runs: dict[str, Any]):
  """Test errors by seed, and how redundant the convolutions end."""
  figure, (panels,) = subplots(1, 2, (8.8, 3.6), sharey=True)
  seeds = len(runs["without"]["test_error"])
  shifts = np.linspace(-0.2, 0.2, seeds)  # Of a seed the same in every row.
  for panel, measure in zip(panels, ("test_error", "excess")):
    for y, arm in enumerate(ARMS):
      values = np.asarray(runs[arm][measure])
      panel.scatter(values, y + shifts, s=16, color=_COLORS[arm], alpha=0.6, zorder=2)
      panel.vlines(values.mean(), y - 0.32, y + 0.32, color=_COLORS[arm], lw=3)
    panel.grid(axis="y", color="#eeeeee", zorder=0)
  panels[0].set_yticks(range(len(ARMS)), [NAMES[arm] for arm in ARMS])
  panels[0].invert_yaxis()
  panels[0].set_xlabel("test error, %: every seed, and the mean")
  panels[1].set_xscale("symlog", linthresh=1e-3)
  panels[1].set_xlim(-1e-4, 4.0)
  panels[1].axvline(1.0, color="black", linewidth=0.6)
  panels[1].set_xlabel("excess at the end: 0 = best, 1 = random")
  return figure
