"""What the cells say of the weights, from their files alone."""

import json
import pathlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple, get_args

import numpy as np

from experiments.errors import InputError
from experiments.report.markdown import markdown
from experiments.weights.presets import FORMS, OUTPUT, Network

# Of ten classes 90% are wrong by chance: what a run that diverged counts as.
CHANCE = 90.0
FAILED = 85.0


class Arm(NamedTuple):
  """Runs with one weight of one form, one for each seed.

  Attributes:
    form: of the energy, or "none".
    weight: of it.
    errors: percent; of a run that diverged, those of chance.
    excess: ``[seeds, layers]``, of the hidden layers at the end of training; of a run
      that diverged, NaN.
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
  """``{name: result}`` of all cells in a folder, in the order of the networks.

  Raises:
    InputError: there is none.
  """
  paths = sorted(folder.glob("*.json"))
  if not paths:
    raise InputError(f"output must have the results of cells, got {folder}.")
  results = {path.stem: json.loads(path.read_text()) for path in paths}
  return dict(sorted(results.items(), key=lambda item: _order(item[1]["config"])))


def _order(config):
  network = get_args(Network).index(config["network"])
  return network, config["width"], config["space"] != "half", config["s"]


def arms_of(result: dict) -> list[Arm]:
  """The arms of a cell, of which the first has no energy."""
  hidden = [i for i, path in enumerate(result["layers"]) if path != OUTPUT]
  return [
    Arm(
      arm["form"],
      arm["weight"],
      np.array([_error_of(run) for run in arm["runs"]]),
      np.array([run["excess"] for run in arm["runs"]], float)[:, hidden],
    )
    for arm in result["arms"]
  ]


def _error_of(run):
  return CHANCE if run["test_error"] is None else run["test_error"]


def report(results: dict[str, dict]) -> str:
  """Tables in Markdown: one weight, where it serves, what it does, how to choose it."""
  return f"""\
A cell is a network, a width, a potential and a space. Error: of the test images, in
points, minus that of the same seed without the energy; mean over the cells, ± the
standard deviation of that mean over the seeds. Better, worse: cells by the mean over
their seeds, and in brackets those in which all seeds agree. Failures: runs that
diverged, which count as {CHANCE:g}% error, or have above {FAILED:g}%. Excess: of the
hidden layers of all runs that did not diverge; 1 is random directions, 0 the bound.

{markdown(*one_weight(results))}

The same differences in parts of the cells, with the weight of each form that has the
lowest error over all of them.

{markdown(*where(results))}

What these weights leave of the excess: median of the hidden layers, of the narrow and
of the wide network.

{markdown(*remains(results))}

That weight is chosen by the errors that are shown. Here a weight is chosen by the other
seeds, and the error is that of the seed left out; mean over the seeds, ± their standard
deviation.

{markdown(*choices(results))}"""


def one_weight(results: dict[str, dict]) -> Iterator[list[str]]:
  """Rows of a table: a form and a weight, over all cells."""
  yield [
    *("form", "weight", "error", "better", "worse", "worst cell", "failures"),
    *("excess: median", "middle 80%", "largest"),
  ]
  cells = [arms_of(result) for result in results.values()]
  for form, weight in _numbered(cells):
    arms = _column(cells, form, weight)
    changes = _changes(cells, form, weight)
    excess = _excess(arms)
    runs = sum(len(arm.errors) for arm in arms)
    low, median, high = np.quantile(excess, [0.1, 0.5, 0.9])
    yield [
      form,
      f"{weight:g}",
      _difference(changes),
      _cells_below_0(changes),
      _cells_below_0(-changes),
      f"{changes.mean(1).max():+z.1f}",
      f"{sum(arm.failures for arm in arms)} of {runs}",
      f"{median:.2g}",
      f"{low:.2g} to {high:.2g}",
      f"{excess.max():.2g}",
    ]


def where(results: dict[str, dict]) -> Iterator[list[str]]:
  """Rows of a table: a part of the cells, and each form's best single weight in it."""
  best = best_weights(results)
  yield ["cells", "without", *(f"{form}, {w:g}" for form, w in best.items())]
  parts: dict[str, list[list[Arm]]] = {}
  for name in ("{network} x {width}", "widths x {width}", "{space}, s = {s:g}"):
    for result in results.values():
      part = parts.setdefault(name.format(**result["config"]), [])
      part.append(arms_of(result))
  for name, cells in parts.items():
    without = np.mean([arms[0].errors for arms in cells], 0)
    differences = [_difference(_changes(cells, *arm)) for arm in best.items()]
    yield [name, f"{without.mean():z.1f} ± {without.std(ddof=1):.1f}", *differences]


def remains(results: dict[str, dict]) -> Iterator[list[str]]:
  """Rows of a table: a network, and the excess of its widths with the best weights."""
  arms = [("none", 0.0), *best_weights(results).items()]
  yield ["network", "without", *(f"{form}, {w:g}" for form, w in arms[1:])]
  networks: dict[str, dict[int, list[list[Arm]]]] = {}
  for result in results.values():
    widths = networks.setdefault(result["config"]["network"], {})
    widths.setdefault(result["config"]["width"], []).append(arms_of(result))
  for network, widths in networks.items():
    row = [network]
    for arm in arms:
      medians = [np.median(_excess(_column(cells, *arm))) for cells in widths.values()]
      row.append(", ".join(f"{median:.2g}" for median in medians))
    yield row


def choices(results: dict[str, dict]) -> Iterator[list[str]]:
  """Rows of a table: a weight for all cells or one for each, by the other seeds."""
  yield ["form", "one weight, by the other seeds", "error", "a weight for each cell"]
  cells = [arms_of(result) for result in results.values()]
  for form in FORMS:
    weights = _weights(cells, form)
    if not weights:
      continue
    changes = np.array([_changes(cells, form, weight) for weight in weights])
    chosen, one, own = [], [], []
    for seed in range(changes.shape[-1]):
      others = np.delete(changes, seed, -1).mean(-1)
      best = others.mean(-1).argmin()
      chosen.append(f"{weights[best]:g}")
      one.append(changes[best, :, seed])
      own.append(np.take_along_axis(changes[..., seed], others.argmin(0)[None], 0)[0])
    differences = [_difference(np.transpose(each)) for each in (one, own)]
    yield [form, ", ".join(chosen), *differences]


def best_weights(results: dict[str, dict]) -> dict[str, float]:
  """``{form: weight}`` with the lowest error over all cells."""
  cells = [arms_of(result) for result in results.values()]
  return {
    form: min(weights, key=lambda w: _changes(cells, form, w).mean())
    for form in FORMS
    if (weights := _weights(cells, form))
  }


def _weights(cells, form):
  return [weight for name, weight in _numbered(cells) if name == form]


def _numbered(cells: Iterable[list[Arm]]):
  """``(form, weight)`` in their order."""
  return list(dict.fromkeys(arm[:2] for arms in cells for arm in arms))


def _column(cells, form, weight):
  return [arm for arms in cells for arm in arms if arm[:2] == (form, weight)]


def _excess(arms):
  """Of all layers and seeds; runs that diverged are left out."""
  excess = np.concatenate([arm.excess.ravel() for arm in arms])
  return excess[np.isfinite(excess)]


def _changes(cells, form, weight):
  """Differences of the error, ``[cells, seeds]``."""
  without = [arms[0].errors for arms in cells]
  return np.subtract([arm.errors for arm in _column(cells, form, weight)], without)


def _difference(changes):
  seeds = changes.mean(0)
  return f"{seeds.mean():+z.1f} ± {seeds.std(ddof=1):.1f}"


def _cells_below_0(changes):
  """By the mean over the seeds, and in all seeds."""
  return f"{(changes.mean(1) < 0).sum()} ({(changes < 0).all(1).sum()})"
