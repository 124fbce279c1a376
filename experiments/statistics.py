"""Paired comparisons of arms that share their seeds."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats


class Paired(NamedTuple):
  """Mean paired difference (second arm minus first) and how sure it is."""

  difference: float
  standard_error: float
  low: float  # Bounds of the 95% confidence interval (Student's t).
  high: float
  num_pairs: int

  def __str__(self) -> str:
    return (
      f"{self.difference:+.2f} ± {self.standard_error:.2f} (95% interval "
      f"{self.low:+.2f} to {self.high:+.2f}, {self.num_pairs} pairs)"
    )

  @property
  def verdict(self) -> str:
    """What may be said of the first arm's rival, if smaller is better."""
    if self.high < 0:
      return "better"
    return "worse" if self.low > 0 else "not told apart"


def paired_difference(first: Sequence[float], second: Sequence[float]) -> Paired:
  """Compares measurements of two arms; entry i of both has the same seed."""
  if len(first) != len(second) or len(first) < 2:
    raise ValueError(
      "a paired comparison needs two arms of the same length, at least 2, got "
      f"{len(first)} and {len(second)}."
    )
  differences = np.asarray(second, float) - np.asarray(first, float)
  n = len(differences)
  error = float(differences.std(ddof=1)) / math.sqrt(n)
  half_width = float(scipy.stats.t.ppf(0.975, n - 1)) * error
  mean = float(differences.mean())
  return Paired(mean, error, mean - half_width, mean + half_width, n)


def holm(p_values: Sequence[float]) -> list[float]:
  """P values of several comparisons, corrected for their number.

  Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal
  of Statistics 6 (1979).
  """
  corrected, least = {}, 0.0
  for rank, p in enumerate(sorted(p_values)):
    least = max(least, min(1.0, (len(p_values) - rank) * p))
    corrected[p] = least
  return [corrected[p] for p in p_values]
