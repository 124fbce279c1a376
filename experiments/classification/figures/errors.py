"""Pictures of errors: what the energy does to them, and where."""

import math

import numpy as np

from experiments.classification.arms import HALF_MHE, MHE, Base
from experiments.classification.figures.colors import COLORS
from experiments.classification.plan import SWEEPS
from experiments.classification.presets import Config
from experiments.report.columns import columns_of
from experiments.report.figures import subplots
from experiments.report.statistics import paired_difference
from experiments.runs.results import Results


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
