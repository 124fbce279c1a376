"""Closed forms: random directions, lower bounds, and the scale between them."""

import functools
import math

import hypothesis
import hypothesis.extra.numpy
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import betaln
from sets import every_space, icosahedron, one_of_each_line

from mhe_jax import (
  Gaussian,
  Potential,
  Riesz,
  describe,
  energy_lower_bound,
  hyperspherical_energy,
  relative_excess,
  uniform_energy,
)

POTENTIALS = [
  *(Riesz(s, metric) for s in (0, 1, 2) for metric in ("chordal", "geodesic")),
  Gaussian(2.0),
]


def pair_energy(potential, theta):
  """The definition, as a function of the angle."""
  if isinstance(potential, Gaussian):
    return np.exp(-potential.t * 4 * np.sin(theta / 2) ** 2)
  z = theta if potential.metric == "geodesic" else 2 * np.sin(theta / 2)
  return -np.log(z) if potential.s == 0 else z**-potential.s


def quadrature(potential, d, power=1):
  """Mean of f^power over the angle between random directions, by Gauss-Legendre.

  In x, theta = pi x^4, so that the ends are smooth for all d and s in use here.
  """
  x, weights = np.polynomial.legendre.leggauss(400)
  x, weights = (x + 1) / 2, weights / 2
  theta = math.pi * x**4
  log_density = (d - 2) * np.log(np.sin(theta)) - betaln(0.5, (d - 1) / 2)
  density = np.exp(log_density) * 4 * math.pi * x**3
  return np.sum(weights * density * pair_energy(potential, theta) ** power)


@functools.partial(jax.jit, static_argnums=1)
def all_energies(w, half_space):
  """Of every potential, in one compilation."""
  return [hyperspherical_energy(w, p, half_space=half_space) for p in POTENTIALS]


class TestUniformEnergy:
  @pytest.mark.parametrize("d", (4, 5, 8, 100, 4096))
  def test_inverse_square(self, d):
    expected = (d - 2) / (2 * (d - 3))
    assert uniform_energy(d, Riesz(2.0)) == pytest.approx(expected, rel=1e-14)

  @pytest.mark.parametrize(
    "d, s, expected",
    [
      (2, 0.0, 0.0),  # The logarithmic capacity of the circle is 1.
      (3, 0.0, 0.5 - math.log(2)),
      (4, 0.0, -0.25),
      (3, 1.0, 1.0),  # The potential of a charged sphere, at its surface.
      (3, 0.5, 2**0.5 / 1.5),  # Of S^2: 2^-s / (1 - s / 2).
      (3, 1.5, 2**-1.5 / 0.25),
      (5, 1.0, 0.8),
      (1_000_000, 1.0, 2**-0.5),
    ],
  )
  def test_known_values(self, d, s, expected):
    assert uniform_energy(d, Riesz(s)) == pytest.approx(expected, rel=1e-6, abs=1e-12)

  @pytest.mark.parametrize("metric", ("chordal", "geodesic"))
  @pytest.mark.parametrize("d, s", ((1, 0), (2, 1), (2, 1.5), (3, 2), (4, 3), (8, 7)))
  def test_infinite_where_close_pairs_are_too_likely(self, d, s, metric):
    assert uniform_energy(d, Riesz(s, metric)) == math.inf
    assert d == 1 or uniform_energy(d + 1, Riesz(s, metric)) < math.inf

  @pytest.mark.parametrize("d", (5, 64))
  @pytest.mark.parametrize(
    "potential",
    [*POTENTIALS, Riesz(3.5), Riesz(0.5, "geodesic"), Gaussian(0.1), Gaussian(20.0)],
    ids=str,
  )
  def test_agrees_with_quadrature(self, potential, d):
    expected = quadrature(potential, d)
    assert uniform_energy(d, potential) == pytest.approx(expected, rel=1e-9)

  def test_on_the_circle(self):
    assert uniform_energy(2, Riesz(0.0, "geodesic")) == pytest.approx(
      1 - math.log(math.pi), rel=1e-9
    )
    assert uniform_energy(2, Riesz(0.5, "geodesic")) == pytest.approx(
      2 * math.pi**-0.5, rel=1e-9
    )

  @pytest.mark.parametrize("potential", POTENTIALS, ids=str)
  def test_two_points(self, potential):
    """In one dimension two directions are equal or opposite, each half of the time."""
    if isinstance(potential, Gaussian):
      expected = (1 + math.exp(-8)) / 2
      assert uniform_energy(1, potential) == pytest.approx(expected, rel=1e-14)
    else:
      assert uniform_energy(1, potential) == math.inf

  def test_very_many_dimensions(self):
    """Cosines are 0 there, with variance 1 / d: E f(t) = f(0) + f''(0) / (2 d)."""
    d = 1_000_000
    for potential in POTENTIALS:
      theta = np.arccos(np.array([-1e-3, 0.0, 1e-3]))
      before, at, after = pair_energy(potential, theta)
      expected = at + (before - 2 * at + after) / 1e-6 / (2 * d)
      assert uniform_energy(d, potential) == pytest.approx(expected, rel=1e-8)

  @every_space
  def test_random_neurons_have_this_energy(self, half_space):
    """Rows of a Gaussian matrix: mean and variance of the mean pair energy."""
    num_sets, n, d = 4096, 6, 7
    rows = np.random.default_rng(0).normal(size=(num_sets, n, d))
    for potential, energies in zip(POTENTIALS, all_energies(rows, half_space)):
      expected = uniform_energy(d, potential, half_space=half_space, n=n)
      error = energies.std() / math.sqrt(num_sets)
      assert abs(energies.mean() - expected) < 4 * error, potential
      if not half_space:
        # The pairs of a set are pairwise independent.
        first, second = quadrature(potential, d), quadrature(potential, d, power=2)
        variance = 2 * (second - first**2) / (n * (n - 1))
        assert energies.var() == pytest.approx(variance, rel=0.3), potential

  @pytest.mark.parametrize("potential", POTENTIALS, ids=str)
  def test_half_space(self, potential):
    d, n = 8, 5
    random = uniform_energy(d, potential)
    antipodal = pair_energy(potential, math.pi)
    # n (n - 1) / 2 pairs of neurons count four times, n pairs are antipodes.
    expected = (2 * n * (n - 1) * random + n * antipodal) / (n * (2 * n - 1))
    half = uniform_energy(d, potential, half_space=True, n=n)
    assert half == pytest.approx(expected, rel=1e-12)
    assert uniform_energy(d, potential, half_space=True) == random
    only = uniform_energy(d, potential, half_space=True, n=1)
    assert only == pytest.approx(antipodal, rel=1e-12)
    assert uniform_energy(d, potential, n=n) == random


def simplex(n, d):
  """n <= d + 1 points at equal distances, in d dimensions."""
  centered = np.eye(n) - 1 / n
  return np.pad(centered @ np.linalg.svd(centered)[2][:-1].T, ((0, 0), (0, d - n + 1)))


def two_antipodal_pairs():
  return np.concatenate([np.eye(8)[:2], -np.eye(8)[:2]])


def three_lines():
  angles = math.pi * np.arange(3) / 3
  return np.stack([np.cos(angles), np.sin(angles)], axis=1)


class TestLowerBound:
  @pytest.mark.parametrize("n, d", ((2, 1), (2, 4), (4, 3), (5, 8)))
  def test_simplex(self, n, d):
    angle = math.acos(-1 / (n - 1))
    for potential, energy in zip(POTENTIALS, all_energies(simplex(n, d), False)):
      expected = pair_energy(potential, angle)
      assert float(energy) == pytest.approx(expected, rel=1e-7), potential
      bound = energy_lower_bound(n, d, potential)
      # The geodesic potential is concave near the antipode: the simplex is the best
      # of two, but maybe not of more neurons than that.
      if getattr(potential, "metric", "chordal") == "chordal" or n == 2:
        assert bound == pytest.approx(expected, rel=1e-12), potential
      else:
        assert bound <= expected, potential

  @pytest.mark.parametrize(
    "lines",
    [np.eye(4), np.eye(4)[:3], three_lines(), one_of_each_line(icosahedron())],
    ids=["orthonormal", "orthogonal", "Mercedes-Benz", "icosahedron"],
  )
  def test_orthogonal_and_equiangular_lines(self, lines):
    """Tight frames of equal angles meet the Welch bound."""
    for potential, energy in zip(POTENTIALS, all_energies(lines, True)):
      bound = energy_lower_bound(*lines.shape, potential, half_space=True)
      assert float(energy) == pytest.approx(bound, rel=1e-7), potential

  @pytest.mark.parametrize("potential", POTENTIALS, ids=str)
  def test_orthogonal_formula(self, potential):
    n, d = 5, 9
    antipodal, right = pair_energy(potential, np.array([math.pi, math.pi / 2]))
    expected = (antipodal + (2 * n - 2) * right) / (2 * n - 1)
    bound = energy_lower_bound(n, d, potential, half_space=True)
    assert bound == pytest.approx(expected, rel=1e-12)

  def test_the_geodesic_logarithm_prefers_antipodes_to_the_simplex(self):
    potential = Riesz(0.0, "geodesic")
    bound = 6 * energy_lower_bound(4, 8, potential)
    pairs = hyperspherical_energy(two_antipodal_pairs(), potential, reduction="sum")
    regular = hyperspherical_energy(simplex(4, 8), potential, reduction="sum")
    assert float(pairs) == pytest.approx(-4.0957903, abs=1e-6)
    assert float(regular) == pytest.approx(-3.8846083, abs=1e-6)
    assert bound <= float(pairs)

  @pytest.mark.parametrize("s", (0.0, 1.0, 2.0, 8.0, 100.0))
  @pytest.mark.parametrize("n", (2, 3, 4, 7, 50))
  def test_geodesic_bound_is_the_convex_envelope(self, n, s):
    """The least mean of f at mean cosine -1 / (n - 1), over all pairs of cosines."""
    potential = Riesz(s, "geodesic")
    mean = -1 / (n - 1)
    left = np.concatenate([[-1.0], np.linspace(-1, mean, 200)])[:, None]
    right = np.linspace(mean, 0.2, 4001)[None]
    share = (right - mean) / np.maximum(right - left, 1e-300)
    f = [pair_energy(potential, np.arccos(t)) for t in (left, right)]
    mixtures = np.where(right > left, share * f[0] + (1 - share) * f[1], f[1])
    bound = energy_lower_bound(n, n + 3, potential)
    assert bound == pytest.approx(mixtures.min(), rel=1e-4)

  # Rows of small whole numbers are often equal, opposite or orthogonal; the
  # configurations of least energy are close to these.
  @hypothesis.settings(max_examples=40, deadline=None)
  @hypothesis.given(data=st.data())
  @every_space
  @pytest.mark.parametrize("n, d", ((2, 3), (4, 3), (4, 8), (7, 2)))
  def test_nothing_is_below_the_bound(self, n, d, half_space, data):
    elements = data.draw(st.sampled_from([st.integers(-1, 1), st.floats(-1, 1)]))
    w = data.draw(hypothesis.extra.numpy.arrays(float, (n, d), elements=elements))
    w[np.linalg.norm(w, axis=1) < 1e-3] = np.eye(d)[0]  # The bound is of directions.
    for potential, energy in zip(POTENTIALS, all_energies(w, half_space)):
      bound = energy_lower_bound(n, d, potential, half_space=half_space)
      assert float(energy) >= bound - 1e-7 * max(1.0, abs(bound)), potential


class TestRelativeExcess:
  @pytest.mark.parametrize(
    "potential", [Riesz(0.0), Riesz(2.0), Gaussian(2.0)], ids=str
  )
  def test_zero_at_the_bound(self, potential):
    assert float(relative_excess(simplex(5, 8), potential)) == pytest.approx(
      0.0, abs=1e-9
    )
    orthogonal = relative_excess(np.eye(6), potential, half_space=True)
    assert float(orthogonal) == pytest.approx(0.0, abs=1e-9)

  @every_space
  @pytest.mark.parametrize("potential", [Riesz(1.0), Riesz(1.0, "geodesic")], ids=str)
  def test_one_at_random_and_more_at_redundant_neurons(self, potential, half_space):
    rng = np.random.default_rng(0)
    w = rng.normal(size=(256, 12, 16))
    redundant = w[:, np.arange(12) // 2] + 0.1 * w  # Six pairs, nearly collinear.
    signs = (-1.0) ** np.arange(12)[:, None] if half_space else 1.0
    excess = np.asarray(
      relative_excess(
        np.stack([w, signs * redundant]), potential, half_space=half_space
      )
    )
    assert excess.shape == (2, 256)
    error = excess[0].std() / math.sqrt(256)
    assert abs(excess[0].mean() - 1) < 4 * error < 0.1
    assert (excess[1] > 1.5).all()

  @pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
  def test_keeps_float32_and_differentiates(self, dtype):
    w = np.random.default_rng(0).normal(size=(8, 4)).astype(jnp.dtype(dtype))
    value, gradient = jax.jit(jax.value_and_grad(relative_excess))(w)
    assert value.dtype == jnp.float32
    assert gradient.dtype == w.dtype
    assert np.isfinite(np.asarray(gradient, float)).all()

  def test_takes_lists(self):
    w = [[1.0, 0.0], [1.0, 1.0], [-1.0, 3.0]]
    assert float(relative_excess(w, Gaussian())) == float(
      relative_excess(np.array(w), Gaussian())
    )

  @pytest.mark.parametrize("debug_nans", (False, True))
  @pytest.mark.parametrize(
    "d, potential, half_space",
    [
      (3, Riesz(2.0), False),  # Random directions have infinite energy.
      (3, Riesz(2.0), True),
      (2, Riesz(1.0, "geodesic"), False),
      (1, Gaussian(2.0), True),  # All configurations are the same two points.
      (1, Gaussian(0.3), True),
    ],
  )
  def test_nan_where_there_is_no_scale(self, d, potential, half_space, debug_nans):
    w = np.random.default_rng(0).normal(size=(2, 5, d))

    def excess(w):
      return relative_excess(w, potential, half_space=half_space)

    with jax.debug_nans(debug_nans):
      assert excess(w).shape == (2,)
      assert np.isnan(excess(w)).all()
      value, gradient = jax.value_and_grad(excess)(w[0])
      assert np.isnan(value)
      assert np.isfinite(gradient).all()
      (row,) = describe(
        {"kernel": jnp.asarray(w[0].T)}, potential, half_space=half_space
      )
      assert np.isnan(row.relative_excess)
      assert np.isfinite(row.energy)

  @pytest.mark.parametrize("transform", (jax.jit, jax.vmap))
  def test_transforms_want_to_be_told_that_nan_is_an_answer(self, transform):
    excess = transform(lambda w: relative_excess(w, Riesz(2.0)))
    w = np.random.default_rng(0).normal(size=(2, 5, 3))
    with jax.debug_nans(True):
      with pytest.raises(FloatingPointError):
        excess(w)
      with jax.debug_nans(False):
        assert np.isnan(excess(w)).all()

  def test_nan_rows_stay_nan(self):
    w = np.random.default_rng(0).normal(size=(2, 5, 4))
    w[1, 0, 0] = math.nan
    assert np.isnan(relative_excess(w)).tolist() == [False, True]


class Cosine(Potential):
  def value(self, r):
    return 1.0 - 0.5 * r


@pytest.mark.parametrize(
  "call, error, match",
  [
    (lambda: uniform_energy(0), ValueError, r"\bd must"),
    (lambda: uniform_energy(2.5), ValueError, r"\bd must"),
    (lambda: uniform_energy(math.nan), ValueError, r"\bd must"),
    (lambda: uniform_energy("8"), (TypeError, ValueError), r"\bd must"),
    (lambda: uniform_energy(None), (TypeError, ValueError), r"\bd must"),
    (lambda: uniform_energy(8, 2.0), TypeError, "potential"),
    (lambda: uniform_energy(8, half_space=True, n=0), ValueError, r"\bn must"),
    (lambda: energy_lower_bound(1, 8), ValueError, r"\bn must"),
    (lambda: energy_lower_bound(2.5, 8), ValueError, r"\bn must"),
    (lambda: energy_lower_bound(2, 0), ValueError, r"\bd must"),
    (lambda: energy_lower_bound(2, 8, "riesz"), TypeError, "potential"),
    (lambda: energy_lower_bound(2, 8, Cosine()), NotImplementedError, "Cosine"),
    (lambda: relative_excess(np.ones((1, 3))), ValueError, r"\bn must"),
    (lambda: relative_excess(np.ones((3, 0))), ValueError, r"\bd must"),
    (lambda: relative_excess(np.ones(3)), ValueError, "neurons"),
    (lambda: relative_excess(np.ones((3, 3), int)), TypeError, "neurons"),
    (lambda: relative_excess(np.eye(3), "riesz"), TypeError, "potential"),
    (lambda: relative_excess(np.eye(3), Cosine()), NotImplementedError, "Cosine"),
  ],
)
def test_bad_arguments_are_named(call, error, match):
  with pytest.raises(error, match=match):
    call()
