"""Data sets of labeled images, and batches of them."""

from experiments.data.registry import (
  NAMES,
  Data,
  Name,
  Split,
  load,
  select,
)

__all__ = [
  "NAMES",
  "Data",
  "Name",
  "Split",
  "load",
  "select",
]
