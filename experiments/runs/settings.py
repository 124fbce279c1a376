"""Settings: of their declared types, equal where they mean the same, and named."""

import dataclasses
import functools
import hashlib
import json
import math
import numbers
import typing
from typing import Any, Literal, Self

import numpy as np

from experiments.errors import InputError


class Settings:
  """What a frozen dataclass of settings derives from; all of its fields have defaults.

  Every value is made to be of the type of its field. A whole number where another one
  is wanted becomes that, a list a tuple: runs are named by the text of their settings,
  in which 10 and 10.0 differ. Settings may be fields of others.

  Raises:
    InputError: a value is of another type, no finite number, or none of the choices.
  """

  def __post_init__(self):
    for name, kind in _kinds(type(self)).items():
      value = _converted(getattr(self, name), kind, name)
      object.__setattr__(self, name, value)

  @classmethod
  def from_json(cls, settings: dict) -> Self:
    """Settings as the JSON of a result has them; what is newer has its default.

    Raises:
      TypeError: an unknown setting.
      InputError: one that it cannot have.
    """
    values = dict(settings)
    for name, kind in _kinds(cls).items():
      if _are_settings(kind) and isinstance(values.get(name), dict):
        values[name] = kind.from_json(values[name])
    return cls(**values)

  def changes(self) -> dict[str, Any]:
    """Those that are not the defaults: what is added later renames no finished run."""
    default = type(self)()
    changes = {}
    for name in _kinds(type(self)):
      value = getattr(self, name)
      if value != getattr(default, name):
        changes[name] = value.changes() if isinstance(value, Settings) else value
    return changes

  def check_least(self, **least: float) -> None:
    """Names the first number that is less than it may be.

    Raises:
      InputError: there is one.
    """
    for name, value in least.items():
      if getattr(self, name) < value:
        raise InputError(f"{name} must be at least {value}, got {getattr(self, name)}.")


@dataclasses.dataclass(frozen=True)
class RunSettings(Settings):
  """Everything that the numbers of a run depend on; by it, the run is named.

  Attributes:
    dataset: what it learns from.
    steps: updates.
    measurements: how often it is measured on the way, and saved if it is time to.
    seed: of all that is random.
  """

  dataset: str
  steps: int
  measurements: int
  seed: int

  def __post_init__(self):
    super().__post_init__()
    self.check_least(steps=1, measurements=1, seed=0)
    if self.steps % self.measurements:
      raise InputError(
        f"steps must be a multiple of measurements, got {self.steps} and "
        f"{self.measurements}."
      )
    if self.seed >= 2**32:
      raise InputError(f"seed must be less than 2**32, got {self.seed}.")

  @property
  def data_sets(self) -> tuple[str, ...]:
    """All that a run reads: runs of the same ones have the same data."""
    return (self.dataset,)

  @property
  def label(self) -> str:
    """What is read in the name of a run; letters, digits, and ``_-``."""
    raise NotImplementedError

  @property
  def name(self) -> str:
    """Name of the run: readable, and different for different settings."""
    text = json.dumps(self.changes(), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{self.label}_seed{self.seed}_{digest}"

  @property
  def steps_between(self) -> int:
    """Steps from one measurement to the next."""
    return self.steps // self.measurements


@functools.cache
def _kinds(cls):
  """Types of the fields of a dataclass, by name."""
  hints = typing.get_type_hints(cls)
  return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _are_settings(kind):
  return isinstance(kind, type) and issubclass(kind, Settings)


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
