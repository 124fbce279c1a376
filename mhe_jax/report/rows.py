"""Rows of the reports: plain numbers, which survive a file of JSON."""

import dataclasses
import math
from typing import Any, ClassVar

import numpy as np

from mhe_jax.objectives.relative import RecommendedExcess
from mhe_jax.potentials.base import Potential
from mhe_jax.report.chance import excess_spread, verdict
from mhe_jax.report.changes import Change, change_of
from mhe_jax.report.layers import StoredLayer
from mhe_jax.report.measures import Energy, as_computed, energy_of, geometry_of


@dataclasses.dataclass(frozen=True)
class RedundancyRow:
  """One layer of a :class:`RedundancyReport`.

  Of several sets in a tensor (experts, gates) numbers are means over the sets; the
  smallest angle is the smallest of all, and ``zero_neurons`` their total. What cannot
  be told is NaN.

  Attributes:
    name: of the tensor as stored, with the part of a fused one, as ``[q]``.
    shape: of the tensor.
    dtype: as stored.
    role: ``"hidden"`` or ``"output"``.
    read_as: where its neurons were taken to be.
    evidence: what excludes other readings: ``"rule"``, ``"program"``, ``"class"``,
      ``"config"``, ``"neighbors"`` (tensors beside it), ``"name"``; ``"assumed"`` if
      nothing does.
    sets: number of independent sets of neurons.
    n: neurons of a set.
    d: weights of a neuron.
    half_space: whether w and -w count as one direction.
    relative_excess: 0 is the lower bound, 1 random directions; of neurons that are not
      zero.
    excess_error: its standard error; 0 if it is exact.
    verdict: ``"redundant"``, ``"at chance"``, ``"below chance"`` or ``"unknown"``.
    potential: of the energy.
    energy: mean pair energy; neurons that are zero count as orthogonal to all others.
    energy_error: its standard error; 0 if it is exact.
    smallest_angle: in degrees.
    closest: the two neurons at it, by number; of several sets, that of the set first.
    twins: share of the neurons with another nearer than ``twin_angle``.
    twin_angle: in degrees; among as many random directions, the probability of any
      such pair is less than 1%.
    mean_squared_cosine: of all pairs; by chance 1 / d.
    effective_rank: of the unit rows, by entropy.
    zero_neurons: number of neurons that are zero.
    is_sampled: whether energy, smallest angle and twins are from a sample.
  """

  name: str
  shape: tuple[int, ...]
  dtype: str
  role: str
  read_as: str
  evidence: str
  sets: int
  n: int
  d: int
  half_space: bool
  relative_excess: float
  excess_error: float
  verdict: str
  potential: str
  energy: float
  energy_error: float
  smallest_angle: float
  closest: tuple[int, ...] | None
  twins: float
  twin_angle: float
  mean_squared_cosine: float
  effective_rank: float
  zero_neurons: int
  is_sampled: bool

  # In the order of which a report is sorted, the largest first.
  order: ClassVar[str] = "relative_excess"


@dataclasses.dataclass(frozen=True)
class ComparisonRow:
  """One layer of a :class:`ComparisonReport`: numbers of both, and what changed.

  Of several sets in a tensor, means; root mean squares of the distances.

  Attributes:
    name: of the tensor as stored, with the part of a fused one.
    shape: of the tensor.
    role: ``"hidden"`` or ``"output"``.
    read_as: where its neurons were taken to be.
    evidence: what excludes other readings: ``"rule"``, ``"program"``, ``"class"``,
      ``"config"``, ``"neighbors"`` (tensors beside it), ``"name"``; ``"assumed"`` if
      nothing does.
    sets: number of independent sets of neurons.
    n: neurons of a set.
    d: weights of a neuron.
    half_space: whether w and -w count as one direction, in the energies.
    potential: of the energies.
    excess_before: relative excess in the base.
    excess_after: and in the checkpoint.
    excess_change: the difference.
    excess_error: standard error of that; 0 if it is exact.
    energy_before: mean pair energy in the base.
    energy_after: and in the checkpoint.
    energy_change: the difference.
    energy_error: standard error of that; 0 if it is exact.
    cosine_change: root mean square, over all pairs, of the change of their cosine.
    moved: root mean square distance that a direction moved, 2 at most.
    moved_unrotated: what of it is left after the best orthogonal map of all neurons.
    norm_ratio: Frobenius norm over that in the base.
    weight_change: Frobenius norm of the difference over that of the base.
    is_sampled: whether the energies are from a sample; all else is exact.
  """

  name: str
  shape: tuple[int, ...]
  role: str
  read_as: str
  evidence: str
  sets: int
  n: int
  d: int
  half_space: bool
  potential: str
  excess_before: float
  excess_after: float
  excess_change: float
  excess_error: float
  energy_before: float
  energy_after: float
  energy_change: float
  energy_error: float
  cosine_change: float
  moved: float
  moved_unrotated: float
  norm_ratio: float
  weight_change: float
  is_sampled: bool

  order: ClassVar[str] = "cosine_change"


@dataclasses.dataclass(frozen=True)
class Options:
  """What the numbers depend on besides the weights.

  Attributes:
    potential: of the energies; ``RECOMMENDED`` is ``Riesz(2.0)``, and less in fewer
      than four dimensions.
    half_space: of hidden layers.
    exact_up_to: the most neurons of which all pairs are looked at.
  """

  potential: Potential | RecommendedExcess
  half_space: bool
  exact_up_to: int

  @property
  def usual(self) -> Potential:
    """The potential of all layers but those of few dimensions."""
    return self.potential_in(4)

  def potential_in(self, d: int) -> Potential:
    """The potential of layers in d dimensions."""
    if isinstance(self.potential, RecommendedExcess):
      return self.potential.potential_in(d)
    return self.potential


def redundancy_row(
  layer: StoredLayer, tensor: np.ndarray, options: Options
) -> RedundancyRow:
  """Measures a layer, one set at a time."""
  half_space = options.half_space and layer.part.role == "hidden"
  sets, n, d = layer.shape
  potential = options.potential_in(d)
  energies, geometries = [], []
  for w in map(as_computed, layer.part.matrices(tensor)):
    exact_up_to = options.exact_up_to
    energies.append(
      energy_of(w, potential, half_space=half_space, exact_up_to=exact_up_to)
    )
    geometries.append(geometry_of(w, half_space=half_space, exact_up_to=exact_up_to))
  energy = _mean_energy(energies)
  angles = np.array([g.smallest_angle for g in geometries])
  closest = None
  if not np.isnan(angles).all():
    at = int(np.nanargmin(angles))
    pair = geometries[at].closest
    closest = pair if sets == 1 or pair is None else (at, *pair)
  # By chance, that of the neurons that have an excess: the living of each set.
  alive = [n - g.zero_neurons for g in geometries if n - g.zero_neurons > 1]
  spreads = [excess_spread(potential, k, d, half_space) for k in alive]
  spread = _root_sum(spreads) / len(spreads) if spreads else math.nan
  return RedundancyRow(
    **_about(layer, half_space, options),
    dtype=str(tensor.dtype),
    relative_excess=energy.excess,
    excess_error=energy.excess_error,
    verdict=verdict(energy.excess, spread, energy.excess_error),
    energy=energy.energy,
    energy_error=energy.energy_error,
    smallest_angle=math.degrees(np.nanmin(angles)) if closest else math.nan,
    closest=closest,
    twins=_mean([g.twins for g in geometries]),
    twin_angle=math.degrees(_mean([g.twin_angle for g in geometries])),
    mean_squared_cosine=_mean([g.mean_squared_cosine for g in geometries]),
    effective_rank=_mean([g.effective_rank for g in geometries]),
    zero_neurons=sum(g.zero_neurons for g in geometries),
  )


def comparison_row(
  layer: StoredLayer,
  tensor: np.ndarray,
  of_base: StoredLayer,
  base: np.ndarray,
  options: Options,
) -> ComparisonRow:
  """Compares a layer with that of the base, one set at a time."""
  half_space = options.half_space and layer.part.role == "hidden"
  before, after, changes = [], [], []
  for pair in zip(layer.part.matrices(tensor), of_base.part.matrices(base)):
    w, v = pair
    for energies, x in ((before, v), (after, w)):
      energies.append(
        energy_of(
          as_computed(x),
          options.potential_in(layer.shape[-1]),
          half_space=half_space,
          exact_up_to=options.exact_up_to,
        )
      )
    changes.append(change_of(w, v))
  old, new = _mean_energy(before), _mean_energy(after)
  return ComparisonRow(
    **_about(layer, half_space, options),
    excess_before=old.excess,
    excess_after=new.excess,
    excess_change=new.excess - old.excess,
    excess_error=math.hypot(old.excess_error, new.excess_error),
    energy_before=old.energy,
    energy_after=new.energy,
    energy_change=new.energy - old.energy,
    energy_error=math.hypot(old.energy_error, new.energy_error),
    **_mean_change(changes),
  )


def _about(layer, half_space, options) -> dict[str, Any]:
  sets, n, d = layer.shape
  return {
    "name": layer.name,
    "shape": layer.tensor.shape,
    "role": layer.part.role,
    "read_as": layer.part.what,
    "evidence": layer.part.evidence,
    "sets": sets,
    "n": n,
    "d": d,
    "half_space": half_space,
    "potential": str(options.potential_in(d)),
    "is_sampled": n > options.exact_up_to,
  }


def _mean_energy(energies: list[Energy]) -> Energy:
  # A damaged set is not hidden; one without directions has no excess.
  energy = float(np.mean([e.energy for e in energies]))
  errors = [e.energy_error for e in energies]
  known = [e for e in energies if not math.isnan(e.excess)]
  is_damaged = math.isnan(energy)
  excess = math.nan if is_damaged else _mean([e.excess for e in known])
  error = _root_sum([e.excess_error for e in known])
  return Energy(
    energy,
    _root_sum(errors) / len(energies),
    excess,
    error / len(known) if known else math.nan,
  )


def _mean_change(changes: list[Change]) -> dict[str, Any]:
  means = {}
  for field in dataclasses.fields(Change):
    values = [getattr(change, field.name) for change in changes]
    if field.name == "norm_ratio":
      means[field.name] = float(np.mean(values))
    else:  # hypot does not overflow where squares do.
      means[field.name] = math.hypot(*values) / math.sqrt(len(values))
  return means


def _mean(values) -> float:
  """The mean of those that are known."""
  known = [x for x in values if not math.isnan(x)]
  return float(np.mean(known)) if known else math.nan


def _root_sum(values) -> float:
  return math.sqrt(sum(x * x for x in values))
