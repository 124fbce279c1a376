"""Tables and the picture of docs/pruning.md, from the JSON of the runs.

  python -m experiments.pruning.report --output docs
  python -m experiments.pruning.report --results FOLDER

Writes OUTPUT/pruning.md and OUTPUT/images/pruning.png. Of a page that is there already,
only what stands between "<!-- NAME -->" and "<!-- end of NAME -->" is replaced.
"""

import pathlib
from fractions import Fraction
from typing import Any

import numpy as np
import scipy.stats
import tyro
from rich.console import Console

from experiments.errors import InputError, make_folder, told_in_a_line
from experiments.pruning.orders import CRITERIA
from experiments.pruning.training import ARMS, STATISTICS, read
from experiments.report.cells import difference, mean_and_spread
from experiments.report.figures import save_all, subplots
from experiments.report.markdown import markdown
from experiments.report.pages import filled
from experiments.report.statistics import holm, paired_difference

RESULTS = pathlib.Path(__file__).parents[1] / "results" / "pruning"
_NAMES = {
  "energy": "highest energy",
  "twins": "twins",
  "norm": "smallest norm",
  "scale": "smallest scale",
  "random": "random",
}
_COLORS = {
  "energy": "#c8102e",
  "twins": "#e0a100",
  "norm": "#1f4e9c",
  "scale": "#5b9bd5",
  "random": "#777777",
}
_ARMS = {"without": "trained without energy", "energy": "trained with energy"}
_STATISTICS = {"kept": "statistics kept", "estimated": "statistics estimated again"}
_UP_TO = 0.25  # Share up to which errors are averaged: beyond, all networks are lost.


class Pairs:
  """The runs of those seeds that all arms have.

  Attributes:
    seeds: of these, in ascending order.
    config: of the runs, which they share.
  """

  def __init__(self, runs: list[dict[str, Any]]):
    seeds = [{r["seed"] for r in runs if r["arm"] == arm} for arm in ARMS]
    self.seeds = sorted(set.intersection(*seeds))
    if len(self.seeds) < 2:
      raise InputError(
        f"results must have two seeds or more of both arms, got {self.seeds}."
      )
    self._runs = {(r["arm"], r["seed"]): r for r in runs}
    self.config = runs[0]["config"]

  def of(self, arm: str) -> list[dict[str, Any]]:
    """Runs of an arm, by seed."""
    return [self._runs[arm, seed] for seed in self.seeds]

  def errors(self, arm: str, statistics: str, criterion: str) -> np.ndarray:
    """Test errors ``[seeds, 1 + shares]``, first those of the whole network."""
    return np.asarray(
      [[r["test_error"], *r["pruned"][statistics][criterion]] for r in self.of(arm)]
    )

  def means(self, arm: str, statistics: str, criterion: str) -> list[float]:
    """Of every seed the mean error over the shares up to a quarter."""
    few = [i for i, share in enumerate(self.config["shares"], 1) if share <= _UP_TO]
    return self.errors(arm, statistics, criterion)[:, few].mean(1).tolist()


def blocks(pairs: Pairs) -> dict[str, str]:
  """What is generated, by name."""
  return {
    "against random": _against_random(pairs),
    **{name: _errors(pairs, name) for name in STATISTICS},
    "with and without": _with_and_without(pairs),
    "layers": _layers(pairs),
  }


def _against_random(pairs):
  """Mean errors up to a quarter, paired with those of random removal."""
  rows = [
    (statistics, criterion, arm)
    for statistics in STATISTICS
    for criterion in CRITERIA
    if criterion != "random"
    for arm in ARMS
  ]
  compared = [
    (pairs.means(arm, statistics, "random"), pairs.means(arm, statistics, criterion))
    for statistics, criterion, arm in rows
  ]
  p_values = holm([paired_difference(*errors).p_value for errors in compared])
  cells = {
    row: f"{difference(*errors)}, P {p:.3g}"
    for row, errors, p in zip(rows, compared, p_values)
  }
  lines = [
    [
      _STATISTICS[statistics],
      _NAMES[criterion],
      *(cells[statistics, criterion, a] for a in ARMS),
    ]
    for statistics, criterion, _ in rows[:: len(ARMS)]
  ]
  return markdown(["batch norm", "removed first", *_ARMS.values()], *lines)


def _errors(pairs, statistics):
  """Errors of every share."""
  shares = [0.0, *pairs.config["shares"]]
  header = ["", "removed first", *map(_fraction, shares)]
  lines = []
  for arm in ARMS:
    for criterion in CRITERIA:
      errors = pairs.errors(arm, statistics, criterion)
      cells = [mean_and_spread(column, 1) for column in errors.T]
      lines.append([_ARMS[arm], _NAMES[criterion], *cells])
  return markdown(header, *lines)


def _with_and_without(pairs):
  """Errors with energy minus those without: the whole network, and up to a quarter."""
  whole = [pairs.errors(arm, "kept", "random")[:, 0].tolist() for arm in ARMS]
  rows = [
    (criterion, statistics) for criterion in CRITERIA for statistics in STATISTICS
  ]
  compared = [
    [pairs.means(arm, statistics, criterion) for arm in ARMS]
    for criterion, statistics in rows
  ]
  p_values = holm([paired_difference(*errors).p_value for errors in compared])
  cells = {
    row: f"{difference(*errors)}, P {p:.3g}"
    for row, errors, p in zip(rows, compared, p_values)
  }
  lines = [["none", difference(*whole), difference(*whole)]]
  for criterion in CRITERIA:
    own = [cells[criterion, statistics] for statistics in STATISTICS]
    lines.append([_NAMES[criterion], *own])
  return markdown(["removed first", *_STATISTICS.values()], *lines)


def _layers(pairs):
  """How redundant the layers are before anything is removed."""
  names = {
    "excess": "excess",
    "smallest_angle": "closest pair",
    "median_angle": "nearest neuron, median",
  }
  header = ["layer", *(f"{name}, {arm}" for name in names.values() for arm in ARMS)]
  lines = []
  for path in pairs.of("without")[0]["excess"]:
    cells = [
      mean_and_spread([run[key][path] for run in pairs.of(arm)], 2 - (key != "excess"))
      for key in names
      for arm in ARMS
    ]
    lines.append([path.removesuffix("/kernel"), *cells])
  return markdown(header, *lines)


def _fraction(share):
  return f"{Fraction(share)}"


def draw(pairs: Pairs):
  """Accuracy over the share that is removed, mean over the seeds and its interval."""
  shares = np.asarray([0.0, *pairs.config["shares"]])
  figure, axes = subplots(2, 2, (8.5, 6.2), sharex=True, sharey=True)
  for row, statistics in zip(axes, STATISTICS):
    for panel, arm in zip(row, ARMS):
      for criterion, shift in zip(CRITERIA, np.linspace(-0.006, 0.006, len(CRITERIA))):
        accuracy = 100.0 - pairs.errors(arm, statistics, criterion)
        half = scipy.stats.sem(accuracy) * scipy.stats.t.ppf(0.975, len(accuracy) - 1)
        panel.errorbar(
          shares + shift * (shares > 0),
          accuracy.mean(0),
          half,
          color=_COLORS[criterion],
          linestyle="--" if criterion == "random" else "-",
          linewidth=1.6,
          elinewidth=0.8,
          marker="o",
          markersize=3,
          label=_NAMES[criterion],
        )
      panel.axhline(10.0, color="black", linewidth=0.6, linestyle=":")
      panel.set_title(f"{_ARMS[arm]}, {_STATISTICS[statistics]}", fontsize=10)
    row[0].set_ylabel("test accuracy, %")
  for panel in axes[-1]:
    panel.set_xlabel("share of the channels removed, of every convolution")
    panel.set_xticks(shares, [_fraction(share) for share in shares])
  handles, labels = axes[0, 0].get_legend_handles_labels()
  figure.legend(
    handles, labels, loc="outside lower center", ncols=5, title="removed first"
  )
  return figure


def main(
  results: pathlib.Path = RESULTS,
  output: pathlib.Path = pathlib.Path("runs"),
) -> None:
  """Makes the tables and the picture.

  Args:
    results: folder of the JSON of the runs.
    output: folder of pruning.md and images; "docs" for those of the documentation.
  """
  console = Console()
  with told_in_a_line(console):
    pairs = Pairs(read(results))
    texts, path = blocks(pairs), output / "pruning.md"
    page = filled(path, "Pruning", texts)
    make_folder(output / "images")
  path.write_text(page)
  save_all([(output / "images" / "pruning.png", draw(pairs))])
  console.print(texts["against random"], highlight=False, soft_wrap=True)
  console.print(f"Wrote {path} and a picture.", highlight=False)


if __name__ == "__main__":
  tyro.cli(main)
