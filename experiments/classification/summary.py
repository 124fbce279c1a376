"""What the README says of classification: seeds that had no part in any choice."""

import json
import math
import pathlib
from typing import NamedTuple

import numpy as np

from experiments.benchmarks import train_step
from experiments.classification.arms import (
  DATASETS,
  HALF_MHE,
  MHE,
  ORTHONORMAL,
  RELATIVE,
  RELATIVE_ORTHONORMAL,
  warmup_name,
)
from experiments.classification.plan import sweeps_of
from experiments.classification.presets import WARM_UP, Config
from experiments.regularizers import Regularizer
from experiments.report.answers import answered
from experiments.report.cells import difference, mean_and_spread
from experiments.report.columns import Column, columns_of
from experiments.report.markdown import markdown
from experiments.report.pages import bullet
from experiments.report.statistics import holm, paired_difference
from experiments.runs.plan import Sweep
from experiments.runs.results import Results
from experiments.runs.task import Preset

COST = pathlib.Path(__file__).parents[1] / "results" / "benchmark_train_step.json"
# The columns. Of the rival, whichever form a sweep has: none has both.
COLUMNS = {
  "MHE": (MHE,),
  "half-space MHE": (HALF_MHE,),
  "relative units": (RELATIVE,),
  "orthonormal": (ORTHONORMAL, RELATIVE_ORTHONORMAL),
}
KINDS = tuple(kind for kinds in COLUMNS.values() for kind in kinds)


class Line(NamedTuple):
  """A line of the summary.

  Attributes:
    topic: what it is about; :func:`title_of` adds what depends on the preset.
    sweep: whose runs it has,
    column: those of this column.
    rate: of learning rates, that of what is compared with the first row.
  """

  topic: str
  sweep: str
  column: str
  rate: float | None = None


_WARM, _COLD = warmup_name(WARM_UP), warmup_name(0)
LINES = (
  Line(
    "deep and narrow, at the better of two rates", "confirm", f"CNN-15, {_WARM}", 0.1
  ),
  Line("less deep, with a warm-up", "warm", f"CNN-9, {_WARM}"),
  Line(
    "imbalanced CIFAR-10, errors of two rare classes",
    "imbalance",
    "multiple, errors of the classes",
  ),
  Line("the paper's rate and details, with a warm-up", "claims", _WARM),
  Line("the paper's rate and details, no warm-up", "claims", _COLD),
  Line("CIFAR-100", "few", DATASETS["cifar100"]),
  Line("CIFAR-100, a first round", "headline", DATASETS["cifar100"]),
  Line("CIFAR-10", "headline", DATASETS["cifar10"]),
)


def title_of(line: Line, sweep: Sweep[Config]) -> str:
  """With the number of images and the weight of what has no units of its own."""
  arms = [arm for arm in sweep.arms if arm.column == line.column]
  few = "few images of " if arms[0].config.images_per_class else ""
  kinds = [arm.config.regularizer for arm in arms]
  weight = next(x.weight for x in kinds if x.kind == "mhe" and not x.relative)
  return f"{few}{line.topic}; weight {weight:g}"


def summary(preset: Preset, results: Results[Config]) -> str:
  """Whether the energy helped, by how much, how sure that is, and what it cost.

  Empty without runs.
  """
  sweeps = sweeps_of(preset)
  lines = [_line(line, sweeps[line.sweep], results) for line in LINES]
  if not any(lines):
    return ""
  header = ["errors on unseen images, %; differences in points", "seeds", "without"]
  header += COLUMNS
  cost = train_step.costs(json.loads(COST.read_text()))
  bullets = [
    _sure([sweeps[name] for name in dict.fromkeys(x.sweep for x in LINES)], results),
    f"Cost of half-space energies of all layers, in time of a training step: {cost}.",
  ]
  table = markdown(header, *filter(None, lines))
  return "\n".join([table, "", *map(bullet, filter(None, bullets))])


def _sure(sweeps, results):
  """What is left if one accounts for the number of questions."""
  found = [answer for sweep in sweeps for answer in answered(sweep, results)]
  found = [answer for answer in found if not math.isnan(answer.p_value)]
  if not found:
    return ""
  within = sum(answer.p_value < 0.05 for answer in found)
  of_all = holm([paired_difference(x.first, x.second).p_value for x in found])
  return (
    f"Bold counts one comparison. Of {len(found)} pre-registered comparisons whose "
    f"runs converge, {within} have P < 0.05 after the correction for the number in "
    f"their table (Holm), {sum(p < 0.05 for p in of_all)} after that for all of them."
  )


def pairs(
  line: Line, sweep: Sweep[Config], results: Results[Config]
) -> dict[Regularizer, Column[Config]]:
  """Of each regularizer that a line has: its runs and those of the first row.

  Each on all seeds that both have; of several weights, the first.
  """
  first, *others = [arm for arm in sweep.arms if arm.column == line.column]
  found = {}
  for arm in others:
    kind = arm.config.regularizer.unweighted
    if kind in found or kind not in {kind.unweighted for kind in KINDS}:
      continue
    if line.rate in (None, arm.config.learning_rate):
      column = Column(results, [first, arm], sweep.seeds)
      if len(column.arms) == 2 and column.seeds:
        found[kind] = column
  return found


def _line(line, sweep, results):
  """Errors of the first row, and differences to it; of all seeds that a pair has."""
  first = next(arm for arm in sweep.arms if arm.column == line.column)
  alone = Column(results, [first], sweep.seeds)
  if not alone.seeds:
    return None
  found, cells, counts = pairs(line, sweep, results), [], {len(alone.seeds)}
  for kinds in COLUMNS.values():
    pair = next((found[k.unweighted] for k in kinds if k.unweighted in found), None)
    if pair is None:
      cells.append("")
      continue
    counts.add(len(pair.seeds))
    before, after = (pair.values(row) for row in pair.arms)
    # Where training fails without it, there is nothing to compare with.
    cells.append(
      difference(before, after) or f"not compared: error {mean_and_spread(after)}"
    )
  seeds = " to ".join(map(str, sorted({min(counts), max(counts)})))
  return [
    title_of(line, sweep),
    seeds,
    mean_and_spread(alone.values(first.row)),
    *cells,
  ]


def variants(sweep: Sweep[Config], results: Results[Config]) -> str:
  """Of all energies together, and of their rival.

  The energies share a baseline, so that each seed counts once. Nothing is bold: what
  explores proves nothing.
  """
  return "\n".join(
    bullet(text.replace("**", ""))
    for column in columns_of(sweep, results)
    if column.has_rival and (text := _together(column))
  )


def _together(column):
  rows = [r for r, a in column.arms.items() if a.config.regularizer.kind == "mhe"]
  if not rows:
    return ""
  energies = np.mean([column.values(row) for row in rows], 0)
  baseline = column.values(column.rival)
  text = (
    f"{column.title}, mean of {len(rows)} variants of the energy: "
    f"{_effect(baseline, energies)}."
  )
  if ORTHONORMAL.name in column.arms:
    rival = column.values(ORTHONORMAL.name)
    text += (
      f" Orthonormal neurons, the rival: {_effect(baseline, rival)}; compared with "
      f"that mean, {_effect(energies, rival)}."
    )
  return text


def _effect(first, second):
  return difference(list(first), list(second)) or "no convergence"
