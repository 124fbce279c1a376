"""Typical relative excess of the layers of published models, by kind of layer.

Writes ``mhe_jax/report/typical.json``, with which a report compares. The checkpoints
are what packages of the Python index ship, unpacked; those of PyTorch's pickles were
converted to npz. Each layer's energy is computed a second time in NumPy's float64.

    python -m experiments.typical_excess NAME=PATH ...
"""

import json
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
TWINS = 1e-3  # Nearer, two neurons are one, and their pair is the energy of the layer.
TARGET = pathlib.Path(__file__).parent.parent / "mhe_jax" / "report" / "typical.json"


def energy_in_float64(
  w: np.ndarray, s: float, *, half_space: bool
) -> tuple[float, float]:
  """The mean pair energy by its definition, row by row, and the smallest distance."""
  u = w.astype(np.float64)
  u /= np.linalg.norm(u, axis=1, keepdims=True)
  total, n, smallest = 0.0, len(u), 2.0
  for i in range(n - 1):
    # Differences of rows, not of products: twins lose no digits.
    distances = [np.linalg.norm(u[i + 1 :] - u[i], axis=1)]
    if half_space:
      distances.append(np.linalg.norm(u[i + 1 :] + u[i], axis=1))
    smallest = min(smallest, *(float(d.min()) for d in distances))
    total += float(sum(np.sum(d**-s) for d in distances))
  if half_space:
    return (2.0 * total + n * 2.0**-s) / (n * (2 * n - 1)), smallest
  return total / (n * (n - 1) / 2), smallest


def main(arguments: list[str]) -> None:
  """Measures all layers that are read on evidence, and writes the table."""
  excess: dict[str, dict[str, list[float]]] = {}
  counts, worst, twins = {}, 0.0, []
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
      if sets > 8 or not np.any(matrices, axis=-1).all():
        continue
      energies = {1.0: [], 2.0: []}
      apart = 2.0
      for w in map(as_computed, matrices):
        for s, found in energies.items():
          energy = energy_of(w, Riesz(s), half_space=half_space, exact_up_to=MOST)
          found.append(energy.excess)
          if n <= MOST:
            expected, smallest = energy_in_float64(w, s, half_space=half_space)
            apart = min(apart, smallest)
            if smallest > TWINS:
              worst = max(worst, abs(energy.energy / expected - 1.0))
      if apart < TWINS:
        twins.append(f"{name}: {layer.name}")
        continue
      for s, found in energies.items():
        space = "half" if half_space else "full"
        kinds = excess.setdefault(f"{Riesz(s)} {space}", {})
        kinds.setdefault(kind_of(row), []).append(round(float(np.mean(found)), 4))
      counts[name] = counts.get(name, 0) + 1
      print(name, layer.name, layer.shape, f"{worst:.1e}", flush=True)
  content = {
    "layers": counts,
    "largest difference from float64": worst,
    "with neurons that are one, and left out": twins,
    "excess": {
      key: {kind: sorted(values) for kind, values in sorted(kinds.items())}
      for key, kinds in excess.items()
    },
  }
  TARGET.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
  main(sys.argv[1:])
