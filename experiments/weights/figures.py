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
_COLORS = ("#e07b00", "#1f4e9c")  # Of narrow and of wide networks.
_LIMIT = 5.0  # Points of error that are shown.


def plot(results: dict[str, dict], output: pathlib.Path) -> None:
  """Writes weights_excess.png and weights_error.png: networks by forms.

  Args:
    results: ``{name: result}`` of cells.
    output: folder.
  """
  _plot(
    results,
    output / "weights_excess.png",
    "relative excess of hidden layers: median and middle 80%; dotted: without energy",
    _draw_excess,
  )
  _plot(
    results,
    output / "weights_error.png",
    "change of test error, points: a line for each potential (dashed: full space), "
    f"mean of seeds; x: above {_LIMIT:g}",
    _draw_error,
  )


def _plot(results, path, title, draw):
  import matplotlib.pyplot as plt  # noqa: PLC0415  (only when called)
  from matplotlib.lines import Line2D  # noqa: PLC0415

  configs = [result["config"] for result in results.values()]
  networks = list(dict.fromkeys(config["network"] for config in configs))
  colors = dict(zip(sorted({config["width"] for config in configs}), _COLORS))
  figure, grid = plt.subplots(
    len(networks),
    len(FORMS),
    figsize=(8.0, 1.2 + 1.35 * len(networks)),
    sharex="col",
    sharey=True,
    squeeze=False,
    layout="constrained",
  )
  for network, row in zip(networks, grid):
    for form, axes in zip(FORMS, row):
      for width, color in colors.items():
        cells = [
          result
          for result in results.values()
          if (result["config"]["network"], result["config"]["width"])
          == (network, width)
        ]
        if cells:
          draw(axes, cells, form, color)
      axes.set_xscale("log")
      axes.spines[["top", "right"]].set_visible(False)
    row[0].set_ylabel(network, fontsize=11)
  for form, top, bottom in zip(FORMS, grid[0], grid[-1]):
    top.set_title(_TITLES[form], fontsize=11)
    bottom.set_xlabel("weight", fontsize=10)
  handles = [
    Line2D([], [], color=color, label=f"widths x {width}")
    for width, color in colors.items()
  ]
  figure.suptitle(title, fontsize=9.5)
  figure.legend(handles=handles, loc="outside lower center", ncols=6, fontsize=10)
  figure.savefig(path, dpi=130)
  plt.close(figure)


def _arms(cell, form):
  return [arm for arm in arms_of(cell) if arm.form == form]


def _draw_excess(axes, cells, form, color):
  """Over the layers, seeds and potentials; runs that diverged are left out."""
  columns = zip(*(_arms(cell, form) for cell in cells))
  weights, levels = [], []
  for column in columns:
    weights.append(column[0].weight)
    levels.append(_levels(column))
  low, median, high = np.transpose(levels)
  axes.fill_between(weights, low, high, color=color, alpha=0.2, linewidth=0)
  axes.plot(weights, median, color=color, linewidth=1.5, marker=".")
  without = _levels([arms_of(cell)[0] for cell in cells])[1]
  axes.axhline(without, color=color, linewidth=1.0, linestyle=":")
  axes.set_yscale("log")


def _levels(arms):
  excess = np.concatenate([arm.excess.ravel() for arm in arms])
  # Rounding can bring it below 0, and the scale is logarithmic.
  return np.nanquantile(np.maximum(excess, 1e-4), [0.1, 0.5, 0.9])


def _draw_error(axes, cells, form, color):
  for cell in cells:
    without, arms = arms_of(cell)[0].errors, _arms(cell, form)
    weights = np.array([arm.weight for arm in arms])
    changes = np.array([np.mean(arm.errors - without) for arm in arms])
    above = changes > _LIMIT
    style = "--" if cell["config"]["space"] == "full" else "-"
    shown = np.where(above, np.nan, changes)
    axes.plot(weights, shown, style, color=color, linewidth=1.0, marker=".")
    axes.plot(weights[above], np.full(above.sum(), _LIMIT), "x", color=color)
  axes.axhline(0.0, color="black", linewidth=0.6)
  axes.set_ylim(-_LIMIT - 0.5, _LIMIT + 0.7)
