"""Pictures of faces: what scores can tell, and where class weights stand."""

import pathlib

import numpy as np

from experiments.faces.arms import ALL, BATCH, NONE, RELATIVE, Base
from experiments.faces.plan import SWEEPS
from experiments.faces.presets import Config
from experiments.models import OUTPUT
from experiments.report import figures as report
from experiments.report.columns import Column, columns_of
from experiments.report.figures import subplots
from experiments.runs.results import Results, from_json
from experiments.runs.task import Preset

COLORS = {NONE: "#333333", ALL: "#2a6fbb", BATCH: "#c8102e", RELATIVE: "#6a3d9a"}


def draw_all(
  preset: Preset, results: Results[Config], folder: pathlib.Path
) -> list[pathlib.Path]:
  """Draws what there are results for; returns the files."""
  return report.draw_all(FIGURES, Base(preset), results, folder, "faces")


def draw_roc(base: Base, results: Results[Config]):
  """TAR over FAR, mean over the seeds."""
  rows = _rows_to_draw(base, results)
  if not rows:
    return None
  figure, ((axes,),) = subplots(1, 1, figsize=(5, 4))
  for row, color, runs in rows:
    true = np.mean([run["roc"]["true"] for run in runs], 0)
    axes.plot(runs[0]["roc"]["false"], 100 * true, color=color, label=row)
  axes.set_xscale("log")
  axes.set_xlabel("false accept rate")
  axes.set_ylabel("true accept rate, %")
  axes.legend(fontsize=8)
  return figure


def draw_rank_one(base: Base, results: Results[Config]):
  """Rank-1 accuracy over the number of distractors: a line a seed, and their mean."""
  rows = _rows_to_draw(base, results)
  if not rows:
    return None
  figure, ((axes,),) = subplots(1, 1, figsize=(5, 4))
  for row, color, runs in rows:
    counts = runs[0]["rank_one"]["distractors"]
    shares = np.array([run["rank_one"]["accuracy"] for run in runs], float)
    axes.plot(counts, shares.T, color=color, linewidth=0.6, alpha=0.3)
    axes.plot(counts, shares.mean(0), color=color, marker="o", ms=3, label=row)
  axes.set_xscale("symlog", linthresh=10)
  axes.set_xlabel("images of other people in the gallery")
  axes.set_ylabel("rank-1 accuracy, %")
  axes.legend(fontsize=8)
  return figure


def draw_angles(base: Base, results: Results[Config]):
  """Angles between features of one person and of two, shares of the pairs."""
  rows = _rows_to_draw(base, results)
  if not rows:
    return None
  figure, ((axes,),) = subplots(1, 1, figsize=(6, 4))
  edges = np.array(rows[0][2][0]["angles"]["edges"])
  for row, color, runs in rows:
    centers = (edges[1:] + edges[:-1]) / 2
    for kind, style in (("same", "-"), ("different", "--")):
      counts = np.mean([run["angles"][kind] for run in runs], 0)
      label = row if kind == "same" else None
      axes.plot(
        centers, 100 * counts / counts.sum(), color=color, linestyle=style, label=label
      )
  axes.plot([], [], color="#888888", label="pairs of one person")
  axes.plot([], [], color="#888888", linestyle="--", label="pairs of two people")
  axes.set_xlabel("angle between the features, degrees")
  axes.set_ylabel(f"share of the pairs in bins of {edges[1] - edges[0]} degrees, %")
  axes.legend(fontsize=8)
  return figure


def draw_classes(base: Base, results: Results[Config]):
  """Class weights over the updates: smallest angle and relative excess."""
  rows = _rows_to_draw(base, results)
  if not rows:
    return None
  figure, (panels,) = subplots(1, 2, figsize=(8.5, 3.6))
  for row, color, runs in rows:
    steps = [entry["step"] for entry in runs[0]["history"]]
    smallest = [[e["smallest_angle"] for e in run["history"]] for run in runs]
    excess = [[e["excess"][OUTPUT] for e in run["history"]] for run in runs]
    for panel, curves in zip(panels, (smallest, excess)):
      numbers = np.asarray(curves, float)
      panel.plot(steps, numbers.T, color=color, linewidth=0.6, alpha=0.3)
      panel.plot(steps, numbers.mean(0), color=color, label=row)
  panels[0].set_ylabel("smallest angle between\ntwo class weights, degrees")
  panels[1].axhline(1.0, color="black", linewidth=0.6)
  panels[1].set_ylabel("relative excess of the class weights")
  for panel in panels:
    panel.set_xlabel("update")
  panels[0].legend(fontsize=8)
  return figure


FIGURES = {
  "roc": draw_roc,
  "rank_one": draw_rank_one,
  "angles": draw_angles,
  "classes": draw_classes,
}


def _rows_to_draw(base, results):
  """Row, color and runs that did not diverge: of what confirms, if it has been run."""
  found = [*columns_of(SWEEPS["best"](base), results)[:1]]
  found += columns_of(SWEEPS["margins"](base), results)[-1:]
  if not found:
    return []
  column: Column[Config] = found[0]
  drawn = []
  for row, arm in column.arms.items():
    runs = [
      run
      for run, error in zip(column.runs(row), column.values(row))
      if np.isfinite(from_json(error))
    ]
    if runs:
      drawn.append((row, COLORS[arm.config.energy], runs))
  return drawn
