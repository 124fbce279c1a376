"""Signs of projections as codes: neighbors and angles from bits alone."""

from typing import Any

import numpy as np

from experiments.data.digits import read_digits
from experiments.directions.sets import directions, forms_of
from experiments.directions.wasserstein import principal_components

SETTINGS = {
  "cpu": {
    "d": 16, "bits": 256, "queries": 500, "neighbors": 10, "seeds": list(range(8)),
  },
  "smoke": {"d": 4, "bits": 16, "queries": 20, "neighbors": 10, "seeds": [0, 1, 2]},
}  # fmt: skip


def vectors(d: int, queries: int) -> tuple[np.ndarray, np.ndarray]:
  """Digits as unit vectors of their principal components: queries, and all others."""
  images, _ = read_digits()
  x = principal_components(images.reshape(len(images), -1) / 255.0, d)
  x = x / np.linalg.norm(x, axis=1, keepdims=True)
  x = x[np.random.default_rng(0).permutation(len(x))]
  return x[:queries], x[queries:]


def codes(x: np.ndarray, units: np.ndarray) -> np.ndarray:
  """Signs of the projections, ``[vectors, bits]`` of -1 and 1."""
  return np.where(x @ units.T >= 0.0, np.float32(1.0), np.float32(-1.0))


def angles(first: np.ndarray, second: np.ndarray) -> np.ndarray:
  """In radians, from the share of the bits that differ: ``[first, second]``."""
  return np.pi * (0.5 - 0.5 * (first @ second.T) / first.shape[1])


def nearest(distances: np.ndarray, k: int) -> np.ndarray:
  """The k nearest ``[rows, k]``; of equally near ones, which codes have, the first."""
  return np.argsort(distances, 1, kind="stable")[:, :k]


def recall(found: np.ndarray, true: np.ndarray) -> float:
  """Share of the true neighbors that were found, in percent."""
  both = (found[:, :, None] == true[:, None, :]).any(1)
  return float(100.0 * both.mean())


def compute(
  d: int, bits: int, queries: int, neighbors: int, seeds: list[int]
) -> dict[str, Any]:
  """Recall and angles of every form.

  Args:
    d: principal components.
    bits: directions, of which each gives one.
    queries: images whose neighbors are looked for among all others.
    neighbors: of each query.
    seeds: of the directions.

  Returns:
    ``"recall"``, in percent, and ``"angle"``, the mean error in degrees:
    ``{form: [seeds]}``.
  """
  first, second = vectors(d, queries)
  true = np.arccos(np.clip(first @ second.T, -1.0, 1.0))
  of_true = nearest(true, neighbors)
  result = {"recall": {}, "angle": {}}
  for form in forms_of(d):
    recalls, errors = [], []
    for seed in seeds:
      units = directions(form, bits, d, seed)
      estimates = angles(codes(first, units), codes(second, units))
      recalls.append(round(recall(nearest(estimates, neighbors), of_true), 3))
      errors.append(round(float(np.degrees(np.abs(estimates - true).mean())), 5))
    result["recall"][form], result["angle"][form] = recalls, errors
  return result
