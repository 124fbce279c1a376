"""Finished runs of a task, found by their settings."""

import dataclasses
import json
import math
import pathlib
from typing import Generic

from experiments.errors import InputError
from experiments.runs.task import S


def settings_of(path: pathlib.Path, settings: type[S]) -> S:
  """Those of a result.

  Args:
    path: its JSON file.
    settings: their class.

  Raises:
    InputError: the file is no result.
  """
  try:
    config = json.loads(path.read_text())["config"]
    if not isinstance(config, dict):
      raise TypeError(f"config must be an object, got {config!r}")
    return settings.from_json(config)
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise InputError(f"{path} is not the result of a run: {error!r}") from error


class Results(Generic[S]):
  """Finished runs of a folder.

  Args:
    folder: with a JSON file for each.
    settings: class of their settings.

  Raises:
    InputError: it is not there, a file is no result, two are of the same run, or of
      different data that are called the same.
  """

  def __init__(self, folder: pathlib.Path, settings: type[S]):
    if not folder.is_dir():
      raise InputError(f"the folder of the results must exist, got {folder}.")
    self._runs: dict[S, dict[int, dict]] = {}
    sources = {}
    for path in sorted(folder.glob("*.json")):
      config = settings_of(path, settings)
      result = json.loads(path.read_text())
      source = result.get("data")
      data = source.get("fingerprint") if isinstance(source, dict) else None
      if data is None:
        raise InputError(f"{path} must have the fingerprint of its data, got none.")
      if data != (other := sources.setdefault(config.data_sets, data)):
        raise InputError(
          f"{path} must have the data of the results beside it, {other}, got {data}."
        )
      runs = self._runs.setdefault(_without_seed(config), {})
      if config.seed in runs:
        raise InputError(f"{path} has the settings of another result beside it.")
      runs[config.seed] = result

  def of(self, config: S) -> dict[int, dict]:
    """``{seed: result}`` of the runs of a configuration, whatever its seed."""
    return self._runs.get(_without_seed(config), {})


def _without_seed(config):
  return dataclasses.replace(config, seed=0)


def from_json(x: float | None) -> float:
  """JSON has no NaN, which diverged runs have: it has null."""
  return math.nan if x is None else x
