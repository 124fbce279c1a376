"""Paired comparisons of arms that share their seeds."""

import math
import warnings
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
  p_value: float  # Of the hypothesis that there is no difference.

  def __str__(self) -> str:
    return (
      f"{self.difference:+z.2f} ± {self.standard_error:.2f} (95% interval "
      f"{self.low:+z.2f} to {self.high:+z.2f}, {self.num_pairs} pairs)"
    )

  @property
  def verdict(self) -> str:
    """What may be said of the first arm's rival, if smaller is better."""
    if self.high < 0:
      return "better"
    return "worse" if self.low > 0 else "no significant difference"


def paired_difference(first: Sequence[float], second: Sequence[float]) -> Paired:
  """Compares measurements of two arms; entry i of both has the same seed.

  All numbers are NaN where a measurement is not finite: a run diverged.
  """
  if len(first) != len(second) or len(first) < 2:
    raise ValueError(
      "a paired comparison needs two arms of the same length, at least 2, got "
      f"{len(first)} and {len(second)}."
    )
  n = len(first)
  if not np.isfinite([first, second]).all():
    return Paired(math.nan, math.nan, math.nan, math.nan, n, math.nan)
  differences = np.subtract(second, first)
  mean, error = differences.mean(), scipy.stats.sem(differences)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Of differences that are equal up to rounding.
    test = scipy.stats.ttest_rel(second, first)
    low, high = test.confidence_interval(0.95)
  p_value = test.pvalue
  if np.ptp(differences) == 0:  # The test divides by their spread.
    low, high, p_value = mean, mean, mean == 0
  mean, error, low, high, p_value = map(float, (mean, error, low, high, p_value))
  return Paired(mean, error, low, high, n, p_value)


def holm(p_values: Sequence[float]) -> list[float]:
  """P values of several comparisons, corrected for their number.

  What is NaN stays NaN and does not count: where a run diverged, nothing was compared.

  Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal
  of Statistics 6 (1979).
  """
  p = np.asarray(p_values, float)
  order = np.argsort(p)[: np.isfinite(p).sum()]  # NaN comes last.
  corrected = np.full(len(p), np.nan)
  factors = np.arange(len(order), 0, -1)
  corrected[order] = np.minimum(1.0, np.maximum.accumulate(factors * p[order]))
  return corrected.tolist()
