"""Pictures of very many neurons, from the JSON of the runs."""

import numpy as np
import scipy.special

from experiments.report.figures import subplots
from experiments.scale.training import BIN

COLORS = {
  "none": "#333333",
  "sampled": "#2a6fbb",
  "rows": "#c8102e",
  "exact": "#6a3d9a",
}
NAMES = {
  "none": "no energy",
  "sampled": "sampled",
  "rows": "classes of the batch",
  "exact": "exact",
}
KINDS = {"never": "never trained", "trained": "trained"}


def draw_nearest(results: dict[str, dict]):
  """Angles of all classes to their nearest others, and the excess over the steps.

  Args:
    results: ``{arm: result}`` of the classifier.
  """
  if not results:
    return None
  figure, (panels,) = subplots(1, 3, figsize=(10, 3.6))
  config = next(iter(results.values()))["config"]
  edges = np.arange(0, 180 + BIN, BIN)
  by_chance = np.diff(
    nearest_by_chance(np.radians(edges), config["classes"] - 1, config["d"])
  )
  for panel, (kind, name) in zip(panels, KINDS.items()):
    count = 0
    for arm, result in results.items():
      of_kind = result["nearest"][kind]
      count = of_kind["classes"]
      shares = 100.0 * np.array(of_kind["histogram"]) / max(1, of_kind["looked_at"])
      panel.stairs(shares, edges, color=COLORS[arm], label=NAMES[arm], linewidth=1.5)
    panel.stairs(
      100.0 * by_chance,
      edges,
      color="#888888",
      linestyle=":",
      label="random directions",
    )
    panel.set_title(f"{count:,} classes: {name}", fontsize=9)
    panel.set_xlabel("angle to the nearest other class, degrees")
    panel.set_xlim(0, 80)
  panels[0].set_ylabel(f"share of classes in {BIN} degrees, %")
  for arm, result in results.items():
    history = result["history"]
    panels[2].plot(
      [entry["step"] for entry in history],
      [entry["excess"] for entry in history],
      color=COLORS[arm],
      marker="o",
      ms=3,
    )
  panels[2].axhline(1.0, color="#888888", linestyle=":")
  panels[2].set_yscale("log")
  panels[2].set_title("relative excess of all class weights", fontsize=9)
  panels[2].set_xlabel("step")
  handles, labels = panels[0].get_legend_handles_labels()
  figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8)
  return figure


def draw_products(results: dict[str, dict]):
  """Excess of the rows over the multiplications spent: points exact, a line estimates.

  Args:
    results: ``{arm: result}`` of the embedding.
  """
  if not results:
    return None
  figure, ((axes,),) = subplots(1, 1, figsize=(5.5, 3.8))
  for arm, result in results.items():
    history, estimates = result["history"], result["estimates"]
    products = [entry["products"] / 1e9 for entry in history]
    label = f"{NAMES[arm]}, {history[-1]['step']} steps"
    style = "none" if estimates else "-"  # Their exact points are few.
    axes.plot(
      products, [entry["excess"] for entry in history],
      color=COLORS[arm], marker="o", ms=4, linestyle=style,
      label=None if estimates else label,
    )  # fmt: skip
    if estimates:
      spent = np.linspace(0.0, products[-1], len(estimates) + 1)[:-1]
      axes.plot(spent, estimates, color=COLORS[arm], linewidth=1.2, label=label)
  axes.axhline(1.0, color="#888888", linestyle=":", label="random directions")
  axes.set_yscale("log")
  axes.set_xlabel("multiplications spent, 1e9")
  axes.set_ylabel("relative excess of all rows")
  axes.legend(fontsize=8)
  return figure


def nearest_by_chance(angles: np.ndarray, others: int, d: int) -> np.ndarray:
  """Probability that one of so many random directions is within an angle of a given.

  Args:
    angles: in radians, 0 to pi.
    others: how many.
    d: dimension.
  """
  half = 0.5 * scipy.special.betainc((d - 1) / 2, 0.5, np.sin(angles) ** 2)
  cap = np.where(angles <= np.pi / 2, half, 1.0 - half)
  return -np.expm1(others * np.log1p(-np.minimum(cap, 1.0 - 1e-16)))
