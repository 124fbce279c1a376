"""How figures look, and where they go."""

import pathlib
from collections.abc import Iterable
from typing import Any


def subplots(rows: int, columns: int, figsize: tuple[float, float], **options: Any):
  """A figure and its panels ``[rows, columns]``, without frames."""
  import matplotlib.pyplot as plt  # noqa: PLC0415  (only when called)

  figure, axes = plt.subplots(
    rows, columns, figsize=figsize, squeeze=False, layout="constrained", **options
  )
  for panel in axes.flat:
    panel.spines[["top", "right"]].set_visible(False)
  return figure, axes


def save_all(figures: Iterable[tuple[pathlib.Path, Any]]) -> list[pathlib.Path]:
  """Writes those of the figures that are not None; returns their files."""
  import matplotlib.pyplot as plt  # noqa: PLC0415  (only when called)

  paths = []
  for path, figure in figures:
    if figure is not None:
      figure.savefig(path, dpi=150)
      plt.close(figure)
      paths.append(path)
  return paths
