"""Text that comes with an installed package: the documentation of SciPy."""

import ast
import functools
import hashlib
import pathlib
from importlib import metadata
from typing import NamedTuple

import numpy as np

from experiments.errors import InputError


class Text(NamedTuple):
  """Bytes to train on, and others to be judged by.

  Attributes:
    train: int32 ``[n]``.
    validation: likewise, of other functions.
    source: where it is from.
    digest: of all of it: two runs with the same have the same text.
  """

  train: np.ndarray
  validation: np.ndarray
  source: str
  digest: str


def read(half: int, limit: int | None = None) -> Text:
  """A half of the docstrings of SciPy: 2.4 million bytes.

  Args:
    half: 0, on which everything is chosen, or 1, on which it is confirmed.
    limit: read this many files only, for tests.

  Raises:
    InputError: the package is not installed with its sources.
  """
  docs = _docstrings(limit)
  order = np.random.default_rng(0).permutation(len(docs))
  docs = [docs[i] for i in order[half::2]]
  split = len(docs) - max(1, len(docs) // 20)
  train, validation = (_bytes(part) for part in (docs[:split], docs[split:]))
  digest = hashlib.sha256(train.tobytes() + validation.tobytes()).hexdigest()[:16]
  source = f"docstrings of scipy {metadata.version('scipy')}, half {half}"
  return Text(train, validation, source, digest)


def _bytes(docs):
  return np.frombuffer("\n\n\n".join(docs).encode(), np.uint8).astype(np.int32)


@functools.cache
def _docstrings(limit):
  """Those of more than 200 characters, in the order of files and lines, each once."""
  files = [
    file
    for file in sorted(metadata.files("scipy") or [], key=str)
    if file.suffix == ".py" and "tests" not in file.parts
  ]
  found = {}
  for file in files[:limit]:
    path = pathlib.Path(str(file.locate()))
    try:
      tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, UnicodeDecodeError):
      continue
    for node in ast.walk(tree):
      if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
        doc = ast.get_docstring(node) or ""
        if len(doc) > 200:
          found[doc] = None
  if len(found) < 4:
    raise InputError("language needs the sources of scipy, as pip installs them.")
  return list(found)
