"""Pictures of errors: what the energy does to them, and where."""

import dataclasses
import math
import textwrap
from typing import NamedTuple

import numpy as np
import scipy.stats

from experiments.classification.arms import BASELINE, Base
from experiments.classification.details import over_layers
from experiments.classification.figures.colors import COLORS, OTHER
from experiments.classification.plan import SWEEPS
from experiments.classification.presets import Config
from experiments.classification.questions import UNSEEN
from experiments.classification.summary import KINDS, LINES, pairs, title_of
from experiments.regularizers import Regularizer
from experiments.report.answers import probability
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
  titles = [
    textwrap.fill(title_of(line, SWEEPS[line.sweep](base)), 27) for line, _ in lines
  ]
  axes.set_yticks(range(len(lines)), titles, fontsize=8)
  axes.set_ylim(len(lines) - 0.5, -0.5)
  axes.set_xscale("symlog", linthresh=2)  # Rare classes gain ten times as much.
  axes.xaxis.set_major_formatter("{x:g}")
  axes.set_xticks([-10, -5, -2, -1, 0, 1])
  axes.set_xlabel("error, difference to the baseline of the seed, points")
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
  columns = [c for c in columns if c.has_rival and len(c.arms) > 2 < len(c.seeds)]
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
    for point in points:
      color = COLORS.get(point.kind, OTHER)
      panel.scatter(point.excess[which], point.gain, color=color, s=20, alpha=0.7)
    panel.axhline(0.0, color="black", linewidth=0.6)
    panel.set_xscale("log")
    panel.xaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_minor_formatter("{x:g}")
    panel.tick_params(axis="x", which="both", labelsize=7)
    panel.set_xlabel(f"excess without the energy, {name}")
  panels[0].set_yscale("symlog", linthresh=2)
  panels[0].yaxis.set_major_formatter("{x:g}")
  panels[0].set_ylabel("test error, difference to\nthe baseline, mean, points")
  labels = {
    COLORS.get(kind, OTHER): kind.name if kind in COLORS else "other forms"
    for kind in dict.fromkeys(point.kind for point in points)
  }
  for color, label in labels.items():
    panels[0].scatter([], [], color=color, s=20, label=label)
  figure.legend(loc="outside lower center", ncols=3, fontsize=8)
  return figure


class Gain(NamedTuple):
  """What a regularizer does in a setting.

  Attributes:
    kind: the regularizer, with weight 1.
    setting: the baseline's, and the seeds of both.
    excess: of the baseline, the median of the hidden layers, mean over the seeds: its
      highest after the start, and that at the end.
    gain: mean difference of the errors; negative is fewer.
  """

  kind: Regularizer
  setting: tuple[Config, tuple[int, ...]]
  excess: tuple[float, float]
  gain: float


THRESHOLD = 5.0  # Of the excess; read off the picture.


def foretold(base: Base, results: Results[Config]) -> str:
  """How well the baseline's excess ranks the settings by their gain."""
  settings = {}
  for point in gains(base, results):  # Tables share settings.
    settings.setdefault(point.setting[0], []).append((*point.excess, point.gain))
  if len(settings) < 3:
    return ""
  highest, end, gain = np.array([np.mean(x, 0) for x in settings.values()]).T
  below = highest < THRESHOLD
  text = (
    "Spearman's rank correlation with the difference, mean over the regularizers of "
    f"each of {len(gain)} settings: {_correlation(highest, gain)} of the highest "
    f"excess, {_correlation(end, gain)} of that at the end."
  )
  if below.sum() > 2:
    text += (
      f" Of the {below.sum()} whose highest excess is below {THRESHOLD:g}: "
      f"{_correlation(highest[below], gain[below])}."
    )
  return wrapped(text)


def _correlation(x, y):
  rank, p_value = np.asarray(scipy.stats.spearmanr(x, y))
  return f"{rank:+.2f} (P = {probability(p_value)})"


def gains(base: Base, results: Results[Config]) -> list[Gain]:
  """Of every setting with three pairs that converge, with the same learning rate."""
  points = {}
  for name, sweep in SWEEPS.items():
    if (base.preset, name) == ("cpu", "imagenet"):
      continue
    for column in columns_of(sweep(base), results):
      rows = {arm.config: row for row, arm in column.arms.items()}
      for row, arm in column.arms.items():
        plain = dataclasses.replace(arm.config, regularizer=BASELINE)
        of_all_classes = arm.measure in ("test_error", UNSEEN)
        if plain == arm.config or plain not in rows or not of_all_classes:
          continue
        change = np.subtract(column.values(row), column.values(rows[plain])).mean()
        if len(column.seeds) > 2 and np.isfinite(change):
          setting = plain, tuple(column.seeds)
          runs = column.runs(rows[plain])
          excess = tuple(np.mean([over_layers(run, np.median) for run in runs], 0))
          kind = arm.config.regularizer.unweighted
          points[arm.config, setting] = Gain(kind, setting, excess, float(change))
  return list(points.values())
