"""Checks of arguments, whose messages name the argument and what it got."""

import math
import operator
from typing import Any

from jax.core import Tracer


def check_count(name: str, count: Any, least: int) -> int:
  """``count`` as an int; a ValueError unless it is a whole number >= least."""
  try:
    number = operator.index(count)
  except TypeError:
    number = None
  if number is None or number < least:
    raise ValueError(f"{name} must be a whole number >= {least}, got {count!r}.")
  return number


def check_weight(name: str, weight: Any) -> None:
  """Raises unless a weight is a number >= 0; traced weights are taken as given."""
  if isinstance(weight, Tracer):
    return
  try:
    if isinstance(weight, str):
      raise TypeError("a string")
    number = float(weight)
  except (TypeError, ValueError) as error:
    raise TypeError(f"{name} must be a number, got {weight!r}.") from error
  if not (math.isfinite(number) and number >= 0):
    raise ValueError(f"{name} must be finite and >= 0, got {number}.")
