"""The reports: rows, what is not in them and why, and how they print."""

import abc
import collections
import dataclasses
import math
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from mhe_jax.report import tables
from mhe_jax.report.findings import Finding, findings
from mhe_jax.report.layers import StoredLayer
from mhe_jax.report.page import as_page
from mhe_jax.report.parts import ASSUMED, TIED
from mhe_jax.report.plots import plot_angles, plot_excess
from mhe_jax.report.rows import ComparisonRow, Options, RedundancyRow
from mhe_jax.report.tables import number, shown
from mhe_jax.report.typical import typical

Row = TypeVar("Row", RedundancyRow, ComparisonRow)


@dataclasses.dataclass(frozen=True)
class _Report(abc.ABC, Generic[Row]):
  rows: tuple[Row, ...]
  skipped: dict[str, str]
  unknown: dict[str, str]
  checkpoint: str
  options: Options

  row_class: ClassVar[type]
  _bars: ClassVar[str]

  def __iter__(self) -> Iterator[Row]:
    return iter(self.rows)

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, name: str) -> Row:
    """The row of a name."""
    for row in self.rows:
      if row.name == name:
        return row
    raise KeyError(name)

  @property
  @abc.abstractmethod
  def summary(self) -> str:
    """What the table says, in words."""

  @property
  @abc.abstractmethod
  def _title(self) -> str: ...

  @abc.abstractmethod
  def _cells(self) -> tuple[list[str], list[list[str]]]: ...

  @abc.abstractmethod
  def _notes(self) -> Iterator[str]: ...

  def _energies(self) -> Iterator[str]:
    """Which energies the numbers are of."""
    space = "half-space" if self.options.half_space else "full space"
    usual = str(self.options.usual)
    yield f"{usual}, hidden layers in {space}, output layers in full."
    others: dict[str, list[str]] = {}
    for row in self.rows:
      if row.potential != usual:
        others.setdefault(row.potential, []).append(row.name)
    for potential, names in others.items():
      yield f"{potential}, for so few dimensions, in: {_some(names)}."

  def _lists(self) -> Iterator[str]:
    """Notes that both reports have."""
    sampled = [row.name for row in self.rows if row.is_sampled]
    if sampled:
      yield (
        f"Sampled, for they have more than {self.options.exact_up_to} neurons: "
        f"{_some(sampled)}."
      )
    for what, reasons in (("Not read", self.unknown), ("Skipped", self.skipped)):
      by_reason: dict[str, list[str]] = {}
      for name, reason in reasons.items():
        by_reason.setdefault(reason, []).append(name)
      for reason, names in by_reason.items():
        yield f"{what} {len(names)} ({reason}): {_some(names)}"

  def __str__(self) -> str:
    header, cells = self._cells()
    table = tables.as_text(header, cells, left=1) if cells else "No layers."
    notes = [*self._notes(), *self._lists()]
    return tables.printable("\n".join([self.summary, "", table, "", *notes]))

  __repr__ = __str__

  def to_html(self) -> str:
    """A page that stands alone."""
    header, cells = self._cells()
    notes = [*self._notes(), *self._lists()]
    return as_page(
      self._title,
      self.summary,
      header,
      cells,
      notes,
      explained=_EXPLAINED,
      bars=self._bars,
    )

  _repr_html_ = to_html

  def to_csv(self) -> str:
    """All fields of all rows."""
    return tables.as_csv(self.row_class, self.rows)

  def to_json(self) -> str:
    """All fields of all rows, what was left out, and how it was computed."""
    return tables.as_json(self._content())

  @property
  def nothing_read(self) -> str:
    """What to do where no tensor could be read: why not, and a rule as an example."""
    names = [*self.unknown, *self.skipped]
    example = re.escape(names[0]) if names else "NAME"
    return "\n".join(
      [
        f"Nothing of {self.checkpoint} could be read as layers.",
        *self._lists(),
        f"A rule says where neurons are: --rule '{example}=0' for rows, =-1 for the "
        "last axis.",
      ]
    )

  def to_dicts(self) -> list[dict[str, Any]]:
    """A dict a row, of plain numbers, as a table of another library takes them."""
    return [dataclasses.asdict(row) for row in self.rows]

  def _content(self) -> dict[str, Any]:
    return {
      "checkpoint": self.checkpoint,
      "potential": str(self.options.usual),
      "half_space": self.options.half_space,
      "exact_up_to": self.options.exact_up_to,
      "summary": self.summary,
      "rows": self.rows,
      "unknown": self.unknown,
      "skipped": self.skipped,
    }


@dataclasses.dataclass(frozen=True, repr=False)
class RedundancyReport(_Report[RedundancyRow]):
  """The table that :func:`redundancy` returns: print it, or iterate over its rows.

  Attributes:
    rows: a :class:`RedundancyRow` per layer, the most redundant first.
    skipped: ``{name: reason}`` of tensors that are known not to hold neurons.
    unknown: ``{name: reason}`` of those that may, for all that their names tell.
    checkpoint: its path.
    options: potential, half-space, and the size up to which it is exact.
    layers: of each row, where its neurons are; read again for a picture.
  """

  layers: Mapping[str, StoredLayer] = dataclasses.field(
    default_factory=dict, compare=False
  )

  row_class: ClassVar[type] = RedundancyRow
  _bars: ClassVar[str] = "relative excess"

  def plot(self, name: str | None = None, ax: Any = None) -> Any:
    """A picture: the excess of all layers, or the angles of one.

    Args:
      name: of the row whose angles are drawn, against the law of random directions.
      ax: of matplotlib, to draw to; a new one by default.

    Returns:
      The axes; their ``figure`` has ``savefig``.

    Raises:
      KeyError: there is no row of this name.
      InputError: matplotlib is not installed (``mhe-jax[plots]``), or the tensors
        cannot be read any more.
    """
    if name is None:
      return plot_excess(self.rows, ax)
    row, layer = self[name], self.layers[name]
    w = layer.part.matrices(layer.tensor.load())
    return plot_angles(w, half_space=row.half_space, name=name, ax=ax)

  @property
  def findings(self) -> tuple[Finding, ...]:
    """What is unusual, and what to do about it; of rows that are read on evidence."""
    return findings(self.rows)

  @property
  def assumed(self) -> tuple[str, ...]:
    """Names of rows that are read as (out, in) with nothing that says so."""
    return tuple(row.name for row in self.rows if row.evidence == ASSUMED)

  @property
  def summary(self) -> str:
    judged = [row for row in self.rows if row.evidence != ASSUMED]
    parts = []
    found = self.findings
    if judged or found:
      told = "; ".join(map(str, found[:4])) + "; ..." * (len(found) > 4)
      unusual = f"{len(found)} unusual: {told}" if found else "nothing unusual"
      parts.append(f"{_layers(len(judged), 'layer')}, {unusual}")
      counts = collections.Counter(row.verdict for row in judged)
      parts.append(
        f"Against random directions {counts['redundant']} more redundant, as trained "
        f"layers are, {counts['at chance']} at chance, {counts['below chance']} more "
        "diverse"
      )
    if count := len(self.assumed):
      parts.append(
        f"{'No verdict' if not judged else 'Not counted'}: {_layers(count, 'layer')} "
        "read by assumption (*)"
      )
    return ". ".join(parts or ["Nothing could be read"]) + "."

  @property
  def _title(self) -> str:
    return f"Redundancy of {shown(pathlib.Path(self.checkpoint).name)}"

  def _cells(self):
    header = [
      "layer", "n", "d", "relative excess", "typical", "smallest angle", "between",
      "cos^2 / chance", "effective rank", "near twins", "zero", "read by",
    ]  # fmt: skip
    cells = [
      [
        shown(row.name) + "*" * (row.evidence == ASSUMED),
        *_size(row),
        _format_error(row.relative_excess, row.excess_error),
        str(typical(row) or "-"),
        "-" if math.isnan(row.smallest_angle) else f"{row.smallest_angle:.4g} deg",
        "-" if row.closest is None else ", ".join(map(str, row.closest)),
        number(row.mean_squared_cosine * row.d, 2),
        number(row.effective_rank, 1),
        "-" if math.isnan(row.twins) else f"{row.twins:.1%}",
        str(row.zero_neurons),
        row.evidence,
      ]
      for row in self.rows
    ]
    return header, cells

  def _notes(self):
    yield from self._energies()
    yield (
      "Relative excess: 0 = lower bound, 1 = random directions. Near twins: closer "
      "than any two of as many random directions are, with probability 99%."
    )
    if any(map(typical, self.rows)):
      yield (
        "Typical: of four fifths of the layers of its kind in eight published models."
      )
    if self.assumed:
      yield (
        "* Assumed to be one layer, (out, in): nothing beside it takes all that it "
        "gives, or says otherwise. A rule, config.json, or --model settles it."
      )
    names = [*(row.name for row in self.rows), *self.unknown]
    if any(".base_layer." in name for name in names):
      yield (
        "A model in its wrapper of PEFT: each base_layer is without its adapter, which "
        "has rows of its own. merge_and_unload gives the model that runs."
      )
    outputs = [row.name for row in self.rows if row.role == "output"]
    yield f"Output layers: {_some(outputs) or 'none that a name or a rule tells'}."
    tied = [row.name for row in self.rows if row.read_as == TIED]
    if tied:
      yield f"Tied, the embedding and the output layer: {_some(tied)}."
    damaged = [row.name for row in self.rows if math.isnan(row.energy)]
    if damaged:
      yield f"NaN or infinity in: {_some(damaged)}."

  def _content(self):
    return {**super()._content(), "findings": self.findings}


@dataclasses.dataclass(frozen=True, repr=False)
class ComparisonReport(_Report[ComparisonRow]):
  """The table that :func:`compare` returns: print it, or iterate over its rows.

  Attributes:
    rows: a :class:`ComparisonRow` per layer, the most changed first.
    skipped: ``{name: reason}`` of tensors that are known not to hold neurons.
    unknown: ``{name: reason}`` of those that are not read, or not in both.
    checkpoint: its path.
    options: potential, half-space, and the size up to which energies are exact.
    base: path of what it was compared with.
  """

  base: str = ""

  row_class: ClassVar[type] = ComparisonRow
  _bars: ClassVar[str] = "cosine change"

  @property
  def summary(self) -> str:
    if not self.rows:
      return "No layer is in both."
    damaged = [row for row in self.rows if math.isnan(row.cosine_change)]
    # Where all weights were zero, there is no ratio of norms, but they moved.
    changed = [row for row in self.rows if row.weight_change > 0 or row.moved > 0]
    up = [row for row in changed if row.excess_change > 2 * row.excess_error + 1e-3]
    down = [row for row in changed if row.excess_change < -2 * row.excess_error - 1e-3]
    turned = [
      row
      for row in changed
      if row.moved > 1e-3 and row.moved_unrotated < row.moved / 10
    ]
    parts = [f"{len(changed)} of {_layers(len(self.rows), 'layer')} changed"]
    if changed:
      most = changed[0]
      parts.append(
        f"most of all {shown(most.name)} (its cosines by {most.cosine_change:.2g})"
      )
      parts.append(f"{len(up)} became more redundant, {len(down)} less")
    if turned:
      parts.append(f"{len(turned)} were little more than turned as a whole")
    if damaged:
      parts.append(f"{_layers(len(damaged), 'layer')} with NaN or infinity")
    return "; ".join(parts) + "."

  @property
  def _title(self) -> str:
    names = (shown(pathlib.Path(path).name) for path in (self.checkpoint, self.base))
    return " against ".join(names)

  def _cells(self):
    header = [
      "layer", "n", "d", "excess before", "after", "change", "energy change",
      "cosine change", "moved", "unrotated", "norm ratio", "weight change",
    ]  # fmt: skip
    cells = [
      [
        shown(row.name),
        *_size(row),
        number(row.excess_before),
        number(row.excess_after),
        _format_error(row.excess_change, row.excess_error, "+"),
        "-" if math.isnan(row.energy_change) else f"{row.energy_change:+z.2e}",
        number(row.cosine_change, 5),
        number(row.moved, 4),
        number(row.moved_unrotated, 4),
        number(row.norm_ratio, 4),
        number(row.weight_change, 4),
      ]
      for row in self.rows
    ]
    return header, cells

  def _notes(self):
    yield from self._energies()
    yield (
      "Cosine change: root mean square over all pairs of neurons. Moved: root mean "
      "square distance of directions; unrotated: after the best orthogonal map of all."
    )
    damaged = [row.name for row in self.rows if math.isnan(row.cosine_change)]
    if damaged:
      yield f"NaN or infinity in: {_some(damaged)}."

  def _content(self):
    return {**super()._content(), "base": self.base}


def _size(row):
  """Cells of n, of each set if there are several, and d."""
  return f"{row.sets} x {row.n}" if row.sets > 1 else str(row.n), str(row.d)


def _format_error(x, error, sign=""):
  if math.isnan(x):
    return "-"
  return f"{x:{sign}z.3f}" + (f" +- {error:.3f}" if error > 0 else "")


def _layers(count, name="layers are"):
  if name == "layer":
    return f"{count} layer{'s' * (count != 1)}"
  return f"{count} layers are" if count != 1 else "1 layer is"


def _some(names: Sequence[str], count: int = 6) -> str:
  return ", ".join(map(shown, names[:count])) + (", ..." if len(names) > count else "")


_EXPLAINED = {
  "layer": "As stored; with the part of a fused tensor. * read by assumption.",
  "n": "Neurons; of several sets in a tensor, sets x neurons of each.",
  "d": "Weights of a neuron.",
  "relative excess": "Energy, from 0, the lower bound, to 1, random directions.",
  "typical": "Relative excess of four fifths of the published layers of its kind.",
  "smallest angle": "Of two neurons; in half-space, of their lines.",
  "between": "The two neurons at it; of several sets, that of the set first.",
  "cos^2 / chance": "Mean squared cosine of all pairs; 1 for random directions.",
  "effective rank": "Of the unit rows, by the entropy of their singular values.",
  "near twins": "Neurons with another nearer than any two of as many random ones.",
  "zero": "Neurons that are zero.",
  "read by": "What says where the neurons are.",
  "excess before": "Relative excess in the base.",
  "after": "Relative excess in the checkpoint.",
  "change": "Of the relative excess.",
  "energy change": "Of the mean pair energy.",
  "cosine change": "Root mean square of the changes of all cosines.",
  "moved": "Root mean square distance that a direction moved.",
  "unrotated": "What is left of it after the best orthogonal map of all neurons.",
  "norm ratio": "Frobenius norm over that of the base.",
  "weight change": "Frobenius norm of the difference over that of the base.",
}
