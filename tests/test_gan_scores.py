"""Scores of samples, against closed forms; in float64."""

import numpy as np
import pytest
import scipy.linalg
import scipy.spatial

from experiments.gan.scores import (
  Scores,
  Seen,
  classifier_score,
  coverage,
  frechet_distance,
  jackknife,
  neighbor_radii,
  precision_and_recall,
  scores,
  standard_errors,
)
from experiments.gan.task import has_collapsed


def with_moments(rng, mean, covariance, n=50):
  """Features whose sample mean and covariance are exactly these."""
  d = len(mean)
  x = rng.normal(size=(n, d))
  x -= x.mean(0)
  whitened = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
  return whitened @ scipy.linalg.sqrtm(covariance).real + mean


def test_the_classifier_score_is_the_number_of_classes_at_best_and_1_at_worst():
  assert classifier_score(np.eye(7)) == pytest.approx(7.0, rel=1e-12)
  assert classifier_score(np.full((5, 7), 1 / 7)) == pytest.approx(1.0, rel=1e-12)
  assert classifier_score(np.eye(7)[[2, 2, 2]]) == pytest.approx(1.0, rel=1e-12)
  # Two kinds of images, (a, 1 - a) and (1 - a, a): log 2 minus their entropy.
  a = 0.9
  entropy = -a * np.log(a) - (1 - a) * np.log(1 - a)
  p = np.array([[a, 1 - a], [1 - a, a]])
  assert classifier_score(p) == pytest.approx(2.0 * np.exp(-entropy), rel=1e-12)


def test_the_frechet_distance_of_normals_with_commuting_covariances():
  """There it is the squared distance of means and of standard deviations."""
  rng = np.random.default_rng(0)
  mean1, mean2 = rng.normal(size=(2, 4))
  std1, std2 = rng.uniform(0.5, 2.0, (2, 4))
  axes = np.linalg.qr(rng.normal(size=(4, 4)))[0]
  first = with_moments(rng, mean1, axes @ np.diag(std1**2) @ axes.T)
  second = with_moments(rng, mean2, axes @ np.diag(std2**2) @ axes.T, n=70)
  expected = np.sum((mean1 - mean2) ** 2) + np.sum((std1 - std2) ** 2)
  assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-10)


def test_the_frechet_distance_is_that_of_the_formula():
  rng = np.random.default_rng(1)
  first, second = (
    rng.normal(size=(30, 5)) @ rng.normal(size=(5, 5)),
    rng.normal(size=(40, 5)),
  )
  a, b = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
  root = scipy.linalg.sqrtm(a @ b).real
  expected = np.sum((first.mean(0) - second.mean(0)) ** 2)
  expected += np.trace(a + b - 2.0 * root)
  assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-10)
  assert frechet_distance(second, first) == pytest.approx(expected, rel=1e-10)


def test_the_frechet_distance_of_equal_and_of_singular_sets():
  rng = np.random.default_rng(2)
  x = rng.normal(size=(20, 6))
  assert frechet_distance(x, x[::-1]) < 1e-12
  assert frechet_distance(x, x + 3.0) == pytest.approx(6 * 9.0, rel=1e-10)
  flat = rng.normal(size=(4, 6))  # Of rank 3, and a single image again and again.
  assert frechet_distance(flat, flat) < 1e-12
  point = np.repeat(flat[:1], 5, 0)
  expected = np.sum((x.mean(0) - flat[0]) ** 2) + np.var(x, 0, ddof=1).sum()
  assert frechet_distance(x, point) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("chunk", [3, 1000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_radii_and_coverage_are_those_of_all_distances(chunk, dtype):
  rng = np.random.default_rng(3)
  points = (rng.normal(size=(23, 5)) + 100.0).astype(dtype)
  queries = (2.0 * rng.normal(size=(17, 5)) + 100.0).astype(dtype)
  own = scipy.spatial.distance.cdist(points, points, "sqeuclidean")
  expected = np.sort(own, 1)[:, 3]  # Itself comes first.
  radii = neighbor_radii(points, 3, chunk)
  rtol = {np.float32: 1e-4, np.float64: 1e-9}[dtype]
  np.testing.assert_allclose(radii, expected, rtol=rtol)
  d = scipy.spatial.distance.cdist(queries, points, "sqeuclidean")
  inside = coverage(points, radii, queries, chunk)
  np.testing.assert_array_equal(inside, (d <= expected).any(1))
  assert 0 < inside.sum() < len(queries)


def test_precision_and_recall_of_equal_far_and_half_covering_sets():
  rng = np.random.default_rng(4)
  x = rng.normal(size=(40, 3))
  assert precision_and_recall(x, x) == (1.0, 1.0)
  assert precision_and_recall(x, x + 100.0) == (0.0, 0.0)
  both = np.concatenate([x, x + 100.0])  # Real images of two kinds, samples of one.
  assert precision_and_recall(both, x) == (1.0, 0.5)
  assert precision_and_recall(x, both) == (0.5, 1.0)
  same = np.repeat(x[:1], 10, 0)  # One image, again and again: all real, one covered.
  assert precision_and_recall(x, same) == (1.0, 1 / 40)
  with pytest.raises(ValueError, match="more than k = 3 points, got 3"):
    neighbor_radii(x[:3])


def test_the_jackknife_of_a_mean_is_its_standard_error():
  x = np.random.default_rng(5).normal(size=60)
  (error,) = jackknife(lambda rows: (x[rows].mean(),), 60, groups=60)
  assert error == pytest.approx(x.std(ddof=1) / np.sqrt(60), rel=1e-10)
  of_groups = x.reshape(-1, 10).mean(0)  # Sample i is in group i modulo 10.
  (error,) = jackknife(lambda rows: (x[rows].mean(),), 60)
  assert error == pytest.approx(of_groups.std(ddof=1) / np.sqrt(10), rel=1e-10)


def test_standard_errors_are_about_the_spread_of_scores_over_draws():
  rng = np.random.default_rng(6)

  def draw(n):
    p = rng.dirichlet(np.ones(4), size=n)
    return Seen(rng.normal(size=(n, 3)), p)

  reference = draw(300)
  draws = [draw(300) for _ in range(30)]
  spread = np.std([scores(reference, x) for x in draws], 0, ddof=1)
  errors = np.mean([standard_errors(reference, x) for x in draws[:10]], 0)
  ratios = errors / spread
  assert np.all((ratios > 0.5) & (ratios < 2.0)), ratios


def test_what_counts_as_collapsed():
  fine = Scores(frechet=5.0, classifier=3.0, precision=0.5, recall=0.2)
  assert not has_collapsed(fine, 6.0)
  assert has_collapsed(fine, 5.0)
  assert has_collapsed(fine._replace(recall=0.009), 6.0)
  assert has_collapsed(fine._replace(precision=0.009), 6.0)
