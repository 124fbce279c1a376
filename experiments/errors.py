"""Errors of whoever gives a command, which are told without a traceback."""

import contextlib
import pathlib
import sys
import tempfile
from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape

from mhe_jax.objectives.relative import NoScaleError


class InputError(ValueError):
  """Something cannot be done as asked: a bad setting, data that are not there.

  A class of its own, for a ValueError may also be a fault of the program, as those are
  that JAX raises, and then its traceback is needed.
  """


@contextlib.contextmanager
def told_in_a_line(console: Console) -> Iterator[None]:
  """What a command does: an :class:`InputError` ends it with exit code 2.

  So does an objective that has no scale for some layer, which is what was asked for.
  """
  try:
    yield
  except (InputError, NoScaleError) as error:
    text = f"[red]{escape(str(error))}[/red]"
    console.print(text, highlight=False, soft_wrap=True)
    sys.exit(2)


def make_folder(path: pathlib.Path, name: str = "output") -> None:
  """Makes the folder that a command writes to, if it is not there yet.

  Args:
    path: of the folder.
    name: what it is called in errors.

  Raises:
    InputError: something else has its place, or it may not be written.
  """
  try:
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path):
      pass
  except OSError as error:
    raise InputError(
      f"{name} must be a folder that can be written, got {path}: {error}"
    ) from error
