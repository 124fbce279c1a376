"""Rows and images of data sets, from the Hugging Face hub or from local files."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.data.decoding import decoded
from experiments.errors import InputError


def open_splits(
  hub: str, test: str, folder: pathlib.Path | None
) -> tuple[dict[str, Any], str]:
  """Rows of a data set.

  Args:
    hub: its name on the Hugging Face hub.
    test: the split that is tested on.
    folder: of a local copy; without it the hub is asked.

  Returns:
    ``{"train": rows, "test": rows}`` and where they are from.

  Raises:
    InputError: the hub or the folder cannot be read; a file that is damaged is named.
  """
  import datasets  # noqa: PLC0415  (slow to import)

  if folder is None:
    try:
      splits = {
        "train": datasets.load_dataset(hub, split="train"),
        "test": datasets.load_dataset(hub, split=test),
      }
    except Exception as error:
      raise InputError(
        f"{hub} cannot be read from the Hugging Face hub; a local copy is "
        f"named by its folder. {type(error).__name__}: {error}"
      ) from error
    return splits, hub
  if not folder.is_dir():
    raise InputError(f"the folder of the data must exist, got {folder}.")
  datasets.disable_progress_bars()  # A download's are left on.
  parquet = _files(folder, "*.parquet", test)
  if parquet["train"] or parquet["test"]:
    builder, files = "parquet", parquet
    _check_parquet([*parquet["train"], *parquet["test"]], whole=False)
  else:
    builder, files = "imagefolder", _files(folder, "*/*", test)
  for split, names in files.items():
    if not names:
      raise InputError(
        f"{folder} must hold train*.parquet and test*.parquet (or val*.parquet), or "
        f"class folders train/CLASS/ and test/CLASS/ (or val/CLASS/); found no file "
        f"of the {split} split."
      )
  try:
    splits = {
      split: datasets.load_dataset(
        builder, data_files=list(map(str, names)), split="train"
      )
      for split, names in files.items()
    }
  except Exception as error:
    _check_parquet([*parquet["train"], *parquet["test"]], whole=True)
    cause = error.__cause__ or error
    raise InputError(
      f"{folder} cannot be read: {type(cause).__name__}: {cause}"
    ) from error
  return splits, str(folder)


def _files(folder, pattern, test):
  """Files of both splits, told by the first part of the path that names one."""
  files = {"train": [], "test": [], "val": []}
  for path in sorted(folder.rglob(pattern)):
    parts = path.relative_to(folder).parts
    split = next((s for part in parts for s in files if part.startswith(s)), None)
    if split and path.is_file():
      files[split].append(path)
  first, second = ("val", "test") if test == "validation" else ("test", "val")
  return {"train": files["train"], "test": files[first] or files[second]}


def _check_parquet(paths: Sequence[pathlib.Path], *, whole: bool) -> None:
  """Names the first that cannot be read: as a whole, or its description alone."""
  import pyarrow.parquet  # noqa: PLC0415  (slow to import)

  for path in paths:
    try:
      with pyarrow.parquet.ParquetFile(path) as file:
        for _ in file.iter_batches() if whole else ():
          pass
    except Exception as error:
      raise InputError(f"{path} is not a readable parquet file: {error}") from error


class EncodedImages:
  """Images as they are stored, each decoded when it is asked for.

  Args:
    rows: of a data set.
    column: of them that holds the images.
    where: what they are called in errors.
  """

  def __init__(self, rows: Any, column: str, where: str):
    from datasets import Image  # noqa: PLC0415  (slow to import)

    self._rows = rows.cast_column(column, Image(decode=False))
    self._column = column
    self._where = where

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index):
    """The image as a PIL image in RGB."""
    return self._decode(int(index), self._rows[int(index)][self._column])

  def array(self) -> np.ndarray:
    """All of them, uint8 ``[n, height, width, 3]``."""
    records = self._rows[self._column]
    images = [np.asarray(self._decode(*pair)) for pair in enumerate(records)]
    for index, image in enumerate(images):
      if image.shape != images[0].shape:
        raise InputError(
          f"images of one size are needed, the {self._where} has {images[0].shape} "
          f"and, in row {index}, {image.shape}."
        )
    return np.stack(images)

  def _decode(self, index, record):
    where = f"row {index} of the {self._where}"
    if isinstance(record, dict) and record.get("path"):
      where = f"{where} ({record['path']})"
    try:
      content = record["bytes"] or pathlib.Path(record["path"]).read_bytes()
    except (OSError, TypeError) as error:
      raise InputError(f"{where} is not a readable image: {error}") from error
    return decoded(content, where)
