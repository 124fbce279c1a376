"""Points on the sphere in three dimensions, as their energy falls."""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.spatial

from experiments.gallery.limits import least_energy
from experiments.report.figures import subplots
from mhe_jax import Riesz, hyperspherical_energy

SETTINGS = {
  "cpu": {"counts": [4, 12, 32, 200], "steps": 1500, "frames": 64, "seed": 3},
  "smoke": {"counts": [4, 6], "steps": 200, "frames": 4, "seed": 3},
}
# Thomson's problem, sum over i < j: Wales and Ulker, Physical Review B 74, 2006.
KNOWN = {4: 3.674234614, 12: 49.165253058, 32: 412.261274651}
_SPREAD = 0.35  # Of the start: standard deviation around one direction.
_COLORS = "plasma_r"
_SEEN_THROUGH = 100  # Points; of more only the front is drawn.
_LEAST_SHOWN = 1e-4  # Percent above the least energy; float32 tells no less.


def compute(counts: list[int], steps: int, frames: int, seed: int) -> dict[str, Any]:
  """Descent of the Coulomb energy (s = 1), from points that are alike.

  Args:
    counts: of points.
    steps: of the descent.
    frames: how many moments are kept, the first and the last among them.
    seed: of the starts.

  Returns:
    ``"moments"``, the steps that are kept; of every count N the points at these,
    ``[frames, N, 3]``, and their energies, summed over i < j.
  """
  # As many early moments as late ones: a step moves less and less.
  moments = np.unique(np.geomspace(1, steps + 1, frames).round().astype(int)) - 1
  sets = []
  for count in counts:
    key = jax.random.fold_in(jax.random.key(seed), count)
    start = _SPREAD * jax.random.normal(key, (count, 3), jnp.float32)
    start = start.at[:, 2].add(1.0)  # Toward whoever looks at the picture.
    points, energies = _descend(start, steps)
    sets.append(
      {
        "points": np.asarray(points, float)[moments].round(4).tolist(),
        "energies": np.asarray(energies, float)[moments].tolist(),
      }
    )
  return {"moments": moments.tolist(), "sets": sets}


@functools.partial(jax.jit, static_argnums=1)
def _descend(start, steps):
  """Points and energies ``[steps + 1, ...]``, the start among them."""
  count = len(start)
  distance = (8.0 * np.pi / 3.0**0.5 / count) ** 0.5  # Of neighbors in the end.

  def energy(x):
    return hyperspherical_energy(x, Riesz(1.0), reduction="sum")

  def step(x, _):
    value, slope = jax.value_and_grad(energy)(x)
    # The inverse of how stiff a pair of neighbors is, and never a jump.
    move = -0.15 * distance**3 * slope
    size = jnp.linalg.norm(move, axis=1, keepdims=True)
    move = move * jnp.minimum(1.0, 0.1 * distance / jnp.maximum(size, 1e-9))
    y = x + move
    return y / jnp.linalg.norm(y, axis=1, keepdims=True), (x, value)

  start = start / jnp.linalg.norm(start, axis=1, keepdims=True)
  _, (points, energies) = jax.lax.scan(step, start, length=steps + 1)
  return points, energies


def least(count: int) -> tuple[float, str]:
  """The least energy of so many points, and how it is known."""
  if count in KNOWN:
    return KNOWN[count], "known minimum"
  return float(least_energy(count, 1.0)), "theory for large N"


def draw(result: dict[str, Any]):
  """The start, on the way, and the end; below, how far above the least energy."""
  counts, sets = result["settings"]["counts"], result["sets"]
  figure, axes = subplots(
    4, len(counts), (2.3 * len(counts), 9.2), height_ratios=(1, 1, 1, 0.75)
  )
  for column, count, points in zip(axes.T, counts, sets):
    energies = np.asarray(points["energies"])
    lowest, how = least(count)
    middle = int(np.argmin(abs(energies - lowest - 0.1 * (energies[0] - lowest))))
    places = {"start": 0, "on the way": middle, "end": -1}
    for panel, (name, moment) in zip(column, places.items()):
      draw_points(panel, np.asarray(points["points"][moment]), name == "end")
      panel.set_title(f"energy {_number(energies[moment])}", fontsize=9)
      if count == counts[0]:
        panel.text(-1.25, 0, name, rotation=90, va="center", ha="center", fontsize=10)
    excess = 100.0 * (energies / lowest - 1.0)
    steps = np.asarray(result["moments"]) + 1
    shown = np.where(excess > _LEAST_SHOWN, excess, np.nan)
    column[3].plot(steps, shown, color="#c8102e", clip_on=False)
    column[3].set_xscale("log")
    column[3].set_yscale("log")
    column[3].set_xlim(1, steps[-1])
    column[3].set_ylim(_LEAST_SHOWN, 1e3)
    column[3].set_xlabel("step", fontsize=9)
    column[3].set_title(f"{how}\n{_number(lowest)}", fontsize=9)
    column[3].tick_params(labelsize=8)
    if count != counts[0]:
      column[3].tick_params(labelleft=False)
  axes[3, 0].set_ylabel("energy above\nthe least, %", fontsize=9)
  for panel, count in zip(axes[0], counts):
    panel.set_title(f"N = {count}\n{panel.get_title()}", fontsize=9)
  return figure


def _number(energy):
  return f"{energy:,.4f}" if energy < 1000 else f"{energy:,.1f}"


def animate(result: dict[str, Any], path: pathlib.Path) -> None:
  """Writes the descent as a GIF; its last picture stays for a while."""
  import matplotlib.pyplot as plt  # noqa: PLC0415  (only when called)
  from matplotlib.animation import FuncAnimation, PillowWriter  # noqa: PLC0415

  counts, sets = result["settings"]["counts"], result["sets"]
  figure, (row,) = plt.subplots(
    1, len(counts), figsize=(1.9 * len(counts), 2.3), squeeze=False,
    gridspec_kw={"left": 0.01, "right": 0.99, "top": 0.83, "bottom": 0.01},
  )  # fmt: skip
  last = len(result["moments"]) - 1

  def show(frame):
    for panel, count, points in zip(row, counts, sets):
      panel.clear()
      moment = min(frame, last)
      draw_points(panel, np.asarray(points["points"][moment]), moment == last)
      energy = points["energies"][moment]
      digits = 2 if energy < 1000 else 0
      panel.set_title(f"N = {count}\nenergy {energy:,.{digits}f}", fontsize=9)

  animation = FuncAnimation(figure, show, frames=last + 16)
  animation.save(path, PillowWriter(fps=10), dpi=100)
  plt.close(figure)


def draw_points(panel, points, with_edges):
  """The sphere from the front: near points are large and dark, far ones pale."""
  from matplotlib.collections import LineCollection  # noqa: PLC0415
  from matplotlib.patches import Circle  # noqa: PLC0415

  panel.add_patch(Circle((0, 0), 1.0, facecolor="#f4f4f6", edgecolor="#b0b0b8"))
  x, y, z = points.T
  if with_edges:
    edges = _edges(points)
    if len(points) > _SEEN_THROUGH:
      edges = edges[z[edges].min(1) > 0]
    depth = z[edges].mean(1)
    order = np.argsort(depth)
    shades = np.interp(depth[order], (-1, 1), (0.86, 0.35))
    lines = LineCollection(
      list(points[edges[order], :2]), colors=[str(s) for s in shades],
      linewidths=np.interp(depth[order], (-1, 1), (0.5, 1.1)), zorder=2,
    )  # fmt: skip
    panel.add_collection(lines)
  order = np.argsort(z)
  if len(points) > _SEEN_THROUGH and with_edges:
    order = order[z[order] > 0]
  size = np.interp(len(points), (4, 200), (70, 11))
  panel.scatter(
    x[order], y[order], c=z[order], cmap=_COLORS, vmin=-1.6, vmax=1.15, zorder=3,
    s=size * np.interp(z[order], (-1, 1), (0.4, 1.2)), linewidths=0,
  )  # fmt: skip
  panel.set_xlim(-1.08, 1.08)
  panel.set_ylim(-1.08, 1.08)
  panel.set_aspect("equal")
  panel.axis("off")


def _edges(points):
  """Pairs of neighbors ``[edges, 2]``: the edges of the convex hull."""
  triangles = scipy.spatial.ConvexHull(points).simplices
  pairs = np.sort(
    np.concatenate([triangles[:, [0, 1]], triangles[:, 1:], triangles[:, [0, 2]]]), 1
  )
  return np.unique(pairs, axis=0)
