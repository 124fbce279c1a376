"""How figures look, and where they go."""

import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from experiments.runs.results import Results


def subplots(rows: int, columns: int, figsize: tuple[float, float], **options: Any):
  """A figure and its panels ``[rows, columns]``, without frames."""
  import matplotlib.pyplot as plt  # noqa: PLC0415  (only when called)

  figure, axes = plt.subplots(
    rows, columns, figsize=figsize, squeeze=False, layout="constrained", **options
  )
  for panel in axes.flat:
    panel.spines[["top", "right"]].set_visible(False)
  return figure, axes


def draw_all(
  figures: Mapping[str, Callable[[Any, Results], Any]],
  base: Any,
  results: Results,
  folder: pathlib.Path,
  prefix: str,
) -> list[pathlib.Path]:
  """Draws what there are results for; returns the files, PREFIX_NAME.png.

  Args:
    figures: by name; None is returned where there is nothing to draw.
    base: configurations of a preset, which the figures are given.
    results: likewise.
    folder: for the files.
    prefix: of their names.
  """
  return save_all(
    (folder / f"{prefix}_{name}.png", draw(base, results))
    for name, draw in figures.items()
  )


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
