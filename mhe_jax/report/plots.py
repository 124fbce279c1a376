r"""Pictures of a report: the excess of its layers, and the angles of one.

The angle :math:`\theta` between two random directions of d dimensions has the density
:math:`\sin^{d - 2} \theta / B(\tfrac12, \tfrac{d - 1}2)`; that of two lines is twice as
much, up to a right angle.
"""

from typing import Any

import numpy as np
import scipy

from mhe_jax.report.errors import InputError
from mhe_jax.report.parts import ASSUMED
from mhe_jax.report.spectrum import unit_rows
from mhe_jax.report.tables import shown

_MOST = 1024  # Neurons of which all pairs are drawn; of more, a sample.


def plot_excess(rows, ax=None) -> Any:
  """A bar for the relative excess of each layer, and a line at random directions.

  Args:
    rows: of a report.
    ax: of matplotlib, to draw to; a new one by default.

  Returns:
    The axes.
  """
  rows = [row for row in rows if np.isfinite(row.relative_excess)]
  ax = ax or _axes((7.0, 1.0 + 0.22 * max(len(rows), 4)))
  colors = ["0.7" if row.evidence == ASSUMED else "C0" for row in rows]
  places = np.arange(len(rows))[::-1]
  ax.barh(places, [row.relative_excess for row in rows], color=colors)
  ax.set_yticks(places, [shown(row.name) for row in rows], fontsize=7)
  ax.axvline(1.0, color="k", linewidth=1, linestyle="--", label="random directions")
  ax.set_xlabel("relative excess (0: lower bound)")
  ax.legend(fontsize=7)
  return ax


def plot_angles(w: np.ndarray, *, half_space: bool, name: str = "", ax=None) -> Any:
  """The angles of all pairs of neurons, against the law of random directions.

  Args:
    w: sets of neurons ``[sets, n, d]``; angles are within a set. Of more than 1,024
      neurons in one, those of a sample.
    half_space: of lines, up to 90 degrees.
    name: of the layer.
    ax: of matplotlib, to draw to; a new one by default.

  Returns:
    The axes.
  """
  ax = ax or _axes((6.0, 3.6))
  angles = np.concatenate([_angles(x, half_space) for x in w])
  d, top = w.shape[-1], 90.0 if half_space else 180.0
  ax.hist(angles, bins=90, range=(0.0, top), density=True, label="pairs of neurons")
  if d > 1:
    theta = np.linspace(1e-3, top - 1e-3, 500)
    log_density = (d - 2) * np.log(np.sin(np.radians(theta)))
    log_density -= scipy.special.betaln(0.5, (d - 1) / 2)
    density = np.exp(log_density) * (2.0 if half_space else 1.0) * np.pi / 180.0
    ax.plot(theta, density, "k--", linewidth=1, label=f"random directions, d = {d}")
  ax.set_xlabel("angle between lines (degrees)" if half_space else "angle (degrees)")
  ax.set_ylabel("density")
  ax.set_title(shown(name), fontsize=9)
  ax.legend(fontsize=7)
  return ax


def _angles(w, half_space) -> np.ndarray:
  if len(w) > _MOST:
    w = w[np.random.default_rng(0).choice(len(w), _MOST, replace=False)]
  u = unit_rows(np.asarray(w))
  u = u[np.linalg.norm(u, axis=1) > 0]
  cosines = np.clip((u @ u.T)[np.triu_indices(len(u), 1)], -1.0, 1.0)
  return np.degrees(np.arccos(np.abs(cosines) if half_space else cosines))


def _axes(size):
  try:
    from matplotlib.figure import Figure  # noqa: PLC0415
  except ImportError as error:
    raise InputError("A picture needs a library: pip install matplotlib.") from error
  return Figure(figsize=size, layout="constrained").add_subplot()
