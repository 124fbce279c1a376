"""Images of 16 x 16: of the registry of data sets, or of a file made of it."""

import pathlib
from typing import NamedTuple

import numpy as np

from experiments.data import load
from experiments.errors import InputError
from experiments.weights.networks import SIZE


class Images(NamedTuple):
  """Some images, uint8 ``[n, 16, 16, channels]``, and their labels, int32 ``[n]``."""

  images: np.ndarray
  labels: np.ndarray
  test_images: np.ndarray
  test_labels: np.ndarray
  source: str


def read(name: str, root: pathlib.Path | None, file: pathlib.Path | None) -> Images:
  """Images of a data set, made small and shuffled; or those of a file of them.

  Args:
    name: of the data set, which has ten classes.
    root: folder of a local copy of the data set.
    file: that :func:`write` made; the data set is not looked at then.

  Raises:
    InputError: the file is not one of them, or the data set cannot be read.
  """
  if file is not None:
    try:
      with np.load(file) as arrays:
        values = {name: arrays[name] for name in Images._fields}
    except Exception as error:
      raise InputError(f"images must be a file of images, got {file}: {error}") from (
        error
      )
    return Images(**{**values, "source": str(values["source"])})
  data = load(name, root)
  rng = np.random.default_rng(0)

  def shuffled(split):  # Some data sets are sorted by class.
    order = rng.permutation(len(split))
    return _small(split.images)[order], np.asarray(split.labels, np.int32)[order]

  (images, labels), (test_images, test_labels) = map(shuffled, (data.train, data.test))
  source = f"{name} ({data.source})"
  return Images(images, labels, test_images, test_labels, source)


def write(images: Images, file: pathlib.Path, train: int, test: int) -> None:
  """Keeps the first images of both splits in a file, for a device without a network."""
  some = images._replace(
    images=images.images[:train],
    labels=images.labels[:train],
    test_images=images.test_images[:test],
    test_labels=images.test_labels[:test],
  )
  np.savez_compressed(file, **some._asdict())


def _small(images):
  """Means of 2 x 2 pixels, with a margin of zeros where they are fewer than 16."""
  n, height, width, channels = images.shape
  shape = (n, height // 2, 2, width // 2, 2, channels)
  # A part at a time: the means of all images as floats need much memory.
  images = np.concatenate(
    [
      np.round(part.mean((2, 4))).astype(np.uint8)
      for part in np.array_split(images.reshape(shape), max(1, n // 1000))
    ]
  )
  margins = [(0, 0), *(_margin(side) for side in images.shape[1:3]), (0, 0)]
  return np.pad(images, margins)


def _margin(side):
  if not 0 < side <= SIZE:
    raise InputError(f"images must have at most {2 * SIZE} pixels a side, got {side}.")
  return (SIZE - side) // 2, (SIZE - side + 1) // 2
