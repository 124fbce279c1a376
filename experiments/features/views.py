"""Digits in two sizes less, and views of them: turned, moved and stretched a little."""

import functools
from typing import Any, NamedTuple

import numpy as np
import scipy.ndimage

from experiments.data.digits import read_digits

SIDE = 14  # Pixels: 2 x 2 of the original become one.


class Digits(NamedTuple):
  """Images to learn from without their labels, and images to try the features on.

  Attributes:
    views: of the first, float32 ``[images, views, pixels]``.
    train: the same images as they are, ``[images, pixels]``.
    train_labels: of these, for the nearest neighbors alone.
    test: other images ``[images, pixels]``.
    test_labels: of these.
  """

  views: np.ndarray
  train: np.ndarray
  train_labels: np.ndarray
  test: np.ndarray
  test_labels: np.ndarray


@functools.cache
def load(num_train: int, num_test: int, num_views: int) -> Digits:
  """The same images for all forms and seeds.

  Args:
    num_train: images that are learned from.
    num_test: other images.
    num_views: of each image that is learned from.
  """
  images, labels = read_digits()
  rng = np.random.default_rng(0)
  rows = rng.permutation(len(images))[: num_train + num_test]
  images, labels = images[rows].astype(np.float32) / 255.0, labels[rows]
  views = np.stack(
    [[view(image, rng) for _ in range(num_views)] for image in images[:num_train]]
  )
  whole = smaller(images)
  return Digits(
    smaller(views),
    whole[:num_train],
    labels[:num_train],
    whole[num_train:],
    labels[num_train:],
  )


def view(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """An image turned by up to 20 degrees, stretched by 15% and moved by 3 pixels."""
  angle = np.radians(rng.uniform(-20.0, 20.0))
  turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
  matrix = turn @ np.diag(rng.uniform(0.85, 1.15, 2))
  center = (np.array(image.shape) - 1.0) / 2.0
  offset: Any = center - matrix @ center + rng.uniform(-3.0, 3.0, 2)  # scipy: a float.
  return scipy.ndimage.affine_transform(image, matrix, offset, order=1)


def smaller(images: np.ndarray) -> np.ndarray:
  """Means of 2 x 2 pixels, in rows ``[*batch, SIDE * SIDE]``."""
  *batch, height, width = images.shape
  blocks = images.reshape(*batch, height // 2, 2, width // 2, 2)
  return blocks.mean((-3, -1)).reshape(*batch, SIDE * SIDE)
