"""What published models have: the excess of their layers, by kind.

``typical.json`` has the excess of every layer of checkpoints that packages ship; it is
written by ``experiments/typical_excess.py``, which names them.
"""

import functools
import importlib.resources
import json
import re
from typing import Any, NamedTuple

import numpy as np

_QUERIES_AND_KEYS = re.compile(
  r"(^|[./_])(q|k|query|key|[qk]_proj|w[qk]|to_[qk]|[qk]_lin)[./]weight$|\[[qk]\]$"
)


class Typical(NamedTuple):
  """Of the published layers of a kind.

  Attributes:
    low: a tenth of them have less excess.
    high: a tenth have more.
    most: the largest.
    num_layers: how many there are.
  """

  low: float
  high: float
  most: float
  num_layers: int

  def __str__(self) -> str:
    return f"{self.low:.1f} to {self.high:.1f}"


def kind_of(row: Any) -> str:
  """What a layer is for, as far as its reading and its shape tell.

  Args:
    row: with ``role``, ``read_as``, ``name``, ``n`` and ``d``.
  """
  if row.role == "output":
    return "output"
  for kind in ("embedding", "recurrent", "convolution"):
    if kind in row.read_as:
      return kind
  if _QUERIES_AND_KEYS.search(row.name):
    return "query or key"
  return "widening" if row.n > row.d else "narrowing" if row.n < row.d else "square"


def typical(row: Any) -> Typical | None:
  """Of published layers of the kind of a row, with its energies, if there are five.

  Args:
    row: as of :func:`kind_of`, with ``potential`` and ``half_space``.
  """
  space = "half" if row.half_space else "full"
  excess = _published().get(f"{row.potential} {space}", {}).get(kind_of(row), [])
  if len(excess) < 5:
    return None
  low, high = np.quantile(excess, [0.1, 0.9])
  return Typical(float(low), float(high), max(excess), len(excess))


@functools.cache
def _published() -> dict[str, dict[str, list[float]]]:
  text = (
    importlib.resources.files("mhe_jax.report").joinpath("typical.json").read_text()
  )
  return json.loads(text)["excess"]
