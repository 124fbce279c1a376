"""Data sets of the experiments, and the errors that say what is wrong with one."""

import datasets
import numpy as np
import pytest
from PIL import Image

from experiments.data import batches, digits, load, select
from experiments.errors import InputError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
  monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def draw(n, size=(6, 5), seed=0):
  """Images of bytes ``[n, height, width, 3]``."""
  return np.random.default_rng(seed).integers(0, 256, (n, *size, 3)).astype(np.uint8)


def write_parquet(
  path, images, labels, *, image="img", label="label", names=("a", "b")
):
  kind = datasets.ClassLabel(names=list(names)) if names else datasets.Value("int64")
  features = {image: datasets.Image(), label: kind}
  columns = {image: [Image.fromarray(x) for x in images], label: list(labels)}
  path.parent.mkdir(parents=True, exist_ok=True)
  rows = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
  rows.to_parquet(path)


def write_folders(folder, images, labels):
  for i, (x, label) in enumerate(zip(images, labels)):
    path = folder / f"class{label}" / f"{i}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(x).save(path)


def test_digits_are_of_equal_numbers_and_disjoint():
  data = load("digits")
  assert data.train.images.shape == (3000, 28, 28, 1)
  assert data.test.images.shape == (2000, 28, 28, 1)
  assert np.bincount(data.train.labels).tolist() == [300] * 10
  assert len(data.classes) == 10
  everything = np.concatenate([data.train.images, data.test.images]).reshape(5000, -1)
  assert len(np.unique(everything, axis=0)) == 5000


@pytest.mark.parametrize("name", ("_PACKAGE", "_FILE"))
def test_digits_need_their_package_and_its_file(monkeypatch, name):
  monkeypatch.setattr(digits, name, "not there")
  with pytest.raises(InputError, match="digits needs the images that the package"):
    digits.read_digits()


@pytest.mark.parametrize("nested", ["", "plain_text/"])
def test_parquet_folder_is_read_pixel_for_pixel(tmp_path, nested):
  folder = tmp_path / "cifar10" / nested
  train, test = draw(5), draw(3, seed=1)
  write_parquet(folder / "train-00000-of-00001.parquet", train, [0, 1, 1, 0, 1])
  write_parquet(folder / "test-00000-of-00001.parquet", test, [1, 0, 1])
  data = load("cifar10", tmp_path)
  np.testing.assert_array_equal(data.train.images, train)
  np.testing.assert_array_equal(data.test.images, test)
  assert data.train.labels.tolist() == [0, 1, 1, 0, 1]
  assert data.classes == ("a", "b")
  assert data.image_shape == (6, 5, 3)


def test_cifar100_takes_the_fine_labels(tmp_path):
  folder = tmp_path / "cifar100"
  for split in ("train", "test"):
    write_parquet(folder / f"{split}.parquet", draw(2), [1, 0], label="fine_label")
  assert load("cifar100", tmp_path).train.labels.tolist() == [1, 0]


def test_class_folders_are_read(tmp_path):
  images = draw(4)
  write_folders(tmp_path / "cifar10" / "train", images, [0, 0, 1, 1])
  write_folders(tmp_path / "cifar10" / "test", images[:2], [0, 1])
  data = load("cifar10", tmp_path)
  np.testing.assert_array_equal(data.train.images, images)
  assert data.train.labels.tolist() == [0, 0, 1, 1]
  assert data.test.labels.tolist() == [0, 1]
  assert data.classes == ("class0", "class1")


def test_large_images_are_decoded_when_asked_for(tmp_path):
  root = tmp_path / "imagenet"
  for i, size in enumerate([(300, 260), (240, 500), (90, 1200), (230, 225)]):
    write_folders(root / "train" / "x", draw(1, size, i), [i])
  for path in sorted((root / "train" / "x").glob("*")):
    path.rename(root / "train" / path.name)
  (root / "train" / "x").rmdir()
  write_folders(root / "val", draw(2, (260, 300)), [0, 1])
  for name in ("class2", "class3"):
    write_folders(root / "val", draw(1, (256, 256)), [int(name[-1])])
  data = load("imagenet", tmp_path)
  assert len(data.classes) == 4
  assert data.image_shape == (224, 224, 3)
  rows = np.arange(4)
  (batch,) = batches.training_batches(data.train, rows, 4, 0, steps=(0, 1), size=224)
  assert batch[0].shape == (4, 224, 224, 3)
  assert batch[0].dtype == np.uint8
  ((images, labels),) = batches.test_batches(data.test, np.arange(3), 4, size=224)
  assert images.shape == (4, 224, 224, 3)
  assert (labels >= 0).tolist() == [True, True, True, False]


def test_a_missing_folder_is_named(tmp_path):
  with pytest.raises(ValueError, match=r"must exist, got .*nowhere"):
    load("cifar10", tmp_path / "nowhere")


def test_an_unknown_data_set_is_named():
  with pytest.raises(ValueError, match=r"one of digits, cifar10, .* got 'svhn'"):
    load("svhn")


def test_a_missing_split_is_named(tmp_path):
  write_parquet(tmp_path / "cifar10" / "train.parquet", draw(2), [0, 1])
  with pytest.raises(ValueError, match="no file of the test split"):
    load("cifar10", tmp_path)


def test_an_empty_folder_tells_the_layouts(tmp_path):
  (tmp_path / "cifar10").mkdir()
  with pytest.raises(ValueError, match=r"train\*\.parquet .* or class folders"):
    load("cifar10", tmp_path)


def test_a_missing_column_is_named(tmp_path):
  for split in ("train", "test"):
    path = tmp_path / "cifar10" / f"{split}.parquet"
    write_parquet(path, draw(2), [0, 1], image="picture")
  with pytest.raises(ValueError, match="must have a column 'img', got 'picture'"):
    load("cifar10", tmp_path)


def test_a_damaged_file_is_named(tmp_path):
  for split in ("train", "test"):
    write_parquet(tmp_path / "cifar10" / f"{split}.parquet", draw(2), [0, 1])
  path = tmp_path / "cifar10" / "test.parquet"
  path.write_bytes(path.read_bytes()[:-20])
  with pytest.raises(ValueError, match=r"test\.parquet is not a readable parquet"):
    load("cifar10", tmp_path)


def test_a_file_that_is_damaged_inside_is_named(tmp_path):
  for split in ("train", "test"):
    write_parquet(tmp_path / "cifar10" / f"{split}.parquet", draw(9), [0, 1, 1] * 3)
  path = tmp_path / "cifar10" / "test.parquet"
  content = bytearray(path.read_bytes())
  content[4:60] = bytes(56)  # Its description, at the end, is whole.
  path.write_bytes(content)
  with pytest.raises(ValueError, match=r"test\.parquet is not a readable parquet"):
    load("cifar10", tmp_path)


def test_images_have_a_fingerprint(tmp_path):
  prints = []
  for i, images in enumerate((draw(2), draw(2), draw(2, seed=1))):
    for split in ("train", "test"):
      write_parquet(tmp_path / f"{i}" / "cifar10" / f"{split}.parquet", images, [0, 1])
    data = load("cifar10", tmp_path / f"{i}")
    assert data.source == "local files"
    prints.append(data.fingerprint)
  assert prints[0] == prints[1] != prints[2]


def test_a_damaged_image_is_named(tmp_path):
  write_folders(tmp_path / "cifar10" / "train", draw(3), [0, 1, 1])
  write_folders(tmp_path / "cifar10" / "test", draw(2), [0, 1])
  (tmp_path / "cifar10" / "train" / "class1" / "2.png").write_bytes(b"no image")
  with pytest.raises(ValueError, match=r"row 2 of the train split .*2\.png"):
    load("cifar10", tmp_path)


def test_images_of_different_sizes_are_named(tmp_path):
  write_folders(tmp_path / "cifar10" / "train", draw(1), [0])
  write_folders(tmp_path / "cifar10" / "train", draw(1, (7, 7)), [1])
  write_folders(tmp_path / "cifar10" / "test", draw(2), [0, 1])
  with pytest.raises(ValueError, match=r"row 1, \(7, 7, 3\)"):
    load("cifar10", tmp_path)


def test_labels_out_of_range_are_named(tmp_path):
  for split, last in (("train", 1), ("test", 2)):
    path = tmp_path / "cifar10" / f"{split}.parquet"
    write_parquet(path, draw(2), [0, last], names=())
  with pytest.raises(ValueError, match=r"test split .* labels 0 to 1"):
    load("cifar10", tmp_path)


def test_classes_that_are_not_the_same_are_named(tmp_path):
  """Class folders are numbered in each split: c would be 2 in one, 1 in the other."""
  folder = tmp_path / "cifar10"
  write_folders(folder / "train", draw(3), "abc")
  write_folders(folder / "test", draw(2), "ac")
  with pytest.raises(ValueError, match=r"same classes, got 3 .* 2 .* both: classb"):
    load("cifar10", tmp_path)
  for split, names in (("train", "ab"), ("test", "ba")):
    path = tmp_path / "cifar100" / f"{split}.parquet"
    write_parquet(path, draw(2), [0, 1], label="fine_label", names=names)
  with pytest.raises(ValueError, match="their order differs"):
    load("cifar100", tmp_path)


@pytest.mark.parametrize(
  ("folders", "tested"), [(("test", "val"), 2), (("test",), 2), (("val",), 3)]
)
def test_validation_images_are_not_mixed_with_those_of_the_test(
  tmp_path, folders, tested
):
  write_parquet(tmp_path / "cifar10" / "train.parquet", draw(2), [0, 1])
  for name, n in (("test", 2), ("val", 3)):
    if name in folders:
      path = tmp_path / "cifar10" / f"{name}.parquet"
      write_parquet(path, draw(n), [0] * n)
  assert len(load("cifar10", tmp_path).test) == tested


HUB = "ILSVRC/imagenet-1k"


def test_the_hub_is_asked_without_a_folder(monkeypatch):
  rows = datasets.Dataset.from_dict(
    {"image": [Image.fromarray(x) for x in draw(2)], "label": [0, 1]},
    features=datasets.Features(
      image=datasets.Image(), label=datasets.ClassLabel(names=["a", "b"])
    ),
  )
  asked = []

  def load_dataset(name, *, split):
    asked.append((name, split))
    return rows

  monkeypatch.setattr(datasets, "load_dataset", load_dataset)
  data = load("imagenet")
  assert asked == [(HUB, "train"), (HUB, "validation")]
  assert data.image_shape == (224, 224, 3)
  load.cache_clear()

  def offline(name, *, split):
    raise ConnectionError("no network")

  monkeypatch.setattr(datasets, "load_dataset", offline)
  with pytest.raises(ValueError, match=r"Hugging Face hub.*ConnectionError: no net"):
    load("imagenet")


def test_select_draws_by_the_seed_and_drops_of_classes():
  labels = np.repeat(np.arange(4), 50)
  rows = select(labels, 0, images_per_class=20, dropped={1: 0.9, 3: 0.5})
  assert np.bincount(labels[rows]).tolist() == [20, 2, 20, 10]
  assert len(np.unique(rows)) == len(rows)
  np.testing.assert_array_equal(rows, np.sort(rows))
  again = select(labels, 0, images_per_class=20)
  assert set(rows) <= set(again)  # What is dropped is dropped from the same rows.
  assert set(again) != set(select(labels, 1, images_per_class=20))
  np.testing.assert_array_equal(select(labels, 0), np.arange(200))


@pytest.mark.parametrize("dropped", [{7: 0.5}, {0: 1.5}, {0: -0.1}])
def test_select_names_what_cannot_be_dropped(dropped):
  with pytest.raises(ValueError, match="dropped must map classes"):
    select(np.arange(3), 0, dropped=dropped)
