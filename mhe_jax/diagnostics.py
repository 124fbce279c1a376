"""How redundant are the layers of a network? A table that says it."""

import dataclasses
import html
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from mhe_jax.layers.rules import LayerRule
from mhe_jax.layers.select import select
from mhe_jax.layers.trees import numbered_order
from mhe_jax.neurons import nearest_neurons
from mhe_jax.objectives.alive import excess_of_alive, num_alive
from mhe_jax.objectives.base import Objective
from mhe_jax.objectives.pair_energy import PairEnergy, as_objective
from mhe_jax.objectives.relative import RECOMMENDED
from mhe_jax.potentials.base import Potential
from mhe_jax.potentials.riesz import Riesz
from mhe_jax.sphere import has_direction, normalize


@dataclasses.dataclass(frozen=True)
class LayerReport:
  """One layer of a :class:`Report`.

  Attributes:
    path: keys of the parameter joined by ``/``.
    shape: shape of the parameter.
    role: ``"hidden"`` or ``"output"``.
    layers: number of stacked layers (1 unless the parameter is a stack).
    n: number of neurons of a layer.
    d: number of weights of a neuron.
    energy: mean pair energy; of a stack, the mean over its layers.
    relative_excess: the energy on a scale from 0 (lower bound) to 1 (random
      directions); above 1 is more redundant than chance. Neurons that are zero do not
      count. Mean over a stack, of the layers that have two neurons or more that are not
      zero; NaN if none has, and where the scale does not exist, see
      :func:`mhe_jax.relative_excess`.
    smallest_angle: in degrees, between the two closest neurons that are not zero; in
      half-space between their lines, so that it is at most 90; as accurate as
      :func:`mhe_jax.nearest_neurons`. NaN if there are none.
    zero_neurons: number of neurons that are zero, in all layers of a stack. They have
      no direction; the energy takes each as orthogonal to all others.
    potential: of the energy, where the layer has another than the report.
    sampled: whether the energy is an estimate, as of :class:`Sampled` for many neurons.
      Then the smallest angle, which takes all pairs, is not looked for: NaN.
  """

  path: str
  shape: tuple[int, ...]
  role: str
  layers: int
  n: int
  d: int
  energy: float
  relative_excess: float
  smallest_angle: float
  zero_neurons: int = 0
  sampled: bool = False
  potential: Potential | None = None


@dataclasses.dataclass(frozen=True)
class Report:
  """The table that :func:`describe` returns: print it, or iterate over its rows.

  Attributes:
    rows: a :class:`LayerReport` per layer, in the order of the tree, but conv2 before
      conv10.
    skipped: ``{path: reason}`` for the parameters without neurons.
    potential: the potential of the energies.
    half_space: whether hidden layers are in half-space.
  """

  rows: tuple[LayerReport, ...]
  skipped: dict[str, str]
  potential: Potential | Objective
  half_space: bool

  def __iter__(self) -> Iterator[LayerReport]:
    return iter(self.rows)

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, path: str) -> LayerReport:
    """The row of a path."""
    for row in self.rows:
      if row.path == path:
        return row
    raise KeyError(path)

  @property
  def damaged(self) -> tuple[str, ...]:
    """Paths of the layers that hold NaN or infinity."""
    return tuple(row.path for row in self.rows if math.isnan(row.energy))

  def __str__(self) -> str:
    header, *cells = self._cells()
    widths = [max(map(len, column)) for column in zip(header, *cells)]
    # Names to the left, numbers to the right.
    align = ["<", "<", "<"] + [">"] * (len(header) - 3)

    def line(row):
      parts = (f"{c:{a}{w}}" for c, a, w in zip(row, align, widths))
      return "  ".join(parts).rstrip()

    rule = "  ".join("-" * w for w in widths)
    return "\n".join([line(header), rule, *map(line, cells), "", *self._notes()])

  __repr__ = __str__

  def _repr_html_(self) -> str:
    header, *cells = self._cells()

    def line(row, tag):
      return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in row) + "</tr>"

    body = "".join(line(row, "td") for row in cells)
    notes = "<br>".join(map(html.escape, self._notes()))
    return (
      f"<table><thead>{line(header, 'th')}</thead><tbody>{body}</tbody></table>"
      f"<p>{notes}</p>"
    )

  def _cells(self):
    yield [
        "path", "shape", "role", "n", "d", "energy", "relative excess",
        "smallest angle",
    ]  # fmt: skip
    for row in self.rows:
      stack = f"{row.layers} x " if row.layers > 1 else ""
      yield [
        row.path,
        "(" + ", ".join(map(str, row.shape)) + ")",
        row.role,
        f"{stack}{row.n}",
        str(row.d),
        f"{'~' * row.sampled}{row.energy:z.5f}",
        *_scale_cells(row),
      ]

  def _notes(self):
    space = "half-space" if self.half_space else "full space"
    yield f"{self.potential}, hidden layers in {space}, output layers in full space."
    yield "Relative excess: 0 = lower bound, 1 = random directions."
    others = {}
    for row in self.rows:
      if row.potential is not None:
        others.setdefault(row.potential, []).append(row.path)
    for potential, paths in others.items():
      yield f"{potential}, for so few dimensions, in: {', '.join(paths)}."
    if any(row.sampled for row in self.rows):
      yield "~: an estimate; there the smallest angle, of all pairs, is left out."
    if self.damaged:
      yield f"NaN or infinity in: {', '.join(self.damaged)}."
    all_zero, some_zero = [], []
    for row in self.rows:
      if row.zero_neurons == row.layers * row.n:
        all_zero.append(row.path)
      elif row.zero_neurons:
        count = f"{row.zero_neurons} of {row.layers * row.n}"
        some_zero.append(f"{count} in {row.path}")
    if all_zero:
      yield f"No directions (all rows zero): {', '.join(all_zero)}."
    if some_zero:
      yield f"Zero neurons, which do not count: {', '.join(some_zero)}."
    if not any(row.role == "output" for row in self.rows):
      yield "No output layer: pass rules=layer_rules(function, params, *inputs)."
    by_reason = {}
    for path, reason in self.skipped.items():
      by_reason.setdefault(reason, []).append(path)
    for reason, paths in by_reason.items():
      shown = ", ".join(paths[:6]) + (", ..." if len(paths) > 6 else "")
      yield f"Skipped {len(paths)} ({reason}): {shown}"


def describe(
  params: Any,
  potential: Potential | Objective = RECOMMENDED,
  *,
  half_space: bool = True,
  rules: Sequence[LayerRule] | None = None,
  key: jax.Array | None = None,
) -> Report:
  """A table of the redundancy of every layer, for any checkpoint.

  Args:
    params: any tree of parameters, or an nnx module, with concrete arrays.
    potential: the pair potential, or any :class:`Objective`; ``Sampled(potential)``
      for layers of so many neurons that all pairs would take long. By default
      ``Riesz(2.0)``; where that has no scale, for neurons of two or three weights, the
      largest whole s that has one, which is said below the table.
    half_space: use the half-space energy for hidden layers.
    rules: see :class:`LayerRule`.
    key: a PRNG key, for objectives that draw random numbers.

  Returns:
    A :class:`Report`, which prints as a table, in a notebook too; its rows are
    data. Parameters that are skipped are listed with the reason; layers with NaN or
    infinity, and those with neurons that are zero, are named.

  Raises:
    TypeError: called inside ``jit``, or with abstract leaves.
    ValueError: as :func:`mhe_jax.neuron_matrices`; a key is needed and missing.

  Example:
    >>> import jax.numpy as jnp
    >>> from mhe_jax import LayerRule, describe
    >>> params = {"body": {"kernel": jnp.eye(4), "bias": jnp.zeros(4)},
    ...           "head": {"kernel": jnp.eye(4)[:, :3]}}
    >>> head = LayerRule("head/kernel", role="output")
    >>> print(describe(params, rules=[head]))
    path         shape   role    n  d   energy  relative excess  smallest angle
    -----------  ------  ------  -  -  -------  ---------------  --------------
    body/kernel  (4, 4)  hidden  4  4  0.46429            0.000          90 deg
    head/kernel  (4, 3)  output  3  4  0.50000            0.250          90 deg
    <BLANKLINE>
    Riesz(s=2.0, metric='chordal', eps=None), hidden layers in half-space, output layers in full space.
    Relative excess: 0 = lower bound, 1 = random directions.
    Skipped 1 (a bias, not neurons): body/bias
  """  # noqa: E501
  objective = as_objective(potential)
  objective.check_key(key)
  selection = select(params, rules)
  rows = []
  for index, layer in enumerate(selection.layers):
    if isinstance(layer.leaf, (Tracer, jax.ShapeDtypeStruct)):
      raise TypeError(
        f"describe needs concrete arrays, got {layer.leaf} at {layer.path!r}; call it "
        "outside jit."
      )
    # A report does not die of what it reports.
    with jax.debug_nans(False), jax.debug_infs(False):
      draw = None if key is None else jax.random.fold_in(key, index)
      rows.append(_report(layer, objective, layer.in_half_space(half_space), draw))
  skipped = {
    path: reason
    for path, reason in selection.skipped.items()
    if reason != "None" and not reason.startswith("not an array")
  }
  usual = Riesz(2.0) if potential is RECOMMENDED else potential
  by_path = {row.path: row for row in rows}
  ordered = tuple(by_path[path] for path in numbered_order([*by_path]))
  return Report(ordered, skipped, usual, bool(half_space))


def _report(layer, objective, half_space, key):
  matrix = layer.matrix()
  *batch, n, d = matrix.shape
  potential = None
  if objective is RECOMMENDED:
    objective = PairEnergy(RECOMMENDED.potential_in(d))
    potential = objective.potential if d < 4 else None
  sampled = objective.estimates(n)
  energies = objective(matrix, half_space=half_space, key=key)
  excesses = _excesses(energies, matrix, objective, half_space)
  is_row = has_direction(matrix)
  angles = np.full(math.prod(batch), np.nan)
  if not sampled:
    angles = _smallest_angles(matrix, is_row, half_space).ravel()
  has_pairs = ~np.isinf(angles)  # NaN is of a damaged layer.
  return LayerReport(
    path=layer.path,
    shape=tuple(layer.leaf.shape),
    role=layer.role,
    layers=math.prod(batch),
    n=n,
    d=d,
    energy=float(jnp.mean(energies)),
    relative_excess=_reduce(np.mean, excesses[has_pairs]),
    smallest_angle=_reduce(np.min, np.degrees(angles[has_pairs])),
    zero_neurons=int(np.sum(~is_row)),
    sampled=sampled,
    potential=potential,
  )


def _smallest_angles(matrix, is_row, half_space):
  """Of each set, between rows that are not zero; infinity if these are not two.

  NaN if a row is not finite.
  """
  if matrix.shape[-2] < 2:
    angles = np.full(is_row.shape, np.inf)
  else:
    # A row of NaN is nobody's neighbor; one of zeros is everybody's, at a right angle.
    rows = jnp.where(is_row[..., None], matrix, jnp.nan)
    angles = np.asarray(nearest_neurons(rows, half_space=half_space)[0])[..., 0]
    angles = np.where(np.isnan(angles), np.inf, angles)
  is_finite = np.isfinite(np.asarray(matrix)).all((-2, -1))
  return np.where(is_finite, np.min(angles, -1, initial=np.inf), np.nan)


def _excesses(energies, matrix, objective, half_space):
  *_, n, d = matrix.shape
  alive = num_alive(normalize(matrix))
  try:
    excesses = excess_of_alive(energies, alive, n, d, objective, half_space)
  except NotImplementedError:  # A potential of the user's own: no scale is known.
    return np.full(energies.size, np.nan)
  return np.asarray(excesses, np.float64).ravel()


def _reduce(reduce, x):
  return float(reduce(x)) if x.size else math.nan


def _scale_cells(row):
  """Relative excess and smallest angle: a dash where there are no two directions."""
  if math.isnan(row.smallest_angle) and not math.isnan(row.energy):
    return f"{row.relative_excess:z.3f}" if row.sampled else "-", "-"
  return f"{row.relative_excess:z.3f}", f"{row.smallest_angle:.4g} deg"
