"""Pictures of errors: what the energy does to them, and where."""

import math

import numpy as np

from experiments.classification.arms import BASELINE, HALF_MHE, MHE, Base
from experiments.classification.figures.colors import COLORS
from experiments.classification.plan import SWEEPS
from experiments.classification.presets import Config
from experiments.excess import hidden_excess
from experiments.regularizers import Regularizer
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
      if rows and column.has_rival and len(column.seeds) > 2:  # One pair tells nothing.
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
  columns = [c for c in columns if c.has_rival and len(c.arms) > 1 < len(c.seeds) - 1]
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


def draw_rates(base: Base, results: Results[Config]):
  """Test error over the learning rate, with and without the energy."""
  columns = columns_of(SWEEPS["rates"](base), results)
  if not columns:
    return None
  figure, ((axes,),) = subplots(1, 1, figsize=(5.5, 3.6))
  for column, shift in zip(columns, (0.97, 1.03)):
    (kind,) = {arm.config.regularizer.unweighted for arm in column.arms.values()}
    rates = [shift * arm.config.learning_rate for arm in column.arms.values()]
    errors = np.array([column.values(row) for row in column.arms])
    axes.plot(rates, errors, color=COLORS[kind], marker="o", ms=3, alpha=0.45, ls="")
    label = f"{column.title}, {len(column.seeds)} seeds"
    axes.plot(rates, errors.mean(1), color=COLORS[kind], label=label)
  axes.set_xscale("log")
  ticks = sorted({a.config.learning_rate for c in columns for a in c.arms.values()})
  axes.set_xticks(ticks, [f"{rate:g}" for rate in ticks])
  axes.minorticks_off()
  axes.set_xlabel("learning rate")
  axes.set_ylabel("test error, %")
  axes.legend(fontsize=8)
  return figure


def draw_gain(base: Base, results: Results[Config]):
  """Does redundancy without the energy foretell the gain? A point a setting."""
  points = gains(base, results)
  if not points:
    return None
  figure, (panels,) = subplots(1, 2, figsize=(8.5, 3.6), sharey=True)
  names = ("highest, while it trains", "at the end")
  for panel, name, which in zip(panels, names, (0, 1)):
    for kind, excess, gain in points:
      panel.scatter(excess[which], gain, color=COLORS[kind], s=20, alpha=0.7)
    panel.axhline(0.0, color="black", linewidth=0.6)
    panel.set_xscale("log")
    panel.xaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_minor_formatter("{x:g}")
    panel.tick_params(axis="x", which="both", labelsize=7)
    panel.set_xlabel(f"excess without the energy, {name}")
  panels[0].set_yscale("symlog", linthresh=2)
  panels[0].yaxis.set_major_formatter("{x:g}")
  panels[0].set_ylabel("test error, difference to\nthe baseline, mean, points")
  for kind in dict.fromkeys(kind for kind, *_ in points):
    panels[0].scatter([], [], color=COLORS[kind], s=20, label=kind.name)
  figure.legend(loc="outside lower center", ncols=4, fontsize=8)
  return figure


def gains(
  base: Base, results: Results[Config]
) -> list[tuple[Regularizer, tuple[float, float], float]]:
  """Of every setting with three pairs: regularizer, the baseline's excess, difference.

  The excess is the median of the hidden layers, mean over the seeds: the highest after
  the start, and that at the end.
  """
  points = {}
  for name, sweep in SWEEPS.items():
    if (base.preset, name) == ("cpu", "imagenet"):
      continue
    for column in columns_of(sweep(base), results):
      if not column.has_rival or len(column.seeds) < 3:
        continue
      rival = column.arms[column.rival]
      if rival.config.regularizer != BASELINE or rival.measure != "test_error":
        continue
      histories = [
        [hidden_excess(entry["excess"]) for entry in run["history"][1:]]
        for run in column.runs(column.rival)
      ]
      excess = np.mean([[max(history), history[-1]] for history in histories], 0)
      for row, arm in column.arms.items():
        kind = arm.config.regularizer.unweighted
        if kind in COLORS and kind != BASELINE:
          gain = np.subtract(column.values(row), column.values(column.rival)).mean()
          points[arm.config, *column.seeds] = (kind, tuple(excess), float(gain))
  return [point for point in points.values() if np.isfinite(point[2])]
