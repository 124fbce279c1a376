"""Scores of samples, from what a classifier makes of them."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import scipy.special

NEIGHBORS = 3
GROUPS = 10


class Seen(NamedTuple):
  """What a classifier makes of images.

  Attributes:
    features: what its last layer is given, ``[n, d]``.
    probabilities: of the classes, ``[n, classes]``.
  """

  features: np.ndarray
  probabilities: np.ndarray


class Scores(NamedTuple):
  """Of samples against real images.

  Attributes:
    frechet: :func:`frechet_distance`; smaller is better.
    classifier: :func:`classifier_score`; larger is better, like all that follow.
    precision: see :func:`precision_and_recall`.
    recall: likewise.
  """

  frechet: float
  classifier: float
  precision: float
  recall: float


def classifier_score(probabilities: np.ndarray) -> float:
  """Exp of the mean KL divergence of each image's classes from the mean of all.

  1 if all images have the same probabilities, the number of classes if each is surely
  of one class and all are equally many. The Inception Score (Salimans et al., Improved
  Techniques for Training GANs, NeurIPS 2016) is this of one certain network; values of
  other networks cannot be compared with it.

  Args:
    probabilities: ``[n, classes]``.
  """
  p = np.asarray(probabilities, np.float64)
  divergences = scipy.special.rel_entr(p, p.mean(0, keepdims=True)).sum(1)
  return float(np.exp(divergences.mean()))


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
  r"""Squared Frechet distance of the normal distributions of two sets of features.

  .. math::
    |\mu_1 - \mu_2|^2 + \mathrm{tr}(\Sigma_1) + \mathrm{tr}(\Sigma_2)
    - 2\, \mathrm{tr}\big((\Sigma_1 \Sigma_2)^{1/2}\big)

  The last trace is the sum of the singular values of :math:`L_1^T L_2`, if
  :math:`\Sigma = L L^T`: no square root of a matrix that is not symmetric, whose
  rounding errors make it complex, and nothing singular is inverted.

  Args:
    first: ``[n, d]``, n at least 2.
    second: ``[m, d]``, likewise. Of small sets it is too large: even of the same
      distribution, it is about ``trace * d / n``.

  References:
    Dowson and Landau, The Frechet distance between multivariate normal distributions,
    Journal of Multivariate Analysis 12 (1982); for GANs, Heusel et al., GANs Trained
    by a Two Time-Scale Update Rule, NeurIPS 2017.
  """
  (mean1, root1), (mean2, root2) = map(_moments, (first, second))
  cross = np.linalg.svdvals(root1.T @ root2).sum()
  traces = np.sum(root1**2) + np.sum(root2**2)
  return float(max(np.sum((mean1 - mean2) ** 2) + traces - 2.0 * cross, 0.0))


def _moments(features):
  """Mean ``[d]`` and a root of the covariance ``[d, d]``."""
  x = np.asarray(features, np.float64)
  covariance = np.atleast_2d(np.cov(x, rowvar=False))
  values, vectors = np.linalg.eigh(covariance)
  # Of singular ones, rounding makes some slightly negative.
  return x.mean(0), vectors * np.sqrt(np.maximum(values, 0.0))


def coverage(
  points: np.ndarray, radii: np.ndarray, queries: np.ndarray, chunk: int = 1000
) -> np.ndarray:
  """Which queries lie in some point's ball.

  Args:
    points: ``[n, d]``.
    radii: of their balls ``[n]``, squared.
    queries: ``[m, d]``.
    chunk: queries at a time, which bounds the memory by n times that.

  Returns:
    bool ``[m]``.
  """
  found = [(d <= radii).any(1) for _, d in _squared_distances(queries, points, chunk)]
  return np.concatenate(found)


def neighbor_radii(
  points: np.ndarray, k: int = NEIGHBORS, chunk: int = 1000
) -> np.ndarray:
  """Squared distances of points ``[n, d]`` to their k-th nearest other: ``[n]``."""
  if len(points) <= k:
    raise ValueError(f"there must be more than k = {k} points, got {len(points)}.")
  radii = []
  for start, d in _squared_distances(points, points, chunk):
    rows = np.arange(len(d))
    d[rows, start + rows] = np.inf  # Itself.
    for _ in range(k - 1):  # Three times as fast as np.partition.
      d[rows, d.argmin(1)] = np.inf
    radii.append(d.min(1))
  return np.concatenate(radii)


def _squared_distances(
  queries: np.ndarray, points: np.ndarray, chunk: int
) -> Iterator[tuple[int, np.ndarray]]:
  """Row numbers and distances ``[chunk, n]``, a chunk of the queries after another.

  In the dtype of the features, around whose mean less cancels. Of float32 they are good
  to about 1e-6 of the squared norms.
  """
  center = points.mean(0, dtype=np.float64).astype(points.dtype)
  x, y = queries - center, points - center
  squared = np.sum(y**2, 1)
  for start in range(0, len(x), chunk):
    some = x[start : start + chunk]
    d = some @ (-2.0 * y.T)
    d += squared
    d += np.sum(some**2, 1, keepdims=True)
    yield start, np.maximum(d, 0.0, out=d)


def precision_and_recall(
  real: np.ndarray, samples: np.ndarray, k: int = NEIGHBORS
) -> tuple[float, float]:
  """Shares of samples that look real, and of real images that samples look like.

  A set's region is the union of the balls around its points that reach to their k-th
  nearest neighbors. Precision is the share of the samples in the region of the real
  images, recall that of the real images in the region of the samples.

  Args:
    real: features ``[n, d]``.
    samples: features ``[m, d]``.
    k: which neighbor.

  References:
    Kynkaanniemi et al., Improved Precision and Recall Metric for Assessing Generative
    Models, NeurIPS 2019, equations 1 and 2.
  """
  precision = coverage(real, neighbor_radii(real, k), samples).mean()
  recall = coverage(samples, neighbor_radii(samples, k), real).mean()
  return float(precision), float(recall)


def scores(reference: Seen, samples: Seen) -> Scores:
  """All scores of samples against real images."""
  return Scores(
    frechet_distance(reference.features, samples.features),
    classifier_score(samples.probabilities),
    *precision_and_recall(reference.features, samples.features),
  )


def standard_errors(reference: Seen, samples: Seen, groups: int = GROUPS) -> Scores:
  """Of :func:`scores`, from drawing samples: by a jackknife over groups of them."""
  real, found = reference.features, samples.features
  looks_real = coverage(real, neighbor_radii(real), found)

  def without(rows):
    kept = found[rows]
    return (
      frechet_distance(real, kept),
      classifier_score(samples.probabilities[rows]),
      looks_real[rows].mean(),
      coverage(kept, neighbor_radii(kept), real).mean(),
    )

  return Scores(*jackknife(without, len(found), groups).tolist())


def jackknife(
  score: Callable[[np.ndarray], tuple[float, ...]], count: int, groups: int = GROUPS
) -> np.ndarray:
  """Standard errors of scores, from what they are without each group of samples.

  Unlike a bootstrap it draws no sample twice, which would be its own neighbor, and
  unlike in scores of small parts nearly all samples are in each: both matter to scores
  whose value depends on the number of the samples.

  Args:
    score: of the samples with these row numbers; several scores at once.
    count: of the samples.
    groups: how many; sample i is in group i modulo this.

  References:
    Efron and Stein, The Jackknife Estimate of Variance, Annals of Statistics 9 (1981).
  """
  rows = np.arange(count)
  values = np.array([score(rows[rows % groups != i]) for i in range(groups)])
  return np.sqrt((groups - 1.0) * values.var(0))
