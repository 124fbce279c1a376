"""Results on a disk: whole or not there, and not computed twice."""

import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

from experiments.environment import environment


def kept(
  path: pathlib.Path,
  settings: dict[str, Any],
  compute: Callable[..., dict[str, Any]],
) -> dict[str, Any]:
  """What is computed with these settings, from a file if it was before.

  Args:
    path: the JSON file, which is made if it is not there or has other settings.
    settings: arguments of ``compute``.
    compute: returns what JSON can hold.
  """
  settings = json.loads(json.dumps(settings))
  if path.exists():
    result = json.loads(path.read_text())
    if result["settings"] == settings:
      return result
  result = {"settings": settings, **environment(), **compute(**settings)}
  write_json(path, result)
  return result


def write_json(path: pathlib.Path, result: Any, indent: int | None = None) -> None:
  """Writes a result: a command that is stopped leaves a whole file, or none.

  Args:
    path: of the file.
    result: what JSON can hold.
    indent: as of :func:`json.dumps`.
  """
  partial = path.with_suffix(f".{os.getpid()}.partial")
  partial.write_text(json.dumps(result, indent=indent) + "\n")
  partial.replace(path)
