"""Values of settings: of their declared types, and the same where they are equal."""

import dataclasses
import functools
import math
import numbers
import typing
from typing import Any, Literal

import numpy as np

from experiments.errors import InputError


def normalize(settings: Any) -> None:
  """Makes every value of a frozen dataclass be of the type of its field.

  A whole number where another one is wanted becomes that, a list a tuple: runs are
  named by the text of their settings, in which 10 and 10.0 differ.

  Raises:
    InputError: a value is of another type, no finite number, or none of the choices.
  """
  for name, kind in _kinds(type(settings)).items():
    value = _converted(getattr(settings, name), kind, name)
    object.__setattr__(settings, name, value)


@functools.cache
def _kinds(cls):
  """Types of the fields of a dataclass, by name."""
  hints = typing.get_type_hints(cls)
  return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _converted(value, kind, name):
  origin, arguments = typing.get_origin(kind), typing.get_args(kind)
  if origin is Literal:
    if isinstance(value, str) and value in arguments:
      return str(value)
  elif origin is tuple:
    if isinstance(value, (tuple, list)):
      same = arguments[-1] is Ellipsis
      kinds = arguments[:1] * len(value) if same else arguments
      if len(kinds) == len(value):
        return tuple(_converted(x, kind, name) for x, kind in zip(value, kinds))
  elif kind in (int, float):
    if _is_finite_number(value) and (kind is float or value == int(value)):
      return kind(value) + kind(0)  # Makes 0.0 of -0.0.
  elif kind is bool:
    if isinstance(value, (bool, np.bool_)):
      return bool(value)
  elif isinstance(value, kind):
    return value
  raise InputError(f"{name} must be {_in_words(kind)}, got {value!r}.")


def _is_finite_number(value):
  """Of Python's types, a bool is a number, too."""
  is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
  return is_number and math.isfinite(value)


def _in_words(kind):
  if typing.get_origin(kind) is Literal:
    return f"one of {', '.join(typing.get_args(kind))}"
  if typing.get_origin(kind) is tuple:
    return f"of type {kind}"
  words = {int: "a whole number", float: "a finite number", bool: "True or False"}
  return words.get(kind, f"of type {kind.__name__}")
