"""Angles between the neurons of a trained layer, and those of random directions."""

import functools
from typing import Any

import jax
import numpy as np
import scipy.special

from experiments.quickstart import training as quickstart
from experiments.quickstart.training import CNN, State
from experiments.report.figures import subplots
from mhe_jax import neuron_matrices

SETTINGS = {
  "full": {"depth": 6, "width": 32, "images_per_class": 50, "steps": 200, "seeds": 5},
  "smoke": {"depth": 3, "width": 8, "images_per_class": 4, "steps": 2, "seeds": 1},
}
_ARMS = {"without": "trained without energy", "energy": "trained with energy"}
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
  config = quickstart.Config(
    depth=depth, width=width, images_per_class=images_per_class, steps=steps
  )
  images, labels = quickstart.load_digits()
  layers = [f"conv{i}/kernel" for i in (0, depth - 1)]
  counts, dimensions = {}, {}
  for arm in _ARMS:
    train = functools.partial(
      _train, config, arm, quickstart.make_train_step(config, arm), images, labels
    )
    trained = [neuron_matrices(train(seed)) for seed in range(seeds)]
    dimensions = {path: trained[0][path].shape[1] for path in layers}
    counts[arm] = {
      path: np.sum(
        [_histogram(np.asarray(w[path], float)) for w in trained], 0
      ).tolist()
      for path in layers
    }
  return {"counts": counts, "dimensions": dimensions}


def _train(config, arm, train_step, images, labels, seed):
  """Parameters after training."""
  rows, _ = quickstart.split(labels, config.images_per_class, seed)
  rng = np.random.default_rng(seed)
  (rate,) = config.learning_rates
  model = CNN(config.depth, config.width)
  params, stats = quickstart.init(model, jax.random.key(seed))
  tx = quickstart.optimizer(config, arm, rate)
  state = State(params, stats, tx.init(params))
  for _ in range(config.steps):
    batch = rng.choice(rows, config.batch_size)
    state = train_step(state, rate, images[batch], labels[batch])
  return state.params


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
      for arm in _ARMS
    }
    edges = np.linspace(0.0, 180.0, len(next(iter(counts.values()))) + 1)
    for arm, label in _ARMS.items():
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
