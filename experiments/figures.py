"""Figures of the paper's experiments in classification."""

import dataclasses
import pathlib

import numpy as np

from experiments.paper import (
  BASELINE,
  HALF_MHE,
  MHE,
  ORTHONORMAL,
  SWEEPS,
  Base,
  unweighted,
)
from experiments.runs import Results, hidden_excess, pairs, values

COLORS = {
  BASELINE: "#333333",
  ORTHONORMAL: "#e0a100",
  MHE: "#2a6fbb",
  HALF_MHE: "#c8102e",
}


def draw_all(preset: str, results: Results, folder: pathlib.Path) -> list[pathlib.Path]:
  """Draws what there are results for; returns the files."""
  import matplotlib.pyplot as plt  # noqa: PLC0415  (only when called)

  paths = []
  for draw in (draw_curves, draw_weights, draw_energies, draw_start):
    figure = draw(Base(preset), results)
    if figure is not None:
      name = draw.__name__.removeprefix("draw_")
      paths.append(folder / f"classification_{name}.png")
      figure.savefig(paths[-1], dpi=150)
      plt.close(figure)
  return paths


def draw_curves(base: Base, results: Results):
  """Test error and redundancy over the iterations, mean over the seeds."""
  arms = [
    arm
    for arm in SWEEPS["variants"](base).arms
    if unweighted(arm.config.regularizer) in COLORS and results.of(arm.config)
  ]
  return _curves(arms, results, "test_error", "test error on some images, %")


def draw_start(base: Base, results: Results):
  """Training loss and redundancy at a high learning rate, with and without warm-up."""
  arms = [arm for arm in SWEEPS["start"](base).arms if results.of(arm.config)]
  return _curves(arms, results, "train_loss", "training loss")


def _curves(arms, results, measure, label):
  columns = list(dict.fromkeys(arm.column for arm in arms))
  if not columns:
    return None
  figure, axes = _subplots(2, len(columns), figsize=(4.5 * len(columns), 5.5))
  for arm in arms:
    upper, lower = axes[:, columns.index(arm.column)]
    color = COLORS[unweighted(arm.config.regularizer)]
    histories = [run["history"] for run in results.of(arm.config).values()]
    steps = [entry["step"] for entry in histories[0]]
    curves = {
      upper: [[entry[measure] for entry in history] for history in histories],
      lower: [[hidden_excess(entry) for entry in history] for history in histories],
    }
    for panel, numbers in curves.items():
      seeds = np.asarray(numbers, float)
      panel.plot(steps, seeds.T, color=color, linewidth=0.6, alpha=0.3)
      panel.plot(steps, seeds.mean(0), color=color, label=arm.row)
    upper.set_title(arm.column, fontsize=9)
    lower.axhline(1.0, color="black", linewidth=0.6)
    lower.set_xlabel("update")
  axes[0, 0].set_ylabel(label)
  axes[1, 0].set_ylabel("relative excess energy,\nmean of the hidden layers")
  handles, labels = axes[0, 0].get_legend_handles_labels()
  figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
  return figure


def draw_weights(base: Base, results: Results):
  """Test error over the weight of the energy, mean and spread over the seeds."""
  arms = [arm for arm in SWEEPS["weight"](base).arms if results.of(arm.config)]
  weighted = [arm for arm in arms if arm.config.regularizer != BASELINE]
  if len(weighted) == len(arms) or not weighted:
    return None
  figure, ((axes,),) = _subplots(1, 1, figsize=(5.5, 3.6))
  numbers = list(values(results, arms[0]).values())
  mean, spread = np.mean(numbers), np.std(numbers, ddof=min(1, len(numbers) - 1))
  axes.axhspan(mean - spread, mean + spread, color="#333333", alpha=0.15, linewidth=0)
  axes.axhline(mean, color=COLORS[BASELINE], label="baseline")
  for column in dict.fromkeys(arm.column for arm in weighted):
    mine = [arm for arm in weighted if arm.column == column]
    numbers = [list(values(results, arm).values()) for arm in mine]
    axes.errorbar(
      [arm.config.regularizer.weight for arm in mine],
      [np.mean(n) for n in numbers],
      [np.std(n, ddof=min(1, len(n) - 1)) for n in numbers],
      color=COLORS[HALF_MHE if mine[0].config.regularizer.half_space else MHE],
      marker="o",
      capsize=3,
      label=column,
    )
  axes.set_xscale("log")
  axes.set_xlabel("weight of the energy")
  axes.set_ylabel("test error, %")
  axes.legend(fontsize=8)
  return figure


def draw_energies(base: Base, results: Results):
  """Test error against redundancy: a point a run, differences to its baseline."""
  arms = SWEEPS["variants"](base).arms
  columns = list(dict.fromkeys(arm.column for arm in arms))
  figure, (panels,) = _subplots(1, len(columns), figsize=(4.5 * len(columns), 3.8))
  empty = True
  for panel, column in zip(panels, columns):
    baseline, *rivals = [arm for arm in arms if arm.column == column]
    markers = {"chordal": "o", "geodesic": "^"}
    for arm in rivals:
      regularizer = arm.config.regularizer
      first, second = pairs(results, baseline, arm)
      shared = set(values(results, baseline)) & set(values(results, arm))
      runs = [run for seed, run in results.of(arm.config).items() if seed in shared]
      half_space = dataclasses.replace(HALF_MHE, half_space=regularizer.half_space)
      panel.scatter(
        [hidden_excess(run["history"][-1]) for run in runs],
        np.subtract(second, first),
        color=COLORS[ORTHONORMAL if regularizer.kind == "orthonormal" else half_space],
        marker=markers[regularizer.metric],
        s=16,
        alpha=0.7,
      )
      empty = empty and not runs
    runs = results.of(baseline.config).values()
    for run in runs:
      excess = hidden_excess(run["history"][-1])
      panel.scatter(excess, 0.0, color=COLORS[BASELINE], s=16)
    panel.axhline(0.0, color="black", linewidth=0.6)
    panel.set_title(column, fontsize=9)
    panel.set_xlabel("relative excess of the hidden layers at the end")
  panels[0].set_ylabel("test error, difference to the\nbaseline of the seed, points")
  for regularizer, label in {
    BASELINE: "baseline", MHE: "full space", HALF_MHE: "half-space",
    ORTHONORMAL: "orthonormal",
  }.items():  # fmt: skip
    panels[0].scatter([], [], color=COLORS[regularizer], s=16, label=label)
  panels[0].scatter([], [], color="#888888", marker="^", s=16, label="angular")
  handles, labels = panels[0].get_legend_handles_labels()
  figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8)
  return None if empty else figure


def _subplots(rows, columns, figsize):
  import matplotlib.pyplot as plt  # noqa: PLC0415  (only when called)

  figure, axes = plt.subplots(
    rows, columns, figsize=figsize, squeeze=False, layout="constrained"
  )
  for panel in axes.flat:
    panel.spines[["top", "right"]].set_visible(False)
  return figure, axes
