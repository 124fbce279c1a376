"""Finished runs of classification, found by their configuration."""

import dataclasses
import json
import math
import pathlib

import numpy as np

from experiments.config import Config
from experiments.models import OUTPUT
from experiments.paper import TUNING_SEED, Arm

# A setting that is newer than a result has, for that result, its default.
_DEFAULTS = json.loads(json.dumps(dataclasses.asdict(Config())))


class Results:
  """Finished runs of a folder.

  Args:
    folder: with a JSON file for each.

  Raises:
    ValueError: it is not there, or a file is no result.
  """

  def __init__(self, folder: pathlib.Path):
    if not folder.is_dir():
      raise ValueError(f"the folder of the results must exist, got {folder}.")
    self._runs = {}
    for path in sorted(folder.glob("*.json")):
      try:
        result = json.loads(path.read_text())
        config = _DEFAULTS | result["config"]
      except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not the result of a run: {error!r}") from error
      seed = config.pop("seed")
      self._runs.setdefault(json.dumps(config, sort_keys=True), {})[seed] = result

  def of(self, config: Config) -> dict[int, dict]:
    """``{seed: result}`` of the runs of a configuration, as :class:`Arm` says."""
    key = json.loads(json.dumps(dataclasses.asdict(config)))
    tuning = key.pop("seed") == TUNING_SEED
    runs = self._runs.get(json.dumps(key, sort_keys=True), {})
    return {s: runs[s] for s in sorted(runs) if (s == TUNING_SEED) == tuning}


def values(results: Results, arm: Arm, measure: str | None = None) -> dict[int, float]:
  """``{seed: measure}``, the error if none is named."""
  runs = results.of(arm.config)
  return {seed: number(run[measure or arm.measure]) for seed, run in runs.items()}


def pairs(
  results: Results, arm: Arm, rival: Arm, measure: str | None = None
) -> tuple[list[float], list[float]]:
  """Measures of an arm and its rival, for the seeds that both have."""
  first, second = values(results, arm, measure), values(results, rival, measure)
  seeds = [seed for seed in first if seed in second]
  return [first[seed] for seed in seeds], [second[seed] for seed in seeds]


def hidden_excess(measurement: dict) -> float:
  """Mean relative excess of the hidden layers at one step of a run."""
  excess = measurement["excess"]
  hidden = [number(v) for layer, v in excess.items() if layer != OUTPUT]
  return float(np.mean(hidden))


def number(x: float | None) -> float:
  """JSON has no NaN, which diverged runs have: it has null."""
  return math.nan if x is None else x
