"""Batches for training and testing: their images, and what is done to these."""

import numpy as np
import pytest
from PIL import Image

from experiments.data import Split, batches


@pytest.fixture
def split():
  """Images that tell their row: every pixel has its number."""
  images = np.broadcast_to(np.arange(50)[:, None, None, None], (50, 8, 8, 1))
  return Split(images.astype(np.uint8), np.arange(50, dtype=np.int32))


def test_an_epoch_has_every_row_once(split):
  rows = np.arange(10, 40)
  stream = batches.training_batches(split, rows, 12, 3, steps=(0, 5), augment=False)
  order = np.concatenate([labels for _, labels in stream])
  first, second = order[:30], order[30:]
  np.testing.assert_array_equal(np.sort(first), rows)
  np.testing.assert_array_equal(np.sort(second), rows)
  assert (first != second).any()


@pytest.mark.parametrize("count", [1, 3])
def test_a_batch_may_have_several_epochs(split, count):
  rows = np.arange(10, 10 + count)
  stream = batches.training_batches(split, rows, 7, 0, steps=(0, 3), augment=False)
  order = np.concatenate([labels for _, labels in stream])[: 21 // count * count]
  np.testing.assert_array_equal(
    np.sort(order.reshape(-1, count)), np.broadcast_to(rows, (21 // count, count))
  )
  with pytest.raises(ValueError, match="rows must be some of the images, got none"):
    list(batches.training_batches(split, rows[:0], 7, 0, steps=(0, 3)))


def test_images_stay_with_their_labels(split):
  for images, labels in batches.training_batches(
    split, np.arange(50), 16, 0, steps=(0, 3)
  ):
    # Padding aside, which is brighter, an image is all of its number.
    np.testing.assert_array_equal(images.min((1, 2, 3)), labels)


def test_later_steps_do_not_need_the_earlier_ones(split):
  def stream(first, seed=5):
    return list(
      batches.training_batches(split, np.arange(50), 16, seed, steps=(first, 12))
    )

  for (x, y), (x_again, y_again) in zip(stream(0)[7:], stream(7), strict=True):
    np.testing.assert_array_equal(x, x_again)
    np.testing.assert_array_equal(y, y_again)
  assert any((y != z).any() for (_, y), (_, z) in zip(stream(0), stream(0, 6)))


@pytest.mark.parametrize("reflect", [False, True])
def test_crops_are_windows_of_the_padded_image_mirrored_or_not(reflect):
  images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3)).astype(np.uint8)
  crops = batches.crop_and_flip(images, np.random.default_rng(0), reflect=reflect)
  padding = {"mode": "symmetric"} if reflect else {"constant_values": batches.GRAY}
  found = set()
  for image, crop in zip(images, crops):
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)), **padding)
    matches = [
      (top, left, mirrored)
      for top in range(9)
      for left in range(9)
      for mirrored in (False, True)
      if (
        padded[top : top + 8, left : left + 8][:, :: -1 if mirrored else 1] == crop
      ).all()
    ]
    assert matches and (reflect or len(matches) == 1)  # Mirrored, some are the same.
    found.update(matches)
  assert {mirrored for *_, mirrored in found} == {False, True}
  assert {top for top, *_ in found} == {left for _, left, _ in found} == set(range(9))


def test_test_batches_are_in_order_and_filled_up(split):
  stream = list(batches.test_batches(split, np.arange(5, 22), 8))
  labels = np.concatenate([labels for _, labels in stream])
  assert labels.tolist() == [*range(5, 22), *[-1] * 7]
  assert all(images.shape == (8, 8, 8, 1) for images, _ in stream)


def test_center_crop_takes_the_middle():
  """Of an image twice as wide as high, 7/8 of the height."""
  x = np.zeros((256, 512, 3), np.uint8)
  x[16:240, 144:368] = 255
  (images, _), *_ = batches.test_batches(
    Split([Image.fromarray(x)], np.zeros(1, np.int32)), np.arange(1), 1, size=224
  )
  assert images.min() == 255
