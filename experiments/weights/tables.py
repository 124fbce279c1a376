"""What the cells say of the weights, from their files alone."""

import json
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from experiments.errors import InputError
from experiments.markdown import markdown
from experiments.weights.presets import FORMS

# Of ten classes 90% are wrong by chance: what a run that diverged counts as.
CHANCE = 90.0
FAILED = 85.0


class Arm(NamedTuple):
  """Runs with one weight of one form, one for each seed.

  Attributes:
    form: of the energy, or "none".
    weight: of it.
    errors: percent; of a run that diverged, those of chance.
    excess: ``[seeds, layers]``, at the end of training; of a run that diverged, NaN.
  """

  form: str
  weight: float
  errors: np.ndarray
  excess: np.ndarray

  @property
  def failures(self) -> int:
    """Runs that diverged, or learned next to nothing."""
    return int((self.errors > FAILED).sum())


def read(folder: pathlib.Path) -> dict[str, dict]:
  """``{name: result}`` of all cells in a folder.

  Raises:
    InputError: there is none.
  """
  paths = sorted(folder.glob("*.json"))
  if not paths:
    raise InputError(f"output must have the results of cells, got {folder}.")
  return {path.stem: json.loads(path.read_text()) for path in paths}


def arms_of(result: dict) -> list[Arm]:
  """The arms of a cell, of which the first has no energy."""
  return [
    Arm(
      arm["form"],
      arm["weight"],
      np.array([_error_of(run) for run in arm["runs"]]),
      np.array([run["excess"] for run in arm["runs"]], float),
    )
    for arm in result["arms"]
  ]


def _error_of(run):
  return CHANCE if run["test_error"] is None else run["test_error"]


def report(results: dict[str, dict]) -> str:
  """Two tables in Markdown: of one weight in all cells, and of each cell's best."""
  return "\n".join(
    [
      "One weight in all cells. Difference of the test error from training without the",
      "energy, in points: mean over the cells, and worst cell. Failures: runs that",
      f"diverged, which count as {CHANCE:g}% error, or have above {FAILED:g}%. Excess:",
      "of the middle 80% of all layers, hidden and output; 1 is random directions.",
      "",
      markdown(*one_weight(results)),
      "",
      "Each cell's best weight of a form, of those with no more failures than training",
      "without the energy has, and the test error with it, mean ± standard deviation.",
      "",
      markdown(*best_weights(results)),
      "",
    ]
  )


def one_weight(results: dict[str, dict]) -> Iterator[list[str]]:
  """Rows of a table: a form and a weight, over all cells."""
  yield ["form", "weight", "error", "worst cell", "failures", "excess"]
  cells = [arms_of(result) for result in results.values()]
  numbered = {(arm.form, arm.weight): None for arms in cells for arm in arms}
  for form, weight in numbered:
    pairs = [
      (arms[0], arm) for arms in cells for arm in arms if arm[:2] == (form, weight)
    ]
    changes = [np.mean(arm.errors - without.errors) for without, arm in pairs]
    failures = sum(arm.failures for _, arm in pairs)
    runs = sum(len(arm.errors) for _, arm in pairs)
    excess = np.concatenate([arm.excess.ravel() for _, arm in pairs])
    # NaN comes last, as what is largest.
    low, high = np.sort(excess)[[len(excess) // 10, -1 - len(excess) // 10]]
    yield [
      form,
      f"{weight:g}",
      f"{np.mean(changes):+.1f}",
      f"{max(changes):+.1f}",
      f"{failures} of {runs}",
      f"{low:.2g} to {high:.2g}" if np.isfinite(high) else f"{low:.2g} to diverged",
    ]


def best_weights(results: dict[str, dict]) -> Iterator[list[str]]:
  """Rows of a table: a cell, and the best weight of every form."""
  yield ["cell", "without", *FORMS]
  for name, result in results.items():
    without, *others = arms_of(result)
    row = [name, _spread(without.errors)]
    for form in FORMS:
      safe = [
        arm for arm in others if arm.form == form and arm.failures <= without.failures
      ]
      best = min(safe, key=lambda arm: arm.errors.mean(), default=None)
      row.append(f"{best.weight:g}: {_spread(best.errors)}" if best else "")
    yield row


def _spread(errors):
  return f"{errors.mean():.1f} ± {errors.std(ddof=1):.1f}"
