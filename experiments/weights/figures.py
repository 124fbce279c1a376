"""Pictures of the excess and of the error against the weight."""

import pathlib

import numpy as np

from experiments.weights.presets import FORMS
from experiments.weights.tables import arms_of

_TITLES = {
  "mean": "mean energy",
  "relative": "relative excess x",
  "log": "log(1 + x)",
}


def plot(results: dict[str, dict], output: pathlib.Path) -> None:
  """Writes excess.png and error.png: a row for a network, a column for a form.

  Args:
    results: ``{name: result}`` of cells.
    output: folder.
  """
  _plot(results, output / "excess.png", "relative excess", _draw_excess)
  _plot(results, output / "error.png", "test error, %", _draw_error)


def _plot(results, path, label, draw):
  import matplotlib.pyplot as plt  # noqa: PLC0415  (only when called)
  from matplotlib.lines import Line2D  # noqa: PLC0415

  networks = list(dict.fromkeys(r["config"]["network"] for r in results.values()))
  colors = dict(zip(_widths(results), _COLORS))
  size = (9.0, 0.6 + 1.9 * len(networks))
  figure, grid = plt.subplots(
    len(networks),
    len(FORMS),
    figsize=size,
    sharex="col",
    sharey="row",
    squeeze=False,
    layout="constrained",
  )
  for network, row in zip(networks, grid):
    cells = [r for r in results.values() if r["config"]["network"] == network]
    for form, axes in zip(FORMS, row):
      for cell in cells:
        draw(axes, cell, form, colors[cell["config"]["width"]])
      axes.set_xscale("log")
      axes.spines[["top", "right"]].set_visible(False)
    row[0].set_ylabel(f"{network}\n{label}", fontsize=8)
  for form, top, bottom in zip(FORMS, grid[0], grid[-1]):
    top.set_title(_TITLES[form], fontsize=9)
    bottom.set_xlabel("weight", fontsize=8)
  handles = [
    Line2D([], [], color=color, label=f"widths x {width}")
    for width, color in colors.items()
  ]
  figure.legend(handles=handles, loc="outside lower center", ncols=6, fontsize=8)
  figure.savefig(path, dpi=150)
  plt.close(figure)


_COLORS = ("#e07b00", "#1f4e9c")  # Of narrow and of wide networks.


def _widths(results):
  return sorted({r["config"]["width"] for r in results.values()})


def _draw_excess(axes, cell, form, color):
  """A line for each layer: the median over the seeds."""
  arms = [arm for arm in arms_of(cell) if arm.form == form]
  if not arms:
    return
  weights = [arm.weight for arm in arms]
  excess = np.array([np.median(arm.excess, 0) for arm in arms])
  # Rounding can bring it below 0, and the scale is logarithmic.
  excess = np.where(np.isfinite(excess), np.maximum(excess, 1e-3), np.nan)
  axes.plot(weights, excess, color=color, linewidth=0.8, alpha=0.5)
  axes.axhline(1.0, color="black", linewidth=0.6)
  axes.set_yscale("log")


def _draw_error(axes, cell, form, color):
  """The mean over the seeds, and, dotted, what it is without the energy."""
  without, *others = arms_of(cell)
  arms = [arm for arm in others if arm.form == form]
  if not arms:
    return
  weights = [arm.weight for arm in arms]
  errors = np.array([arm.errors.mean() for arm in arms])
  axes.plot(weights, errors, color=color, linewidth=1.0, marker=".")
  axes.axhline(without.errors.mean(), color=color, linewidth=0.8, linestyle=":")
