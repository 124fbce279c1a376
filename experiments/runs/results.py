"""Finished runs of classification, found by their configuration."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Sequence

import numpy as np

from experiments.classification.paper import Arm, Sweep
from experiments.classification.presets import Config, settings_of
from experiments.errors import InputError
from experiments.models import OUTPUT


class Results:
  """Finished runs of a folder.

  Args:
    folder: with a JSON file for each.

  Raises:
    InputError: it is not there, a file is no result, two are of the same run, or of
      different images that are called the same.
  """

  def __init__(self, folder: pathlib.Path):
    if not folder.is_dir():
      raise InputError(f"the folder of the results must exist, got {folder}.")
    self._runs, sources = {}, {}
    for path in sorted(folder.glob("*.json")):
      config = settings_of(path)
      result = json.loads(path.read_text())
      images = result.get("data", {}).get("fingerprint")
      if images is None:
        raise InputError(f"{path} must have the fingerprint of its images, got none.")
      if images != sources.setdefault(config.dataset, images):
        raise InputError(
          f"{path} must have the images of the results beside it, "
          f"{sources[config.dataset]}, got {images}."
        )
      runs = self._runs.setdefault(_without_seed(config), {})
      if config.seed in runs:
        raise InputError(f"{path} has the settings of another result beside it.")
      runs[config.seed] = result

  def of(self, config: Config) -> dict[int, dict]:
    """``{seed: result}`` of the runs of a configuration, whatever its seed."""
    return self._runs.get(_without_seed(config), {})


def _without_seed(config):
  return dataclasses.replace(config, seed=0)


class Column:
  """A column of a table: its arms that have runs, on the seeds that all these share.

  Args:
    results: the runs.
    arms: of one column of a sweep, first the one that the others are compared with.
    seeds: of the sweep.

  Attributes:
    title: of the column.
    arms: ``{row: arm}`` of those that have runs.
    rival: row of what the others are compared with.
    seeds: of the runs of every arm.
    left_out: how many runs have other seeds.
  """

  def __init__(self, results: Results, arms: Sequence[Arm], seeds: range):
    self.title, self.rival = arms[0].column, arms[0].row
    found = {
      arm.row: {s: r for s, r in results.of(arm.config).items() if s in seeds}
      for arm in arms
    }
    self.arms = {arm.row: arm for arm in arms if found[arm.row]}
    shared = [set(found[row]) for row in self.arms]
    self.seeds = sorted(set.intersection(*shared)) if shared else []
    self._runs = {row: [found[row][s] for s in self.seeds] for row in self.arms}
    self.left_out = sum(map(len, shared)) - len(self.seeds) * len(self.arms)

  @property
  def has_rival(self) -> bool:
    """Whether there is something to compare with."""
    return self.rival in self.arms

  def runs(self, row: str) -> list[dict]:
    """Of an arm, in the order of the seeds; none if it has none."""
    return self._runs.get(row, [])

  def values(self, row: str, measure: str | None = None) -> list[float]:
    """A measure of these runs, NaN if they diverged; the error if none is named."""
    name = measure or self.arms[row].measure
    return [
      math.nan if run.get("test_loss", 0.0) is None else number(run[name])
      for run in self.runs(row)
    ]


def columns_of(sweep: Sweep, results: Results) -> list[Column]:
  """Those that have runs."""
  titles = dict.fromkeys(arm.column for arm in sweep.arms)
  columns = [
    Column(results, [arm for arm in sweep.arms if arm.column == title], sweep.seeds)
    for title in titles
  ]
  return [column for column in columns if column.seeds]


def hidden_excess(measurement: dict) -> float:
  """Median relative excess of the hidden layers at one step: one may be far off."""
  excess = measurement["excess"]
  hidden = [number(v) for layer, v in excess.items() if layer != OUTPUT]
  return float(np.median(hidden))


def number(x: float | None) -> float:
  """JSON has no NaN, which diverged runs have: it has null."""
  return math.nan if x is None else x
