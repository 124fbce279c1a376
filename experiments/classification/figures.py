"""Figures of the paper's experiments in classification."""

import math
import pathlib

import numpy as np

from experiments.classification.arms import BASELINE, HALF_MHE, MHE, ORTHONORMAL, Base
from experiments.classification.plan import SWEEPS
from experiments.classification.presets import Config
from experiments.excess import hidden_excess
from experiments.report.columns import columns_of
from experiments.report.figures import save_all, subplots
from experiments.report.statistics import paired_difference
from experiments.runs.results import Results
from experiments.runs.task import Preset

COLORS = {
  BASELINE: "#333333",
  ORTHONORMAL: "#e0a100",
  MHE: "#2a6fbb",
  HALF_MHE: "#c8102e",
}


def draw_all(
  preset: Preset, results: Results[Config], folder: pathlib.Path
) -> list[pathlib.Path]:
  """Draws what there are results for; returns the files."""
  base = Base(preset)
  return save_all(
    (folder / f"classification_{name}.png", draw(base, results))
    for name, draw in FIGURES.items()
  )


def draw_differences(base: Base, results: Results[Config]):
  """What the energy does to the error in every experiment: a point a seed."""
  entries = {}  # By configurations: width and depth have the network of the others.
  for name, place in _PLACES.items():
    for column in columns_of(SWEEPS[name](base), results):
      rows = [
        row
        for row, arm in column.arms.items()
        if arm.config.regularizer.unweighted in (MHE, HALF_MHE)
      ]
      if rows and column.has_rival:
        key = (
          column.arms[column.rival].measure,
          *column.seeds,
          *(column.arms[row].config for row in rows),
        )
        entries.setdefault(key, (name, f"{place}{column.title}", column, rows))
  groups = [
    [entry[1:] for entry in entries.values() if (entry[0] == "start") == last]
    for last in (False, True)  # Its differences have another scale.
  ]
  groups = [group for group in groups if group]
  if not groups:
    return None
  heights = [len(group) for group in groups]
  figure, panels = subplots(
    len(groups), 1, (7, 1.5 + 0.42 * sum(heights)), height_ratios=heights
  )
  for (axes,), group in zip(panels, groups):
    _draw_differences(axes, group)
  axes = panels[-1, 0]
  axes.set_xlabel("test error, difference to the baseline of the seed, points")
  for kind, label in {MHE: "MHE", HALF_MHE: "half-space MHE"}.items():
    axes.scatter([], [], color=COLORS[kind], s=16, label=label)
  axes.scatter([], [], color="#888888", marker="|", s=140, label="mean")
  axes.plot([], [], color="#888888", linewidth=1, label="95% interval")
  axes.scatter([], [], **_diamond("#888888"), label="the paper's")
  figure.legend(loc="outside lower center", ncols=5, fontsize=8)
  return figure


_PLACES = {
  "headline": "new seeds: ",
  "depth": "CIFAR-100, ",
  "width": "CIFAR-100, width ",
  "resnet": "ResNet-32, ",
  "imbalance": "imbalanced CIFAR-10: ",
  "start": "all of CIFAR-100, rate 0.1,\n",
}


def _draw_differences(axes, group):
  for y, (_, column, rows) in enumerate(group):
    for row in rows:
      kind = column.arms[row].config.regularizer.unweighted
      color, height = COLORS[kind], y + (0.16 if kind == HALF_MHE else -0.16)
      points = np.subtract(column.values(row), column.values(column.rival))
      axes.scatter(points, np.full(len(points), height), color=color, s=7, alpha=0.45)
      axes.scatter(points.mean(), height, color=color, marker="|", s=140, linewidths=2)
      if len(points) > 2:  # Of two pairs it is wider than the picture.
        paired = paired_difference(column.values(column.rival), column.values(row))
        axes.hlines(height, paired.low, paired.high, color=color, linewidth=1)
      ours, rival = column.arms[row].paper, column.arms[column.rival].paper
      if ours is not None and rival is not None and not math.isnan(rival):
        axes.scatter(ours - rival, height, **_diamond(color))
  axes.axvline(0.0, color="black", linewidth=0.6)
  axes.set_yticks(range(len(group)), [label for label, *_ in group], fontsize=8)
  axes.set_ylim(len(group) - 0.5, -0.5)


def _diamond(color):
  return {
    "marker": "D", "facecolor": "none", "edgecolor": color, "s": 22, "linewidths": 0.8,
  }  # fmt: skip


def draw_curves(base: Base, results: Results[Config]):
  """Test error and redundancy over the iterations, mean over the seeds."""
  columns = columns_of(SWEEPS["variants"](base), results)
  count = base("cifar10").curve_images
  figure = _curves(columns, "test_error", f"test error on {count:,} images, %")
  if figure is not None:
    _zoom(figure.axes[: len(columns)])
    for panel in figure.axes[len(columns) + 1 :]:
      panel.sharey(figure.axes[len(columns)])
      panel.autoscale(axis="y")
  return figure


def _zoom(panels):
  """To the errors of the second half of training, which differ little."""
  for panel in panels:
    lines = [line.get_xydata() for line in panel.get_lines()]
    if not lines:
      continue
    half = lines[0][-1, 0] / 2
    late = [y for line in lines for x, y in line if x >= half]
    panel.set_xlim(left=0.9 * half)
    low, high = np.nanmin(late), np.nanmax(late)
    panel.set_ylim(low - 0.1 * (high - low), high + 0.5 * (high - low))


def draw_start(base: Base, results: Results[Config]):
  """Training loss and redundancy at a high learning rate, with and without warm-up."""
  columns = columns_of(SWEEPS["start"](base), results)
  return _curves(columns, "train_loss", "training loss", sharey="row")


def _curves(columns, measure, label, **options):
  if not columns:
    return None
  figure, axes = subplots(2, len(columns), (4.5 * len(columns), 5.5), **options)
  for (upper, lower), column in zip(axes.T, columns):
    for row, arm in column.arms.items():
      color = COLORS.get(arm.config.regularizer.unweighted)
      if color is None:
        continue
      histories = [run["history"] for run in column.runs(row)]
      steps = [entry["step"] for entry in histories[0]]
      curves = {
        upper: [[entry[measure] for entry in history] for history in histories],
        lower: [
          [hidden_excess(entry["excess"]) for entry in history] for history in histories
        ],
      }
      for panel, numbers in curves.items():
        seeds = np.asarray(numbers, float)
        panel.plot(steps, seeds.T, color=color, linewidth=0.6, alpha=0.3)
        panel.plot(steps, seeds.mean(0), color=color, label=row)
    upper.set_title(column.title, fontsize=9)
    lower.axhline(1.0, color="black", linewidth=0.6)
    lower.set_xlabel("update")
  axes[0, 0].set_ylabel(label)
  axes[1, 0].set_ylabel("relative excess energy,\nmedian of the hidden layers")
  handles, labels = axes[0, 0].get_legend_handles_labels()
  figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
  return figure


def draw_weights(base: Base, results: Results[Config]):
  """Test error over the weight of the energy, differences to the baseline."""
  columns = columns_of(SWEEPS["weight"](base), results)
  columns = [column for column in columns if column.has_rival and len(column.arms) > 1]
  if not columns:
    return None
  figure, ((axes,),) = subplots(1, 1, figsize=(5.5, 3.6))
  for column, shift in zip(columns, (0.93, 1.07)):
    weighted = [row for row in column.arms if row != column.rival]
    weights = [shift * column.arms[row].config.regularizer.weight for row in weighted]
    points = np.subtract(
      [column.values(row) for row in weighted], column.values(column.rival)
    )
    color = COLORS[column.arms[weighted[0]].config.regularizer.unweighted]
    axes.plot(weights, points, color=color, marker="o", ms=3, alpha=0.45, linestyle="")
    axes.plot(weights, points.mean(1), color=color, label=column.title)
  axes.axhline(0.0, color="black", linewidth=0.6)
  axes.set_xscale("log")
  axes.set_xlabel("weight of the energy")
  axes.set_ylabel("test error, difference to the\nbaseline of the seed, points")
  axes.legend(fontsize=8)
  return figure


def draw_energies(base: Base, results: Results[Config]):
  """Test error against redundancy: a point a run, differences to its baseline."""
  columns = columns_of(SWEEPS["variants"](base), results)
  columns = [column for column in columns if column.has_rival]
  if not columns:
    return None
  figure, (panels,) = subplots(1, len(columns), figsize=(4.5 * len(columns), 3.8))
  for panel, column in zip(panels, columns):
    for row, arm in column.arms.items():
      regularizer = arm.config.regularizer
      half_space = HALF_MHE if regularizer.half_space else MHE
      rivals = {"none": BASELINE, "orthonormal": ORTHONORMAL}
      panel.scatter(
        [hidden_excess(run["history"][-1]["excess"]) for run in column.runs(row)],
        np.subtract(column.values(row), column.values(column.rival)),
        color=COLORS[rivals.get(regularizer.kind, half_space)],
        marker={"chordal": "o", "geodesic": "^"}[regularizer.metric],
        s=16,
        alpha=0.7,
      )
    panel.axhline(0.0, color="black", linewidth=0.6)
    panel.set_title(column.title, fontsize=9)
    panel.set_xscale("log")
    panel.set_xlabel("median relative excess of the hidden layers at the end")
  panels[0].set_ylabel("test error, difference to the\nbaseline of the seed, points")
  for regularizer, label in {
    BASELINE: "baseline", MHE: "full space", HALF_MHE: "half-space",
    ORTHONORMAL: "orthonormal",
  }.items():  # fmt: skip
    panels[0].scatter([], [], color=COLORS[regularizer], s=16, label=label)
  panels[0].scatter([], [], color="#888888", marker="^", s=16, label="angular")
  handles, labels = panels[0].get_legend_handles_labels()
  figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8)
  return figure


FIGURES = {
  "differences": draw_differences,
  "curves": draw_curves,
  "weights": draw_weights,
  "energies": draw_energies,
  "start": draw_start,
}
