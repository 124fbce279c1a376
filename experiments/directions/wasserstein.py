"""Sliced Wasserstein distances, from few directions against from very many."""

import functools
import itertools
from typing import Any

import numpy as np

from experiments.data.digits import read_digits
from experiments.data.photographs import read_photographs
from experiments.directions.sets import directions, forms_of, orthogonal_blocks

COLORS = "colors of photographs"
DIGITS = "digits"
SETTINGS = {
  "cpu": {
    "cases": [
      *([COLORS, 3, n] for n in (8, 32, 64, 128)),
      *([DIGITS, d, n] for d, n in itertools.product((5, 10), (32, 128))),
    ],
    "points": 400,
    "many": 8000,
    "seeds": list(range(8)),
  },
  "smoke": {
    "cases": [[COLORS, 3, 8], [DIGITS, 5, 8]],
    "points": 20,
    "many": 60,
    "seeds": [0, 1, 2],
  },
}  # fmt: skip


@functools.cache
def clouds(data: str, d: int, points: int) -> np.ndarray:
  """Sets of as many points each, ``[clouds, points, d]``.

  Args:
    data: ``COLORS``, of the quarters of three photographs; or ``DIGITS``, the classes,
      in their first principal components.
    d: dimensions: 3 for colors.
    points: of each set, drawn from it.
  """
  rng = np.random.default_rng(0)
  if data == COLORS:
    sets = [
      part.reshape(-1, 3) / 255.0
      for photograph in read_photographs()
      for half in np.array_split(photograph, 2)
      for part in np.array_split(half, 2, axis=1)
    ]
  else:
    images, labels = read_digits()
    components = principal_components(images.reshape(len(images), -1) / 255.0, d)
    sets = [components[labels == label] for label in range(10)]
  return np.stack([x[rng.choice(len(x), points, replace=False)] for x in sets])


def principal_components(x: np.ndarray, d: int) -> np.ndarray:
  """Of points ``[n, dimensions]`` their first coordinates ``[n, d]``, centered."""
  centered = x - x.mean(0)
  _, axes = np.linalg.eigh(centered.T @ centered)
  return centered @ axes[:, : -d - 1 : -1]


def squared_distances(points: np.ndarray, units: np.ndarray) -> np.ndarray:
  """Means over directions of the squared distances W_2 of the projections.

  Args:
    points: ``[clouds, points, d]``.
    units: directions ``[n, d]``.

  Returns:
    Of all pairs of clouds, ``[pairs]``.
  """
  total = 0.0
  for some in np.array_split(units, -(-len(units) // 500)):  # Memory.
    projections = np.sort(np.einsum("cpd,nd->cnp", points, some), -1)
    total = total + np.stack(
      [
        np.sum((projections[i] - projections[j]) ** 2) / points.shape[1]
        for i, j in itertools.combinations(range(len(points)), 2)
      ]
    )
  return np.asarray(total) / len(units)


@functools.cache
def truth(data: str, d: int, points: int, many: int) -> np.ndarray:
  """Distances ``[pairs]`` from very many directions.

  In three dimensions nodes of Gauss and of the trapezoid rule; elsewhere orthogonal
  blocks, which leave nothing to chance in what the means of the clouds contribute.
  """
  if d == 3:
    units, weights = product_rule(many)
    found = [
      squared_distances(clouds(data, d, points), ring)
      for ring in units.reshape(len(weights), -1, 3)
    ]
    return np.sqrt(weights @ np.stack(found))
  units = orthogonal_blocks(many, d, np.random.default_rng(0))
  return np.sqrt(squared_distances(clouds(data, d, points), units))


def product_rule(many: int) -> tuple[np.ndarray, np.ndarray]:
  """About so many nodes on a half of the sphere, ring by ring, and rings' weights."""
  rings = max(2, round((many / 4.0) ** 0.5))
  heights, weights = np.polynomial.legendre.leggauss(2 * rings)
  heights, weights = heights[rings:], weights[rings:]
  angles = 2.0 * np.pi * (np.arange(4 * rings) + 0.5) / (4 * rings)
  radius = np.sqrt(1.0 - heights**2)
  nodes = [radius[:, None] * np.cos(angles), radius[:, None] * np.sin(angles)]
  nodes += [np.broadcast_to(heights[:, None], nodes[0].shape)]
  return np.stack(nodes, -1).reshape(-1, 3), weights


def error(found: np.ndarray, true: np.ndarray) -> float:
  """Root mean square of the relative errors of distances ``[pairs]``, in percent."""
  return float(100.0 * np.sqrt(np.mean((found / true - 1.0) ** 2)))


def error_of(points: np.ndarray, units: np.ndarray, true: np.ndarray) -> float:
  """That of the distances from a set of directions."""
  return error(np.sqrt(squared_distances(points, units)), true)


def compute(
  cases: list[tuple[str, int, int]], points: int, many: int, seeds: list[int]
) -> dict[str, Any]:
  """Errors of every form.

  Args:
    cases: data, dimensions, number of directions.
    points: of each cloud.
    many: directions of what is taken for the truth.
    seeds: of the directions.

  Returns:
    ``"errors"``: of each case ``{form: [seeds]}``; ``"precision"``: of each case by how
    much the truth changes, in percent, with half as many directions.
  """
  found, precision = [], []
  for data, d, n in cases:
    half, whole = (truth(data, d, points, count) for count in (many // 2, many))
    precision.append(round(error(half, whole), 6))
    of_case = {}
    for form in forms_of(d):
      if form == "tight frame" and n < d:
        continue
      of_case[form] = [
        round(
          error_of(
            clouds(data, d, points),
            directions(form, n, d, seed),
            truth(data, d, points, many),
          ),
          6,
        )
        for seed in seeds
      ]
    found.append(of_case)
  return {"errors": found, "precision": precision}
