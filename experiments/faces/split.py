"""Open-set splits: nobody who is trained on is tested on."""

from typing import NamedTuple

import numpy as np

from experiments.data.faces import Faces, Pairs
from experiments.errors import InputError

NUM_FOLDS = 10
MOST_PAIRS = 300  # Of each kind in a fold: as many as LFW has.
MOST_PROBES = 9  # Of a person: some have hundreds of images, and would decide alone.


class Training(NamedTuple):
  """Who is trained on.

  Attributes:
    rows: numbers of their images, ``[n]``.
    labels: of all images of the data set: classes 0 to C - 1, or -1.
    num_classes: C.
  """

  rows: np.ndarray
  labels: np.ndarray
  num_classes: int


class Testing(NamedTuple):
  """Who is tested, none of them trained on.

  Attributes:
    pairs: to be told apart.
    gallery: an image of each person who is searched for.
    probes: their other images,
    owners: and whose these are: places in the gallery.
    distractors: images of other people among whom they are searched for.
  """

  pairs: Pairs
  gallery: np.ndarray
  probes: np.ndarray
  owners: np.ndarray
  distractors: np.ndarray

  @property
  def rows(self) -> np.ndarray:
    """All images that are needed, sorted."""
    images = (self.pairs.first, self.pairs.second, *self[1:3], self.distractors)
    return np.unique(np.concatenate(images))


def split(
  faces: Faces, *, folds: tuple[int, ...] = (), least_images: int = 5
) -> tuple[Training, Testing]:
  """People to train on and people to test, of one data set, whatever the seed.

  If it comes with pairs, all people of the tested folds are left out of training, and
  the others that have enough images are trained on. Otherwise every second person is
  tested, and the pairs are drawn.

  Args:
    faces: the data set.
    folds: which are tested; all by default.
    least_images: of a person who is trained on.

  Raises:
    InputError: folds that are not there or less than two, or nobody left for training.
  """
  if faces.pairs is None:
    tested = np.unique(faces.people)[1::2]
    pairs = _of_folds(drawn_pairs(faces.people, tested), folds)
  else:
    pairs = _of_folds(faces.pairs, folds)
    tested = np.unique(faces.people[np.concatenate([pairs.first, pairs.second])])
  free = np.setdiff1d(np.unique(faces.people), tested)
  counts = np.bincount(faces.people)
  trained = free[counts[free] >= least_images]
  if len(trained) < 3:
    raise InputError(
      "folds and least_images must leave three people or more to train on, got "
      f"{len(trained)}: of {len(free)} people who are not tested, so many have "
      f"{least_images} images or more."
    )
  return _training(faces, trained), _testing(faces, pairs, trained)


def separate(
  faces: Faces,
  others: Faces,
  *,
  folds: tuple[int, ...] = (),
  least_images: int = 5,
) -> tuple[Training, Testing]:
  """All people of a data set to train on, and those of another one to test.

  Raises:
    InputError: as :func:`split`.
  """
  counts = np.bincount(faces.people)
  trained = np.flatnonzero(counts >= least_images)
  if len(trained) < 3:
    raise InputError(
      "least_images must leave three people or more to train on, got "
      f"{len(trained)} with {least_images} images or more."
    )
  pairs = others.pairs
  if pairs is None:
    pairs = drawn_pairs(others.people, np.unique(others.people))
  return _training(faces, trained), _testing(others, _of_folds(pairs, folds), ())


def drawn_pairs(people: np.ndarray, tested: np.ndarray) -> Pairs:
  """Pairs in ten folds of different people, as many of the same as of two people.

  All pairs of a fold, of each kind as many as there are of the rarer, at most 300.

  Args:
    people: of each image.
    tested: which people.

  Raises:
    InputError: too few people, or too few images of each, for two folds.
  """
  rng = np.random.default_rng(0)
  num_folds = min(NUM_FOLDS, len(tested) // 2)
  groups = np.array_split(rng.permutation(tested), num_folds) if num_folds else []
  parts = []
  for fold, group in enumerate(groups):
    rows = np.flatnonzero(np.isin(people, group))
    first, second = (rows[ends] for ends in np.triu_indices(len(rows), 1))
    same = people[first] == people[second]
    kinds = [np.flatnonzero(same), np.flatnonzero(~same)]
    count = min(*map(len, kinds), MOST_PAIRS)
    chosen = np.sort(np.concatenate([rng.permutation(kind)[:count] for kind in kinds]))
    if count:
      folds = np.full(len(chosen), fold)
      parts.append((first[chosen], second[chosen], same[chosen], folds))
  if len(parts) < 2:
    raise InputError(
      "the people who are tested must be four or more, most with two images or more, "
      f"got {len(tested)} with {np.isin(people, tested).sum()} images."
    )
  return Pairs(*(np.concatenate(columns) for columns in zip(*parts)))


def _of_folds(pairs, folds):
  there = np.unique(pairs.folds)
  missing = sorted({*folds} - {*there.tolist()})
  if missing:
    raise InputError(
      f"folds must be of {', '.join(map(str, there))}, got {missing[0]}."
    )
  chosen = pairs[np.isin(pairs.folds, folds)] if folds else pairs
  if len(np.unique(chosen.folds)) < 2:
    raise InputError(
      "folds must be two or more, for the threshold of each is chosen on others, got "
      f"{len(np.unique(chosen.folds))}."
    )
  for fold in np.unique(chosen.folds):
    if len(np.unique(chosen.same[chosen.folds == fold])) < 2:
      raise InputError(f"fold {fold} must have pairs of the same and of two people.")
  return chosen


def _training(faces, trained):
  labels = np.full(faces.people.max() + 1, -1, np.int32)
  labels[trained] = np.arange(len(trained))
  labels = labels[faces.people]
  return Training(np.flatnonzero(labels >= 0), labels, len(trained))


def _testing(faces, pairs, trained):
  """Of people who are not trained on: those with one image are what distracts.

  Where there are none, every second person is.
  """
  counts = np.bincount(faces.people)
  free = np.setdiff1d(np.unique(faces.people), np.asarray(trained, int))
  alone, searched = free[counts[free] == 1], free[counts[free] > 1]
  if not len(alone):
    alone, searched = searched[1::2], searched[::2]
  images = [np.flatnonzero(faces.people == person) for person in searched]
  gallery = np.array([rows[0] for rows in images])
  probes = [rows[1 : 1 + MOST_PROBES] for rows in images]
  owners = np.repeat(np.arange(len(images)), [len(rows) for rows in probes])
  distractors = np.flatnonzero(np.isin(faces.people, alone))
  # In an order of chance, for the first of them are the few that distract a little.
  distractors = np.random.default_rng(0).permutation(distractors)
  return Testing(pairs, gallery, np.concatenate(probes), owners, distractors)
