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

MOST = 4096  # Neurons of a set; vocabularies are left out.
POWERS = (1.0, 2.0)
TWINS = 1e-3  # Nearer, two neurons are one, and their pair is the energy of the layer.
TARGET = pathlib.Path(__file__).parent.parent / "mhe_jax" / "report" / "typical.json"


def energies_in_float64(
  w: np.ndarray, *, half_space: bool
) -> tuple[dict[float, float], float]:
  """Mean pair energies by their definition, by s, and the smallest distance."""
  u = w.astype(np.float64)
  u /= np.linalg.norm(u, axis=1, keepdims=True)
  n, cosines = len(u), (u @ u.T)[np.triu_indices(len(u), 1)]
  distances = np.sqrt(np.maximum(2.0 - 2.0 * cosines, 1e-30))
  if half_space:
    distances = np.append(distances, np.sqrt(np.maximum(2.0 + 2.0 * cosines, 1e-30)))
  energies = {}
  for s in POWERS:
    total = float(np.sum(distances**-s))
    if half_space:
      energies[s] = (2.0 * total + n * 2.0**-s) / (n * (2 * n - 1))
    else:
      energies[s] = total / (n * (n - 1) / 2)
  return energies, float(distances.min())


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
      if layer.part.evidence == ASSUMED or not 8 <= n <= MOST or d < 2:
        continue
      row = SimpleNamespace(
        name=layer.name, role=layer.part.role, read_as=layer.part.what, n=n, d=d
      )
      half_space = row.role != "output"
      matrices = layer.part.matrices(layer.tensor.load())
      if sets > 8 or not np.any(matrices, axis=-1).all():
        continue
      found = {s: [] for s in POWERS}
      apart = 2.0
      for w in map(as_computed, matrices):
        expected, smallest = energies_in_float64(w, half_space=half_space)
        apart = min(apart, smallest)
        for s in POWERS:
          energy = energy_of(w, Riesz(s), half_space=half_space, exact_up_to=MOST)
          found[s].append(energy.excess)
          if smallest > TWINS:  # Where 2 - 2 t has nine digits in float64.
            worst = max(worst, abs(energy.energy / expected[s] - 1.0))
      if apart < TWINS:
        twins.append(f"{name}: {layer.name}")
        continue
      for s, values in found.items():
        space = "half" if half_space else "full"
        kinds = excess.setdefault(f"{Riesz(s)} {space}", {})
        kinds.setdefault(kind_of(row), []).append(round(float(np.mean(values)), 4))
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
