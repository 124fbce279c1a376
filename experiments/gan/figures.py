"""Figures of the experiments in GANs."""

import pathlib

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

from experiments.gan.arms import Base
from experiments.gan.images import decoded
from experiments.gan.plan import FOUR, SWEEPS
from experiments.gan.presets import Config
from experiments.report import figures as report
from experiments.report.columns import Column, columns_of
from experiments.report.figures import subplots
from experiments.runs.results import Results, from_json
from experiments.runs.task import Preset

COLORS = dict(zip(FOUR, ("#333333", "#2a6fbb", "#c8102e", "#6a3d9a")))


def draw_curves(base: Base, results: Results[Config]):
  """Frechet distance and redundancy over the updates: a line a seed, and their mean."""
  columns = columns_of(SWEEPS["four"](base), results)
  if not columns:
    return None
  figure, axes = subplots(2, len(columns), (4.5 * len(columns), 5.5), sharex="col")
  for (upper, lower), column in zip(axes.T, columns):
    for row in column.arms:
      histories = [run["history"] for run in column.runs(row)]
      for panel, of in ((upper, _frechet), (lower, _median_excess)):
        for history in histories:
          steps, values = [e["step"] for e in history], [of(e) for e in history]
          panel.plot(steps, values, color=COLORS[row], linewidth=0.6, alpha=0.3)
        whole = max(map(len, histories))  # Those that diverged are shorter.
        curves = [[of(e) for e in h] for h in histories if len(h) == whole]
        steps = next([e["step"] for e in h] for h in histories if len(h) == whole)
        panel.plot(steps, np.mean(curves, 0), color=COLORS[row], label=row)
    upper.set_title(column.title, fontsize=9)
    upper.set_yscale("log")
    upper.yaxis.set_major_formatter("{x:g}")
    upper.yaxis.set_minor_formatter("{x:g}")
    upper.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
    lower.axhline(1.0, color="black", linewidth=0.6)
    lower.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    lower.set_xlabel("update")
  axes[0, 0].set_ylabel("classifier Frechet distance")
  axes[1, 0].set_ylabel("relative excess, median\nof the discriminator")
  figure.legend(
    *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4,
    fontsize=8,
  )  # fmt: skip
  return figure


def _frechet(entry):
  return from_json(entry["frechet"])


def _median_excess(entry):
  return float(np.median([from_json(x) for x in entry["excess"].values()]))


def draw_weights(base: Base, results: Results[Config]):
  """Frechet distance over the weight of the energy, differences to none."""
  columns = columns_of(SWEEPS["weight"](base), results)
  columns = [
    column
    for column in columns
    if column.has_rival and len(column.arms) > 1 and np.isfinite(_gains(column)).any()
  ]
  if not columns:
    return None
  figure, (panels,) = subplots(1, len(columns), (3.2 * len(columns), 3.2))
  for panel, column in zip(panels, columns):
    weights = [column.arms[row].config.regularizer.weight for row in _weighted(column)]
    points = _gains(column)
    panel.plot(weights, points, "o", color=COLORS["MHE"], ms=3, alpha=0.45)
    panel.plot(weights, points.mean(1), color=COLORS["MHE"])
    panel.axhline(0.0, color="black", linewidth=0.6)
    panel.set_xscale("log")
    panel.set_xlabel("weight of the energy")
    panel.set_title(column.title, fontsize=9)
  panels[0].set_ylabel("classifier Frechet distance,\ndifference to the same seed's")
  return figure


def _weighted(column):
  return [row for row in column.arms if row != column.rival]


def _gains(column):
  """Of every weight and seed, NaN where one diverged."""
  return np.subtract(
    [column.values(row) for row in _weighted(column)], column.values(column.rival)
  )


def draw_regions(base: Base, results: Results[Config]):
  """Precision and recall of all runs, with standard errors, and of real images."""
  columns = columns_of(SWEEPS["four"](base), results)
  columns = [column for column in columns if any(_finished(column, r) for r in FOUR)]
  if not columns:
    return None
  figure, (panels,) = subplots(1, len(columns), (4.0 * len(columns), 4.0))
  for panel, column in zip(panels, columns):
    finished = []
    for row in column.arms:
      runs = _finished(column, row)
      finished += runs
      panel.errorbar(
        [run["recall"] for run in runs],
        [run["precision"] for run in runs],
        xerr=[run["error_of_recall"] for run in runs],
        yerr=[run["error_of_precision"] for run in runs],
        fmt="o", ms=4, linewidth=0.8, color=COLORS[row], label=row,
      )  # fmt: skip
    x, y = (finished[0][f"real_{name}"] for name in ("recall", "precision"))
    panel.plot(x, y, "k*", ms=9, label="real images")
    panel.set_title(column.title, fontsize=9)
    panel.set_xlabel("recall")
  panels[0].set_ylabel("precision")
  figure.legend(
    *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3,
    fontsize=8,
  )  # fmt: skip
  return figure


def _finished(column: Column[Config], row: str) -> list[dict]:
  """Runs of an arm that have final measures."""
  return [run for run in column.runs(row) if "diverged" not in run]


def draw_samples(base: Base, results: Results[Config]):
  """64 samples of every arm: of its first seed, of the same latents in all arms."""
  columns = columns_of(SWEEPS["four"](base), results)
  columns = [column for column in columns if any(_finished(column, r) for r in FOUR)]
  if not columns:
    return None
  figure, axes = subplots(
    len(columns), len(FOUR), (2.6 * len(FOUR), 2.9 * len(columns))
  )
  for panels, column in zip(axes, columns):
    for panel, row in zip(panels, FOUR):
      panel.axis("off")
      runs = _finished(column, row)
      if runs:
        grid = decoded(runs[0]["history"][-1]["samples"])
        panel.imshow(grid, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        panel.set_title(f"{column.title}, {row}", fontsize=8)
  return figure


FIGURES = {
  "curves": draw_curves,
  "weights": draw_weights,
  "regions": draw_regions,
  "samples": draw_samples,
}


def draw_all(
  preset: Preset, results: Results[Config], folder: pathlib.Path
) -> list[pathlib.Path]:
  """Draws what there are results for; returns the files."""
  return report.draw_all(FIGURES, Base(preset), results, folder, "gan")
