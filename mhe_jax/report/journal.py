"""Rows on disk as they are computed, so that a killed report goes on."""

import json
import os
import pathlib
from typing import Any

from mhe_jax.report.errors import InputError
from mhe_jax.report.tables import from_plain, to_plain

try:
  import fcntl
except ImportError:  # Not on Windows.
  fcntl = None


class Journal:
  """A file of JSON lines: of what the rows are, and then one row each.

  A row is written whole and to the disk before the next is computed; a kill leaves at
  most a last line that is torn, which is cut off.

  Args:
    path: of the file; its folder is made.
    row_class: of the rows.
    header: what the rows depend on. Those of another are not taken up, and not
      overwritten.

  Attributes:
    rows: those that are there, by name.

  Raises:
    InputError: the file is of something else, or cannot be written, or another report
      writes it now.
  """

  def __init__(self, path: pathlib.Path, row_class: type, header: dict[str, Any]):
    self.rows: dict[str, Any] = {}
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      self._file = open(path, "a+b")  # noqa: SIM115
    except OSError as error:
      raise InputError(f"output must be a folder to write to: {error}.") from error
    try:
      self._lock(path)
      self._take_up(path, row_class, to_plain(header))
    except BaseException:
      self.close()
      raise

  def _lock(self, path):
    """Until the file is closed, also by a kill; where the disk has locks."""
    if fcntl is None:
      return
    try:
      fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise InputError(f"{path} is written by another report now.") from None
    except OSError:  # Of some network disks.
      pass

  def _take_up(self, path, row_class, header):
    self._file.seek(0)
    text = self._file.read()
    whole = text[: text.rfind(b"\n") + 1]
    if len(whole) < len(text):
      self._file.truncate(len(whole))
    lines = whole.splitlines()
    try:
      there = json.loads(lines[0]) if lines else None
      if there is not None and there != header:
        changed = [k for k in header if there.get(k) != header[k]]
        raise InputError(
          f"{path} has rows of another report ({', '.join(changed) or 'format'} "
          "differs); give another output, or delete it."
        )
      self.rows = {
        row.name: row
        for row in (from_plain(row_class, json.loads(x)) for x in lines[1:])
      }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
      if isinstance(error, InputError):
        raise
      raise InputError(f"{path} is not a file of rows: {error!r}.") from error
    if not lines:
      self._write(header)

  def add(self, row: Any) -> None:
    """Keeps a row."""
    self._write(to_plain(row))
    self.rows[row.name] = row

  def _write(self, content):
    try:
      self._file.write(json.dumps(content, allow_nan=False).encode() + b"\n")
      self._file.flush()
      os.fsync(self._file.fileno())
    except OSError as error:
      raise InputError(f"{self._file.name} cannot be written: {error}.") from error

  def close(self) -> None:
    """Closes the file."""
    self._file.close()
