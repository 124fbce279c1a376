"""What a reader of a format gives."""

import dataclasses
import importlib
import pathlib
import types
from collections.abc import Callable

import numpy as np

from mhe_jax.report.errors import InputError


@dataclasses.dataclass(frozen=True)
class Tensor:
  """One tensor of a checkpoint, not loaded yet.

  Attributes:
    name: as it is stored; keys of trees are joined by ``/``.
    shape: its shape.
    dtype: its dtype; None if there is none that NumPy knows.
    load: reads it from disk, each time it is called. Nothing is kept.
    stored_as: what the file calls its dtype.
  """

  name: str
  shape: tuple[int, ...]
  dtype: np.dtype | None
  load: Callable[[], np.ndarray]
  stored_as: str


@dataclasses.dataclass(frozen=True)
class Contents:
  """Tensors of a checkpoint, the files that hold them, and what wrote these."""

  tensors: tuple[Tensor, ...]
  files: tuple[pathlib.Path, ...]
  writer: str = ""


def import_reader(module: str, what: str) -> types.ModuleType:
  """A library that reads a format, which mhe_jax does not depend on.

  Raises:
    InputError: it is not installed.
  """
  try:
    return importlib.import_module(module)
  except ImportError as error:
    package = module.split(".", maxsplit=1)[0].replace("orbax", "orbax-checkpoint")
    raise InputError(f"{what} needs a library: pip install {package}.") from error
