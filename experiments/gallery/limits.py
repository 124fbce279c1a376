"""Many points on the sphere in three dimensions, and what theory says of them."""

import math
from typing import Any

import jax
import numpy as np
import scipy.special

from experiments.report.figures import subplots
from mhe_jax import Riesz, minimize_energy, nearest_neurons, uniform_energy

SETTINGS = {
  "cpu": {
    "counts": [4, 6, 8, 12, 18, 24, 32, 50, 100, 200],
    "exponents": [0.0, 1.0, 20.0],
    "restarts": 2,
  },
  "smoke": {"counts": [4], "exponents": [1.0], "restarts": 1},
}
_COLORS = {0.0: "#1f4e9c", 1.0: "#c8102e", 20.0: "#e0a100"}


def compute(counts: list[int], exponents: list[float], restarts: int) -> dict[str, Any]:
  """Least energies and the smallest distances of their points.

  Args:
    counts: of points, N.
    exponents: s, of the Riesz energies.
    restarts: random starts of each minimization.

  Returns:
    ``"energies"``, summed over i < j, and ``"distances"``, both ``[s][N]``.
  """
  energies, distances = [], []
  for s in exponents:
    found = [
      minimize_energy(jax.random.key(0), n, 3, Riesz(s), num_restarts=restarts)
      for n in counts
    ]
    energies.append([float(energy) for _, energy in found])
    angles = [nearest_neurons(points)[0].min() for points, _ in found]
    distances.append([float(2.0 * np.sin(angle / 2.0)) for angle in angles])
  return {"energies": energies, "distances": distances}


def least_energy(n: int | np.ndarray, s: float):
  """The least energy of many points, sum over i < j: its first terms.

  The sum over i and j is V N^2 + C N^(1 + s / 2), with the mean energy V of random
  directions; for s = 0 it is V N^2 - N log(N) / 2 + C N. C is that of points in a
  hexagonal lattice, which is conjectured; the powers are proved.

  Args:
    n: number of points on the sphere in three dimensions.
    s: exponent, from 0 to below 2.

  References:
    Brauchart, Hardin and Saff, The next-order term for optimal Riesz and logarithmic
    energy asymptotics on the sphere, Contemporary Mathematics 578, 2012, conjectures
    3 and 4.
  """
  first = uniform_energy(3, Riesz(s)) * n**2
  if s == 0:
    constant = 2.0 * math.log(2.0) + 0.5 * math.log(2.0 / 3.0)
    constant += 3.0 * math.log(math.sqrt(math.pi) / math.gamma(1.0 / 3.0))
    return 0.5 * (first - 0.5 * n * np.log(n) + constant * n)
  lattice = 6.0 * float(scipy.special.zeta(s / 2.0)) * _character_sum(s / 2.0)
  constant = (math.sqrt(3.0) / 2.0 / (4.0 * math.pi)) ** (s / 2.0) * lattice
  return 0.5 * (first + constant * n ** (1.0 + s / 2.0))


def _character_sum(x, terms=10_000):
  """1 - 2^-x + 4^-x - 5^-x + 7^-x - ..., x > 0; its rest by Euler and Maclaurin."""

  def term(k):
    return (3.0 * k + 1.0) ** -x - (3.0 * k + 2.0) ** -x

  def integral(k):  # From k on; the primitive of both powers, where x is not 1.
    return ((3.0 * k + 2.0) ** (1.0 - x) - (3.0 * k + 1.0) ** (1.0 - x)) / (
      3.0 * (1.0 - x)
    )

  return float(term(np.arange(terms)).sum() + integral(terms) + 0.5 * term(terms))


def largest_distance(n: np.ndarray) -> np.ndarray:
  """No n points on the sphere are all farther apart; reached for n = 3, 4, 6, 12.

  References:
    Fejes Toth, Jahresbericht der Deutschen Mathematiker-Vereinigung 53, 1943.
  """
  return np.sqrt(4.0 - np.sin(np.pi * n / (6.0 * (n - 2.0))) ** -2.0)


def draw(result: dict[str, Any]):
  """Energy over N^2 where s < 2, and the smallest distance times sqrt(N)."""
  settings = result["settings"]
  n, exponents = np.asarray(settings["counts"], float), settings["exponents"]
  energies = dict(zip(exponents, np.asarray(result["energies"])))
  distances = dict(zip(exponents, np.asarray(result["distances"])))
  # Of larger s the energy of the uniform measure is infinite.
  bounded = [s for s in exponents if s < 2.0]
  figure, (panels,) = subplots(1, len(bounded) + 1, (3.5 * len(bounded) + 3.5, 3.5))
  smooth = np.geomspace(n.min(), n.max(), 200)
  for panel, s in zip(panels, bounded):
    limit = uniform_energy(3, Riesz(s))
    panel.axhline(limit, color="black", linewidth=0.8)
    _name_line(panel, n.min(), limit, f"uniform measure: {limit:.4g}")
    curve = 2.0 * least_energy(smooth, s) / smooth**2
    panel.plot(smooth, curve, color="#777777", linewidth=1.0, label="theory, two terms")
    panel.plot(
      n, 2.0 * energies[s] / n**2, "o", ms=4, color=_COLORS[s], label="least energies"
    )
    panel.set_ylabel("energy / N²")
    panel.set_title(f"s = {s:g}", fontsize=10)
    panel.legend(fontsize=8, loc="lower right", frameon=False)
  right = panels[-1]
  packing = math.sqrt(8.0 * math.pi / math.sqrt(3.0))
  right.axhline(packing, color="black", linewidth=0.8)
  _name_line(right, n.min(), packing, f"(8π/√3)$^{{1/2}}$ = {packing:.3f}")
  right.plot(
    smooth, largest_distance(smooth) * smooth**0.5, color="#777777", linewidth=1.0,
    label="upper bound",
  )  # fmt: skip
  for s, distance in distances.items():
    right.plot(
      n, distance * n**0.5, "o-", ms=4, lw=0.6, color=_COLORS[s], label=f"s = {s:g}"
    )
  right.set_ylabel("smallest distance x √N")
  right.set_title("distance of the closest pair", fontsize=10)
  right.legend(fontsize=8, frameon=False)
  for panel in panels:
    panel.set_xscale("log")
    panel.set_xticks(ticks := [4, 10, 30, 100, 200], list(map(str, ticks)))
    panel.minorticks_off()
    panel.set_xlabel("points, N")
  return figure


def _name_line(panel, x, y, text):
  panel.annotate(
    text, (x, y), xytext=(0, -4), textcoords="offset points", fontsize=9, va="top"
  )
