"""Results that are kept, so that pictures are drawn again without computing."""

import json
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
  path.write_text(json.dumps(result) + "\n")
  return result
