"""Pictures of errors: what the energy does to them, and where."""

import math
import textwrap

import numpy as np
import scipy.stats

from experiments.classification.arms import BASELINE, Base
from experiments.classification.figures.colors import COLORS
from experiments.classification.plan import SWEEPS
from experiments.classification.presets import Config
from experiments.classification.questions import UNSEEN
from experiments.classification.summary import KINDS, LINES, pairs
from experiments.excess import hidden_excess
from experiments.regularizers import Regularizer
from experiments.report.columns import columns_of
from experiments.report.figures import subplots
from experiments.report.pages import wrapped
from experiments.report.statistics import paired_difference
from experiments.runs.results import Results


def draw_differences(base: Base, results: Results[Config]):
  """The lines of the summary: what the energy does to the error, a point a seed."""
  lines = [
    (line, found)
    for line in LINES
    if (found := _with_intervals(line, SWEEPS[line.sweep](base), results))
  ]
  if not lines:
    return None
  kinds = [kind for kind in KINDS if any(kind.unweighted in x for _, x in lines)]
  figure, ((axes,),) = subplots(1, 1, (7, 1.5 + 0.6 * len(lines)))
  for y, (_, found) in enumerate(lines):
    for place, kind in enumerate(found):
      height = y + 0.18 * (place - (len(found) - 1) / 2)
      _draw_difference(axes, height, found[kind], COLORS[kind])
  axes.axvline(0.0, color="black", linewidth=0.6)
  titles = [textwrap.fill(line.title, 27) for line, _ in lines]
  axes.set_yticks(range(len(lines)), titles, fontsize=8)
  axes.set_ylim(len(lines) - 0.5, -0.5)
  axes.set_xlabel("test error, difference to the baseline of the seed, points")
  for kind in kinds:
    axes.scatter([], [], color=COLORS[kind.unweighted], s=16, label=kind.name)
  axes.scatter([], [], color="#888888", marker="|", s=140, label="mean")
  axes.plot([], [], color="#888888", linewidth=1, label="95% interval")
  axes.scatter([], [], **_diamond("#888888"), label="the paper's")
  figure.legend(loc="outside lower center", ncols=4, fontsize=8)
  return figure


def _with_intervals(line, sweep, results):
  """Pairs of a line that have an interval, and one that says something."""
  return {
    kind: column
    for kind, column in pairs(line, sweep, results).items()
    if len(column.seeds) > 2
    and all(np.isfinite(column.values(row)).all() for row in column.arms)
  }


def _draw_difference(axes, height, column, color):
  before, after = column.arms
  points = np.subtract(column.values(after), column.values(before))
  axes.scatter(points, np.full(len(points), height), color=color, s=7, alpha=0.45)
  axes.scatter(points.mean(), height, color=color, marker="|", s=140, linewidths=2)
  paired = paired_difference(column.values(before), column.values(after))
  axes.hlines(height, paired.low, paired.high, color=color, linewidth=1)
  rival, ours = (arm.paper for arm in column.arms.values())
  if ours is not None and rival is not None and not math.isnan(rival):
    axes.scatter(ours - rival, height, **_diamond(color))


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


def foretold(base: Base, results: Results[Config]) -> str:
  """How well the baseline's excess ranks the settings by their gain."""
  points = gains(base, results)
  if len(points) < 3:
    return ""
  differences = [difference for *_, difference in points]
  highest, end = (
    f"{scipy.stats.spearmanr(excess, differences)[0]:+.2f}"
    for excess in zip(*(excess for _, excess, _ in points))
  )
  return wrapped(
    f"Spearman's rank correlation of the difference with the baseline's excess, of "
    f"{len(points)} settings and regularizers, several of which share a baseline: "
    f"{highest} with the highest, {end} with that at the end."
  )


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
      of_all_classes = rival.measure in ("test_error", UNSEEN)
      if rival.config.regularizer != BASELINE or not of_all_classes:
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
