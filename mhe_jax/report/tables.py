"""A table as text and as a page; rows as JSON and CSV."""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Sequence
from typing import Any


def as_text(header: Sequence[str], cells: Sequence[Sequence[str]], left: int) -> str:
  """Columns side by side, the first ``left`` of them to the left."""
  widths = [max(map(len, column)) for column in zip(header, *cells)]

  def line(row):
    parts = (
      f"{cell:{'<' if i < left else '>'}{width}}"
      for i, (cell, width) in enumerate(zip(row, widths))
    )
    return "  ".join(parts).rstrip()

  return "\n".join(
    [line(header), "  ".join("-" * w for w in widths), *map(line, cells)]
  )


def printable(text: str) -> str:
  """Text without what would move the cursor of a terminal: names are a stranger's."""
  return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def shown(name: str) -> str:
  """A name in a table or a sentence: on one line, and not longer than a line is."""
  name = printable(name).replace("\n", "?")
  return name if len(name) <= 120 else f"{name[:60]}...{name[-57:]}"


def as_csv(row_class: type, rows: Sequence[Any]) -> str:
  """A line of names, and a line for each row, with all of its fields."""
  names = [field.name for field in dataclasses.fields(row_class)]
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  writer.writerow(names)
  for row in rows:
    writer.writerow([_cell(getattr(row, name)) for name in names])
  return text.getvalue()


def as_json(content: dict[str, Any]) -> str:
  """Strict JSON: what is not a finite number is null."""
  return json.dumps(to_plain(content), indent=1, allow_nan=False) + "\n"


def to_plain(x: Any) -> Any:
  """Rows and what they hold, as JSON has it."""
  if dataclasses.is_dataclass(x) and not isinstance(x, type):
    fields = dataclasses.fields(x)
    return {field.name: to_plain(getattr(x, field.name)) for field in fields}
  if isinstance(x, dict):
    return {str(k): to_plain(v) for k, v in x.items()}
  if isinstance(x, (tuple, list)):
    return [to_plain(v) for v in x]
  if isinstance(x, float) and not math.isfinite(x):
    return None
  return x


def from_plain(row_class: type, content: dict[str, Any]) -> Any:
  """A row from its JSON.

  Raises:
    TypeError, KeyError: it is not one of this class.
  """
  values = {}
  for field in dataclasses.fields(row_class):
    value = content[field.name]
    if field.type in (float, "float"):
      value = math.nan if value is None else float(value)
    elif isinstance(value, list):
      value = tuple(value)
    values[field.name] = value
  return row_class(**values)


def number(x: float, digits: int = 3) -> str:
  """A number for people, and a dash for NaN."""
  return "-" if math.isnan(x) else f"{x:z.{digits}f}"


def _cell(x):
  # Spreadsheets run what begins so, and names are a stranger's.
  if isinstance(x, str) and x.startswith(("=", "+", "-", "@", "\t", "\r")):
    return f"'{x}"
  if isinstance(x, float) and math.isnan(x):
    return ""
  if isinstance(x, tuple):
    return " ".join(map(str, x))
  return x
