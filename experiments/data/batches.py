"""Batches of images: shuffled and augmented for training, in order for testing.

Which images a step sees, and how each is cropped, follows from the seed and the number
of the step alone, so that runs that share a seed share them, and a run that was
stopped goes on as if it had not been.
"""

import functools
import os
from collections.abc import Iterator

import grain
import numpy as np

from experiments.data import Split

# How images are shuffled: results say it, for runs are compared that share it alone.
ORDER = "permutations of numpy"
PADDING = 4
GRAY = 128  # What padding is filled with: normalization takes it to about 0.


def training_batches(
  split: Split,
  rows: np.ndarray,
  batch_size: int,
  seed: int,
  *,
  steps: tuple[int, int],
  size: int = 0,
  augment: bool = True,
  reflect: bool = False,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields ``(images, labels)`` of the steps first, ..., last - 1.

  Args:
    split: what is trained on.
    rows: which rows of it.
    batch_size: images of a step; the last images of an epoch share a batch with the
      first of the next.
    seed: of the order and the augmentation.
    steps: ``(first, last)``.
    size: pixels of the sides of a crop; 0 for small images, which are padded by 4
      pixels and cropped to their own size.
    augment: crop and flip at random.
    reflect: pad with mirrored pixels, not with gray.

  Raises:
    ValueError: there are no rows.

  Returns:
    Images uint8 ``[batch_size, height, width, channels]``, labels int32.
  """
  if not len(rows):
    raise ValueError("rows must be some of the images, got none.")

  # Grain's own shuffle goes image by image, which takes twice the time of all the rest.
  @functools.lru_cache(maxsize=4)  # A batch that is made ahead may be of the next.
  def order(epoch):
    return np.random.default_rng([seed, 1, epoch]).permutation(rows)

  def make(step, rng):
    epochs, places = np.divmod(
      np.arange(step * batch_size, (step + 1) * batch_size), len(rows)
    )
    parts = [order(epoch)[places[epochs == epoch]] for epoch in np.unique(epochs)]
    indices = np.concatenate(parts)
    images = _images(split, indices, size, rng if augment else None, reflect)
    return images, split.labels[indices]

  first, last = steps
  batches = grain.MapDataset.range(last).seed(seed).random_map(make)
  yield from batches[first:].to_iter_dataset(_read_options())


def test_batches(
  split: Split, rows: np.ndarray, batch_size: int, *, size: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields all rows in order; the last batch is filled up with label -1."""

  def make(start):
    indices = rows[start : start + batch_size]
    missing = batch_size - len(indices)
    filled = np.concatenate([indices, np.repeat(rows[:1], missing)])
    labels = np.where(np.arange(batch_size) < len(indices), split.labels[filled], -1)
    return _images(split, filled, size, None), labels.astype(np.int32)

  starts = grain.MapDataset.source(range(0, len(rows), batch_size))
  yield from starts.map(make).to_iter_dataset(_read_options())


def _read_options():
  """Threads, for decoding leaves Python's lock alone; each makes whole batches."""
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 8
  threads = min(max(cores, 4), 16)
  return grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)


def _images(split, indices, size, rng, reflect=False):
  if size:
    crop = _center_crop if rng is None else _random_resized_crop
    return np.stack([crop(split.images[i], size, rng) for i in indices])
  images = split.images[indices]
  return images if rng is None else crop_and_flip(images, rng, reflect=reflect)


def crop_and_flip(
  images: np.ndarray, rng: np.random.Generator, *, reflect: bool = False
) -> np.ndarray:
  """Each image shifted by up to 4 pixels, and mirrored or not.

  Args:
    images: ``[batch, height, width, channels]``.
    rng: source of randomness.
    reflect: pad with mirrored pixels, not with gray.
  """
  batch, height, width, _ = images.shape
  margins = ((0, 0), (PADDING, PADDING), (PADDING, PADDING), (0, 0))
  padded = (
    np.pad(images, margins, "symmetric")
    if reflect
    else np.pad(images, margins, constant_values=GRAY)
  )
  tops, lefts = rng.integers(0, 2 * PADDING + 1, (2, batch)).tolist()
  mirrored = (rng.random(batch) < 0.5).tolist()
  crops = np.empty_like(images)
  # Slice by slice: four times as fast as one gather of all pixels.
  for i, (top, left, mirror) in enumerate(zip(tops, lefts, mirrored)):
    crop = padded[i, top : top + height, left : left + width]
    crops[i] = crop[:, ::-1] if mirror else crop
  return crops


def _random_resized_crop(image, size, rng):
  """8% to 100% of the area, sides 3:4 to 4:3, mirrored or not.

  Szegedy et al., Going deeper with convolutions, CVPR 2015, section 6.
  """
  width, height = image.size
  for _ in range(10):
    area = width * height * rng.uniform(0.08, 1.0)
    aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
    if 0 < w <= width and 0 < h <= height:
      left, top = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
      box = (left, top, left + w, top + h)
      break
  else:  # Of a very long image: what fits.
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side)
  crop = np.asarray(image.resize((size, size), 2, box=box))  # 2 = bilinear.
  return crop[:, ::-1] if rng.random() < 0.5 else crop


def _center_crop(image, size, rng):
  """The middle, after the shorter side is made 8/7 of the size (256 for 224)."""
  del rng
  width, height = image.size
  side = min(width, height) * 7 / 8
  left, top = (width - side) / 2, (height - side) / 2
  box = (left, top, left + side, top + side)
  return np.asarray(image.resize((size, size), 2, box=box))
