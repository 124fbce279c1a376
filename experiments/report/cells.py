"""Cells of tables: numbers of several runs in words."""

import math
from collections.abc import Iterable

import numpy as np

from experiments.report.statistics import paired_difference


def mean_and_spread(numbers: Iterable[float], digits: int = 2) -> str:
  """Mean and standard deviation."""
  numbers = list(numbers)
  count = len(numbers)
  numbers = [x for x in numbers if math.isfinite(x)]
  if not count:
    return ""
  if not numbers:
    return "no convergence"
  if len(numbers) < count:
    rest = mean_and_spread(numbers, digits)
    return f"{count - len(numbers)} of {count} do not converge, others {rest}"
  text = f"{np.mean(numbers):z.{digits}f}"
  return f"{text} ± {np.std(numbers, ddof=1):.{digits}f}" if len(numbers) > 1 else text


LEAST_PAIRS = 3  # An interval of two is as wide as these happen to differ.


def difference(first: list[float], second: list[float], digits: int = 2) -> str:
  """Mean paired difference and its 95% interval; bold if that excludes zero.

  Of less than three pairs the number of pairs instead of an interval.
  """
  if not first or not np.all(np.isfinite([*first, *second])):
    return ""
  if len(first) < LEAST_PAIRS:
    pairs = "1 pair" if len(first) == 1 else f"{len(first)} pairs"
    return f"{np.mean(np.subtract(second, first)):+z.{digits}f} ({pairs})"
  paired = paired_difference(first, second)
  text = f"{paired.difference:+z.{digits}f}"
  if paired.verdict != "no significant difference":
    text = f"**{text}**"
  return f"{text} ({paired.low:+z.{digits}f} to {paired.high:+z.{digits}f})"


def reported(paper: float | None, rival: float | None) -> str:
  """What a paper reports, and its difference to what it is compared with there.

  Args:
    paper: its number, if it has one; NaN where it says that training does not converge.
    rival: that of the row which the others are compared with; None for that row.
  """
  if paper is None:
    return ""
  if math.isnan(paper):
    return "no convergence"
  if rival is None or math.isnan(rival):
    return f"{paper:.2f}"
  return f"{paper:.2f} ({paper - rival:+z.2f})"
