"""Angles between the neurons of a trained layer, and those of random directions."""

from typing import Any

import numpy as np
import scipy.special

from experiments.digits import Config
from experiments.pruning.training import ARMS, train
from experiments.report.figures import subplots
from mhe_jax import neuron_matrices

SETTINGS = {
  "cpu": {"depth": 6, "width": 32, "images_per_class": 50, "steps": 200, "seeds": 5},
  "smoke": {"depth": 3, "width": 4, "images_per_class": 4, "steps": 4, "seeds": 1},
}
_NAMES = {"without": "trained without energy", "energy": "trained with energy"}
_COLORS = {"without": "#555555", "energy": "#c8102e"}
_BINS = 360  # Of half a degree.


def compute(
  depth: int, width: int, images_per_class: int, steps: int, seeds: int
) -> dict[str, Any]:
  """Trains on handwritten digits; counts the angles between neurons of a layer.

  Args:
    depth: convolutions of the network of ``experiments.quickstart``.
    width: their channels.
    images_per_class: that are trained on.
    steps: of training.
    seeds: how many networks.

  Returns:
    ``{"counts": {arm: {layer: [pairs of every bin of half a degree]}}, "dimensions":
    {layer: d}}``, of all seeds together; the first and the last convolution.
  """
  config = Config(
    depth=depth, width=width, images_per_class=images_per_class, steps=steps
  )
  layers = [f"conv{i}/kernel" for i in (0, depth - 1)]
  counts, dimensions = {}, {}
  for arm in ARMS:
    states = [train(config, arm, seed) for seed in range(seeds)]
    trained = [neuron_matrices(state.params) for state in states]
    dimensions = {path: trained[0][path].shape[1] for path in layers}
    counts[arm] = {
      path: np.sum(
        [_histogram(np.asarray(w[path], float)) for w in trained], 0
      ).tolist()
      for path in layers
    }
  return {"counts": counts, "dimensions": dimensions}


def _histogram(neurons):
  units = neurons / np.linalg.norm(neurons, axis=1, keepdims=True)
  cosines = (units @ units.T)[np.triu_indices(len(units), 1)]
  angles = np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0)))
  return np.histogram(angles, _BINS, (0.0, 180.0))[0]


def random_density(degrees: np.ndarray, d: int) -> np.ndarray:
  """Density, per degree, of the angle between two random directions.

  It is sin(angle)^(d - 2) / B((d - 1) / 2, 1 / 2), per radian.
  """
  sine = np.sin(np.radians(degrees))
  norm = scipy.special.beta((d - 1) / 2.0, 0.5) * 180.0 / np.pi
  return sine ** (d - 2) / norm


def draw(result: dict[str, Any]):
  """A panel a layer: histograms of both arms and the exact law."""
  dimensions = result["dimensions"]
  figure, (panels,) = subplots(1, len(dimensions), (8.8, 3.8))
  degrees = np.linspace(0.0, 180.0, 1801)
  for panel, (path, d) in zip(panels, dimensions.items()):
    bins = 6 if d < 20 else 2  # Three degrees, or one.
    counts = {
      arm: np.asarray(result["counts"][arm][path]).reshape(-1, bins).sum(1)
      for arm in _NAMES
    }
    edges = np.linspace(0.0, 180.0, len(next(iter(counts.values()))) + 1)
    for arm, label in _NAMES.items():
      density = counts[arm] / counts[arm].sum() / np.diff(edges)
      with_energy = arm == "energy"
      panel.stairs(
        density, edges, color=_COLORS[arm], fill=with_energy, label=label,
        alpha=0.35 if with_energy else 1.0, linewidth=1.4,
      )  # fmt: skip
    panel.plot(
      degrees, random_density(degrees, d), color="black", linestyle="--",
      linewidth=1.2, label="random directions: the exact law",
    )  # fmt: skip
    seen = edges[:-1][sum(counts.values()) > 0]
    panel.set_xlim(seen.min() - 3.0, seen.max() + 4.0)
    n = result["settings"]["width"]
    name = path.removesuffix("/kernel")
    panel.set_title(f"{name}: {n} neurons in {d} dimensions", fontsize=10)
    panel.set_xlabel("angle between two neurons, degrees")
  panels[-1].set_yscale("log")
  panels[-1].set_ylim(3e-4, 2.0)
  panels[0].set_ylabel("density, per degree")
  handles, labels = panels[0].get_legend_handles_labels()
  figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9)
  return figure
