"""What relative excess is: the best points, random ones, and points that are alike."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.gallery.sphere import draw_points
from experiments.report.figures import subplots
from mhe_jax import Riesz, minimize_energy, relative_excess

SETTINGS = {
  "cpu": {"count": 4, "draws": 200, "spread": 0.5, "seed": 0},
  "smoke": {"count": 4, "draws": 20, "spread": 0.5, "seed": 0},
}
_TITLES = {
  "best": "as different as possible",
  "random": "random directions",
  "alike": "alike",
}


def compute(count: int, draws: int, spread: float, seed: int) -> dict[str, Any]:
  """Three sets of so many points in three dimensions, and their excess (s = 1).

  Args:
    count: of points.
    draws: of random sets, of which the one nearest to their mean, 1, is shown.
    spread: of the points that are alike: standard deviation around one direction.
    seed: of the draws.

  Returns:
    ``{name: {"points": [count, 3], "excess": number}}``.
  """
  keys = jax.random.split(jax.random.key(seed), 3)
  best, _ = minimize_energy(keys[0], count, 3, Riesz(1.0))
  random = jax.random.normal(keys[1], (draws, count, 3))
  excess = jax.vmap(lambda x: relative_excess(x, Riesz(1.0)))(random)
  alike = spread * jax.random.normal(keys[2], (count, 3))
  alike = alike.at[:, 2].add(1.0)
  sets = {
    "best": best,
    "random": random[jnp.argmin(jnp.abs(excess - 1.0))],
    "alike": alike,
  }
  return {
    name: {
      "points": np.asarray(x / jnp.linalg.norm(x, axis=1, keepdims=True), float)
      .round(4)
      .tolist(),
      "excess": float(relative_excess(x, Riesz(1.0))),
    }
    for name, x in sets.items()
  }


def draw(result: dict[str, Any]):
  """The three sets, side by side, over their excess."""
  figure, (panels,) = subplots(1, 3, (7.4, 3.0))
  for panel, (name, title) in zip(panels, _TITLES.items()):
    draw_points(panel, np.asarray(result[name]["points"]), with_edges=True)
    excess = abs(round(result[name]["excess"], 1))  # No -0.0.
    panel.set_title(f"{title}\nrelative excess {excess:.1f}", fontsize=10)
  return figure
