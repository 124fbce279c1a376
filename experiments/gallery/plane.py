"""Why half-space: neurons in the plane, with and without their opposites."""

import math
from typing import Any

import jax
import numpy as np

from experiments.report.figures import subplots
from mhe_jax import Riesz, minimize_energy

SETTINGS = {"cpu": {"count": 4}, "smoke": {"count": 4}}
_COLORS = ("#c8102e", "#1f4e9c", "#e0a100", "#3a8f4d", "#7b4ea3", "#777777")


def compute(count: int) -> dict[str, Any]:
  """Directions of the neurons of least energy (s = 1), in degrees, ascending."""
  degrees = {}
  for name, half_space in {"full": False, "half": True}.items():
    points, _ = minimize_energy(
      jax.random.key(0), count, 2, Riesz(1.0), half_space=half_space
    )
    angles = np.degrees(np.arctan2(points[:, 1], points[:, 0]))
    degrees[name] = np.sort((angles - angles[0]) % 360.0).round(3).tolist()
  return {"degrees": degrees}


def draw(result: dict[str, Any]):
  """The optimum in full space, and that in half-space: arrows and their lines."""
  from matplotlib.patches import Circle  # noqa: PLC0415  (only when called)

  figure, (panels,) = subplots(1, 2, (7.4, 4.1))
  titles = {"full": "full space", "half": "half-space"}
  for panel, (name, title) in zip(panels, titles.items()):
    angles = [math.radians(a + 20.0) for a in result["degrees"][name]]
    panel.add_patch(Circle((0, 0), 1.0, facecolor="none", edgecolor="#c8c8d0"))
    for angle, color in zip(angles, _COLORS):
      x, y = math.cos(angle), math.sin(angle)
      panel.plot([-1.25 * x, 1.25 * x], [-1.25 * y, 1.25 * y], color=color, lw=0.8)
      if name == "half":
        panel.plot(-x, -y, "o", ms=7, mfc="white", mec=color, zorder=3)
      arrow = {"arrowstyle": "-|>", "color": color, "lw": 2.2, "mutation_scale": 16}
      arrow |= {"shrinkA": 0, "shrinkB": 0}
      panel.annotate("", (x, y), (0, 0), arrowprops=arrow)
    lines = len({round(math.degrees(angle) % 180.0) for angle in angles})
    panel.set_title(f"{title}: {len(angles)} neurons on {lines} lines", fontsize=11)
    panel.set_xlim(-1.3, 1.3)
    panel.set_ylim(-1.3, 1.3)
    panel.set_aspect("equal")
    panel.axis("off")
  return figure
