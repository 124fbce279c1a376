"""Typical relative excess of the layers of published models, by kind of layer.

Writes ``mhe_jax/report/typical.json``, with which a report compares. The checkpoints
are what packages of the Python index ship, unpacked; those of PyTorch's pickles were
converted to npz. Each layer's energy is computed a second time in NumPy's float64.

    python -m experiments.typical_excess NAME=PATH ...
"""

import json
import math
import pathlib
import sys
from types import SimpleNamespace

import numpy as np

from mhe_jax import LayerRule, NeuronAxes, Riesz
from mhe_jax.report.checkpoint import open_checkpoint
from mhe_jax.report.layers import select_layers
from mhe_jax.report.measures import as_computed, energy_of
from mhe_jax.report.parts import ASSUMED
from mhe_jax.report.typical import kind_of

MOST = 4096  # Neurons of a set; of more, a sample.
TARGET = pathlib.Path(__file__).parent.parent / "mhe_jax" / "report" / "typical.json"


def energy_in_float64(w: np.ndarray, s: float, *, half_space: bool) -> float:
  """The mean pair energy by its definition, row by row."""
  u = w.astype(np.float64)
  u /= np.linalg.norm(u, axis=1, keepdims=True)
  total, n = 0.0, len(u)
  for i in range(n - 1):
    # Differences of rows, not of products: twins lose no digits.
    total += np.sum(np.linalg.norm(u[i + 1 :] - u[i], axis=1) ** -s)
    if half_space:
      total += np.sum(np.linalg.norm(u[i + 1 :] + u[i], axis=1) ** -s)
  if half_space:
    return (2.0 * total + n * 2.0**-s) / (n * (2 * n - 1))
  return total / (n * (n - 1) / 2)


def main(arguments: list[str]) -> None:
  """Measures all layers that are read on evidence, and writes the table."""
  excess: dict[str, dict[str, list[float]]] = {}
  counts, worst = {}, 0.0
  for argument in arguments:
    name, _, path = argument.partition("=")
    # Leaves of Equinox have no names; its dense layers are (out, in).
    rules = [LayerRule("leaf/.*", NeuronAxes(0))] if path.endswith(".eqx") else None
    for layer in select_layers(open_checkpoint(path), rules).layers:
      sets, n, d = layer.shape
      if layer.part.evidence == ASSUMED or n < 8 or d < 2:
        continue
      row = SimpleNamespace(
        name=layer.name, role=layer.part.role, read_as=layer.part.what, n=n, d=d
      )
      half_space = row.role != "output"
      matrices = layer.part.matrices(layer.tensor.load())
      if sets > 8:
        continue
      for s in (1.0, 2.0):
        found = []
        for w in map(as_computed, matrices):
          energy = energy_of(w, Riesz(s), half_space=half_space, exact_up_to=MOST)
          found.append(energy.excess)
          if n <= MOST:
            expected = energy_in_float64(w, s, half_space=half_space)
            if math.isfinite(expected):  # Not so of two equal directions.
              worst = max(worst, abs(energy.energy / expected - 1.0))
        mean = float(np.mean(found))
        if math.isfinite(mean):
          space = "half" if half_space else "full"
          kinds = excess.setdefault(f"{Riesz(s)} {space}", {})
          kinds.setdefault(kind_of(row), []).append(round(mean, 4))
      counts[name] = counts.get(name, 0) + 1
      print(name, layer.name, layer.shape, f"{worst:.1e}", flush=True)
  content = {
    "layers": counts,
    "largest difference from float64": worst,
    "excess": {
      key: {kind: sorted(values) for kind, values in sorted(kinds.items())}
      for key, kinds in excess.items()
    },
  }
  TARGET.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
  main(sys.argv[1:])
