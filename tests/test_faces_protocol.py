"""Verification and identification on scores whose outcome is known, and splits."""

import math

import numpy as np
import pytest

from experiments.data.faces import Faces, Pairs
from experiments.errors import InputError
from experiments.faces.protocol import (
  best_threshold,
  equal_error_rate,
  rank_one,
  roc,
  true_accept_rate,
  verify,
)
from experiments.faces.split import MOST_PROBES, drawn_pairs, separate, split


def booleans(*values):
  return np.array(values, bool)


def test_the_curve_of_five_pairs():
  scores = np.array([0.9, 0.8, 0.8, 0.3, 0.1])
  same = booleans(1, 1, 0, 1, 0)
  curve = roc(scores, same)  # The two of 0.8 are accepted together.
  np.testing.assert_allclose(curve.false, [0, 0, 1 / 2, 1 / 2, 1])
  np.testing.assert_allclose(curve.true, [0, 1 / 3, 2 / 3, 1, 1])
  # From (0, 1/3) to (1/2, 2/3), where FAR = 1 - TAR: t/2 = 2/3 - t/3.
  assert equal_error_rate(scores, same) == pytest.approx(0.4)
  assert true_accept_rate(scores, same, 0.5) == 1.0
  assert math.isnan(true_accept_rate(scores, same, 0.49))  # One of two is a half.
  order = np.random.default_rng(0).permutation(5)
  np.testing.assert_array_equal(roc(scores[order], same[order]).true, curve.true)


def test_rates_of_perfect_reversed_and_equal_scores():
  same = np.arange(200) < 100
  perfect = np.where(same, 0.8, 0.2) + np.linspace(0, 0.1, 200)
  assert equal_error_rate(perfect, same) == 0.0
  assert true_accept_rate(perfect, same, 0.01) == 1.0
  assert equal_error_rate(-perfect, same) == 1.0
  assert true_accept_rate(-perfect, same, 0.01) == 0.0
  assert equal_error_rate(np.zeros(200), same) == 0.5
  assert 0.2 < best_threshold(perfect, same) < 0.9


def test_rates_of_normal_scores_are_the_closed_forms():
  """Two normal distributions, one standard deviation 1, means 0 and 2."""
  from scipy.stats import norm

  quantiles = norm.ppf((np.arange(20_000) + 0.5) / 20_000)
  scores = np.concatenate([quantiles + 2.0, quantiles])
  same = np.arange(40_000) < 20_000
  assert equal_error_rate(scores, same) == pytest.approx(norm.sf(1.0), abs=1e-4)
  assert best_threshold(scores, same) == pytest.approx(1.0, abs=0.05)
  for rate in (1e-2, 1e-3):
    expected = norm.sf(norm.isf(rate) - 2.0)
    assert true_accept_rate(scores, same, rate) == pytest.approx(expected, abs=2e-3)


def test_the_best_threshold_is_that_of_trying_all():
  rng = np.random.default_rng(0)
  for _ in range(50):
    scores = rng.integers(0, 8, 15) / 8.0
    same = rng.random(15) < 0.5
    levels = np.unique(scores)
    tried = [-math.inf, *((levels[1:] + levels[:-1]) / 2), math.inf]
    correct = [np.mean((scores >= t) == same) for t in tried]
    assert best_threshold(scores, same) == tried[int(np.argmax(correct))]


def test_the_threshold_of_a_fold_is_chosen_on_the_others():
  # Each fold alone is perfect; the first at another threshold than the others.
  scores = np.array([0.3, 0.2, 0.8, 0.5, 0.9, 0.6])
  same = booleans(1, 0, 1, 0, 1, 0)
  folds = np.array([7, 7, 1, 1, 2, 2])
  found = verify(scores, same, folds)
  # 7: threshold 0.7, both rejected. Of 1 and of 2: the other threshold is not exact.
  fold_1 = best_threshold(scores[folds != 1], same[folds != 1])
  fold_2 = best_threshold(scores[folds != 2], same[folds != 2])
  assert (fold_1, fold_2) == (0.25, 0.25)  # The first of two that are as good.
  accuracies = [0.5, 0.5, 0.5]
  assert found.accuracy == pytest.approx(np.mean(accuracies))
  assert found.standard_error == 0.0


def test_accuracy_and_its_standard_error_are_over_the_folds():
  scores = np.tile([1.0, 0.0], 8)
  same = np.tile([True, False], 8)
  same[:2] = [False, True]  # Wrong in the first fold of four.
  found = verify(scores, same, np.repeat(np.arange(4), 4))
  accuracies = [0.5, 1.0, 1.0, 1.0]
  assert found.accuracy == pytest.approx(np.mean(accuracies))
  assert found.standard_error == pytest.approx(np.std(accuracies, ddof=1) / 2.0)


def test_random_scores_verify_half_of_the_pairs():
  rng = np.random.default_rng(0)
  scores, same = rng.random(10_000), np.tile([True, False], 5000)
  found = verify(scores, same, np.repeat(np.arange(10), 1000))
  assert found.accuracy == pytest.approx(0.5, abs=0.03)
  assert equal_error_rate(scores, same) == pytest.approx(0.5, abs=0.03)


def test_rank_one_falls_with_distractors():
  gallery = np.array([[0.9, 0.1], [0.2, 0.5], [0.6, 0.7], [0.4, 0.4]])
  owners = np.array([0, 1, 0, 1])  # Two right, one wrong, one tied, which is wrong.
  distractors = np.array([[0.1, 0.3, 0.95], [0.6, 0.0, 0.0], [0, 0, 0], [0, 0, 0]])
  assert rank_one(gallery, owners, distractors, [0, 1, 2, 3]) == [0.5, 0.25, 0.25, 0.0]


def faces_of(counts, pairs=None, shuffled=False):
  people = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
  if shuffled:
    people = np.random.default_rng(0).permutation(people)
  images = np.zeros((len(people), 2, 2, 1), np.uint8)
  return Faces(images, people, pairs, "here", "none")


def test_nobody_is_trained_on_and_tested():
  for faces in (faces_of([6] * 12), faces_of([6] * 14, shuffled=True)):
    training, testing = split(faces)
    trained, tested = (
      {*faces.people[rows].tolist()} for rows in (training.rows, testing.rows)
    )
    assert trained.isdisjoint(tested)
    assert trained | tested == {*faces.people.tolist()}
    assert training.num_classes == len(trained)
    labels = training.labels[training.rows]
    assert sorted({*labels.tolist()}) == list(range(len(trained)))
    for label in range(len(trained)):  # One person each.
      assert len({*faces.people[training.labels == label].tolist()}) == 1
    # Searched for and distracting people are others again.
    assert {*faces.people[testing.gallery]}.isdisjoint(
      faces.people[testing.distractors]
    )
    assert not {*testing.gallery} & {*testing.probes}
    owners = testing.gallery[testing.owners]
    np.testing.assert_array_equal(faces.people[owners], faces.people[testing.probes])


def test_drawn_pairs_are_balanced_in_folds_of_different_people():
  people = faces_of([10] * 20).people
  pairs = drawn_pairs(people, np.arange(20))
  assert np.bincount(pairs.folds).tolist() == [180] * 10
  np.testing.assert_array_equal(pairs.same, people[pairs.first] == people[pairs.second])
  for fold in range(10):
    inside = pairs.folds == fold
    assert pairs.same[inside].sum() == 90  # All of two people of ten images.
    ends = np.concatenate([pairs.first[inside], pairs.second[inside]])
    outside = np.concatenate([pairs.first[~inside], pairs.second[~inside]])
    assert {*people[ends]}.isdisjoint(people[outside])
  assert len(np.unique(np.stack([pairs.first, pairs.second]), axis=1).T) == len(pairs)


def test_people_of_the_tested_folds_alone_are_left_out():
  # Two images of each of 16 people in pairs, in four folds of four people; six more.
  counts = [6] * 16 + [6] * 6 + [1] * 5 + [30]
  people = faces_of(counts).people
  firsts = np.searchsorted(people, np.arange(16))
  same = Pairs(firsts, firsts + 1, np.ones(16, bool), np.arange(16) // 4)
  other = np.roll(firsts.reshape(4, 4), 1, 1).ravel()
  different = Pairs(firsts, other, np.zeros(16, bool), np.arange(16) // 4)
  columns = zip(*((p.first, p.second, p.same, p.folds) for p in (same, different)))
  faces = faces_of(counts, Pairs(*map(np.concatenate, columns)))
  training, testing = split(faces, folds=(1, 2))
  assert {*people[training.rows].tolist()} == {*range(4), *range(12, 22), 27}
  assert {*np.unique(testing.pairs.folds)} == {1, 2}
  assert {*people[testing.distractors].tolist()} == {*range(22, 27)}
  assert {*people[testing.gallery].tolist()} == {*range(4, 12)}
  _, all_tested = split(faces)
  assert {*people[all_tested.gallery].tolist()} == {*range(16)}
  # On another data set: all of its people.
  training, testing = separate(faces_of([5, 4, 6, 7]), faces, folds=(0, 3))
  assert training.num_classes == 3
  assert {*people[testing.gallery].tolist()} == {*range(22), 27}
  assert max(np.bincount(testing.owners)) == MOST_PROBES  # Of 29.


@pytest.mark.parametrize(
  ("counts", "options", "text"),
  [
    ([6] * 12, {"least_images": 7}, "three people or more to train on, got 0"),
    ([6] * 4, {}, "must be four or more"),
    ([6], {}, "must be four or more"),
    ([6] * 3, {}, "must be four or more"),
    ([6] * 12, {"folds": (0, 9)}, "folds must be of 0, 1, 2, got 9"),
    ([6] * 12, {"folds": (1,)}, "two or more"),
    ([6, 1] * 6, {}, "most with two images or more"),
  ],
)
def test_what_cannot_be_split_is_told(counts, options, text):
  with pytest.raises(InputError, match=text):
    split(faces_of(counts), **options)
