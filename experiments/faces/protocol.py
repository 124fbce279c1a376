"""What is measured of scores: verification and identification, in NumPy alone.

A score is larger the more alike two faces are. A pair is accepted if its score is at
least a threshold.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Roc(NamedTuple):
  """Rates over all thresholds, from the highest, which accepts nothing, down.

  Attributes:
    false: accepted share of the pairs of two people (FAR).
    true: accepted share of the pairs of the same person (TAR).
  """

  false: np.ndarray
  true: np.ndarray


class Verification(NamedTuple):
  """Accuracy over folds, shares of 1.

  Attributes:
    accuracy: mean over the folds.
    standard_error: of that mean.
  """

  accuracy: float
  standard_error: float


def roc(scores: np.ndarray, same: np.ndarray) -> Roc:
  """The curve of all thresholds that differ: from (0, 0) to (1, 1).

  Args:
    scores: of pairs, ``[n]``.
    same: whether a pair is of the same person; of both kinds there must be some.
  """
  order = np.argsort(-scores, kind="stable")
  scores, same = scores[order], same[order]
  ends = np.append(
    np.flatnonzero(np.diff(scores)), len(scores) - 1
  )  # Ties go together.
  true, false = np.cumsum(same)[ends], np.cumsum(~same)[ends]
  return Roc(np.append(0.0, false / false[-1]), np.append(0.0, true / true[-1]))


def true_accept_rate(
  scores: np.ndarray, same: np.ndarray, false_accept_rate: float
) -> float:
  """Largest TAR of all thresholds whose FAR is not above a rate: not interpolated.

  Returns:
    NaN of fewer pairs of two people than make one of them, accepted, that rate.
  """
  if (~same).sum() * false_accept_rate < 1.0 - 1e-9:
    return math.nan
  curve = roc(scores, same)
  return float(curve.true[curve.false <= false_accept_rate * (1 + 1e-12)].max())


def equal_error_rate(scores: np.ndarray, same: np.ndarray) -> float:
  """Where FAR = 1 - TAR, on the lines between the points of the curve."""
  curve = roc(scores, same)
  gap = curve.false - (1.0 - curve.true)  # From -1 to 1, nowhere falling.
  after = int(np.argmax(gap >= 0))
  low, high = gap[after - 1], gap[after]
  share = -low / (high - low)
  return float((1 - share) * curve.false[after - 1] + share * curve.false[after])


def best_threshold(scores: np.ndarray, same: np.ndarray) -> float:
  """Halfway between two scores, where the accuracy is highest; the first if several.

  Below or above all scores, it is infinite.
  """
  levels = np.unique(scores)
  between = (levels[:-1] + levels[1:]) / 2.0
  thresholds = np.concatenate([[-math.inf], between, [math.inf]])
  place = np.searchsorted(levels, scores)
  true = np.cumsum(np.bincount(place[same], minlength=len(levels))[::-1])[::-1]
  false = np.cumsum(np.bincount(place[~same], minlength=len(levels))[::-1])[::-1]
  true, false = np.append(true, 0), np.append(false, 0)
  correct = true + (~same).sum() - false
  return float(thresholds[np.argmax(correct)])


def verify(scores: np.ndarray, same: np.ndarray, folds: np.ndarray) -> Verification:
  """Accuracy of each fold, at the threshold that is best on all the others.

  Args:
    scores: of pairs, ``[n]``.
    same: whether a pair is of the same person.
    folds: of the pairs; two or more.

  References:
    Huang et al., Labeled Faces in the Wild, 2007: the protocol.
  """
  accuracies = []
  for fold in np.unique(folds):
    held_out = folds == fold
    threshold = best_threshold(scores[~held_out], same[~held_out])
    accuracies.append(np.mean((scores[held_out] >= threshold) == same[held_out]))
  error = np.std(accuracies, ddof=1) / math.sqrt(len(accuracies))
  return Verification(float(np.mean(accuracies)), float(error))


def rank_one(
  gallery: np.ndarray,
  owners: np.ndarray,
  distractors: np.ndarray,
  counts: Sequence[int],
) -> list[float]:
  """Share of the probes whose highest score is with the image of their own person.

  A tie is none.

  Args:
    gallery: scores of probes with one image of each person, ``[probes, people]``.
    owners: whose the probes are, places in the gallery, ``[probes]``.
    distractors: scores of the probes with images of others, ``[probes, images]``.
    counts: how many of these there are, the first ones, each at most all.

  Returns:
    A share for each count.
  """
  rows = np.arange(len(owners))
  own = gallery[rows, owners]
  others = gallery.copy()
  others[rows, owners] = -math.inf
  highest = others.max(1)
  shares = []
  for count in counts:
    distracting = distractors[:, :count].max(1, initial=-math.inf)
    shares.append(float(np.mean(own > np.maximum(highest, distracting))))
  return shares
