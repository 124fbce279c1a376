"""minimize_energy: the known minima on spheres, and its arguments."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mhe_jax import (
  Gaussian,
  Potential,
  Riesz,
  energy_lower_bound,
  hyperspherical_energy,
  minimize_energy,
  uniform_energy,
)

# Least energies, summed over i < j, of points on the sphere in three dimensions:
# s = 1 is the Thomson problem (Wales and Ulker, 2006), s = 0 Whyte's problem.
MINIMA = {  # n: s = 0, 1, 2
  2: (-0.693147181, 0.5, 0.25),
  3: (-1.647918433, 1.732050808, 1.0),
  4: (-2.942487759, 3.674234614, 2.25),
  5: (-4.420507155, 6.474691495, 4.25),
  6: (-6.238324625, 9.985281374, 6.75),
  7: (-8.182477864, 14.452977414, 10.25),
  8: (-10.428017781, 19.675287861, 14.336791084),
  10: (-15.563123389, 32.716949460, 25.041359722),
  12: (-21.606145230, 49.165253058, 39.0),
  16: (-36.106152162, 92.911655303, 78.772649031),
  32: (-127.378867615, 412.261274651, 401.5),
}


# Sizes are static under jit.
minimize = jax.jit(
  minimize_energy,
  static_argnames=(
    *("n", "d", "potential", "half_space", "reduction"),
    *("num_restarts", "max_steps", "dtype"),
  ),
)


def cosines(w):
  return np.asarray(w @ w.T)


def distances(w):
  """Between all pairs, in float64, by differences."""
  w = np.asarray(w, np.float64)
  first, second = np.triu_indices(len(w), 1)
  return np.linalg.norm(w[first] - w[second], axis=1)


def smallest_angle(w):
  return 2 * np.degrees(np.arcsin(distances(w).min() / 2))


# Few and many points with each exponent; the rest says no more, in minutes.
FEW = [(2, 2), (4, 1), (7, 1), (12, 0), *((32, s) for s in range(3))]


@pytest.mark.parametrize(
  "n, s",
  [
    pytest.param(n, s, marks=() if (n, s) in FEW else pytest.mark.long)
    for n in MINIMA
    for s in range(3)
  ],
)
def test_reaches_the_known_minima(key, n, s):
  points, energy = minimize(key, n, 3, Riesz(s))
  assert points.shape == (n, 3)
  assert float(energy) == pytest.approx(MINIMA[n][s], rel=1e-8)
  np.testing.assert_allclose(np.diag(cosines(points)), 1.0, atol=1e-14)


@pytest.mark.parametrize(
  "potential, dtype, atol",
  [
    (Gaussian(2.0), "float64", 1e-8),
    # Whose energies are far below those of orthogonal points.
    (Gaussian(200.0), "float64", 1e-8),
    (Riesz(1000.0), "float32", 1e-5),
  ],
  ids=str,
)
def test_few_points_form_a_simplex(key, potential, dtype, atol):
  points, energy = minimize(
    key, 5, 8, potential, reduction="mean", num_restarts=1, dtype=dtype
  )
  expected = np.where(np.eye(5, dtype=bool), 1.0, -1 / 4)
  np.testing.assert_allclose(cosines(points), expected, atol=atol)
  if potential == Gaussian(2.0):
    bound = energy_lower_bound(5, 8, potential)
    assert float(energy) == pytest.approx(bound, rel=1e-10)


def test_few_lines_are_orthogonal(key):
  potential = Riesz(1.0, "geodesic")
  points, energy = minimize(
    key, 4, 6, potential, half_space=True, num_restarts=1, reduction="mean"
  )
  np.testing.assert_allclose(cosines(points), np.eye(4), atol=1e-8)
  bound = energy_lower_bound(4, 6, potential, half_space=True)
  assert float(energy) == pytest.approx(bound, rel=1e-9)


def test_six_lines_are_those_of_the_icosahedron(key):
  points, energy = minimize(key, 6, 3, half_space=True)
  off_diagonal = ~np.eye(6, dtype=bool)
  np.testing.assert_allclose(abs(cosines(points))[off_diagonal], 5**-0.5, atol=1e-8)
  assert float(energy) == pytest.approx(MINIMA[12][1], rel=1e-8)


def test_the_geodesic_logarithm_makes_antipodal_pairs(key):
  """The minimum is not the simplex, although there is room for one."""
  # An antipode is the tip of a cone, where no gradient vanishes to end the search.
  points, energy = minimize(key, 4, 8, Riesz(0.0, "geodesic"))
  assert float(energy) == pytest.approx(-4.0957903, abs=1e-6)
  nearest_to_antipode = cosines(points).min(axis=1)
  np.testing.assert_allclose(nearest_to_antipode, -1.0, atol=1e-6)


def test_float32_and_keys(key):
  points, energy = minimize(key, 12, 3, dtype="float32")
  assert points.dtype == energy.dtype == jnp.float32
  assert float(energy) == pytest.approx(MINIMA[12][1], rel=1e-6)
  again, _ = minimize(key, 12, 3, dtype="float32")
  np.testing.assert_array_equal(points, again)
  other, energy = minimize(jax.random.key(1), 12, 3, dtype="float32")
  assert np.abs(other - points).max() > 0.01
  assert float(energy) == pytest.approx(MINIMA[12][1], rel=1e-6)
  given = hyperspherical_energy(other, reduction="sum")
  assert float(energy) == pytest.approx(float(given), rel=1e-6)


@pytest.mark.parametrize("half_space, expected", ((False, 0.0), (True, 0.5)))
def test_one_point_has_no_pair_but_with_its_antipode(key, half_space, expected):
  point, energy = minimize(key, 1, 3, half_space=half_space)
  assert float(energy) == pytest.approx(expected, abs=1e-10)
  assert float(jnp.linalg.norm(point)) == pytest.approx(1.0, abs=1e-14)


def test_class_prototypes(key):
  n, d = 200, 32
  points, energy = minimize_energy(
    key, n, d, reduction="mean", dtype=jnp.float32, num_restarts=1
  )
  bound, random = energy_lower_bound(n, d), uniform_energy(d)
  # Not 0: 200 points are too many for a simplex.
  assert (float(energy) - bound) / (random - bound) < 0.65
  # Of random points it is 200^-1/2 = 0.07.
  assert float(jnp.linalg.norm(points.mean(0))) < 2e-3


@dataclasses.dataclass(frozen=True)
class InverseDistance(Potential):
  """Riesz(1), softened by its author, who did not expect it to be asked for more."""

  def value(self, r):
    return jax.lax.rsqrt(jnp.maximum(r, 1e-12))


class NanWhereClose(Potential):
  def value(self, r):
    return jnp.where(r < 0.0034, jnp.nan, 1 / r)


@pytest.mark.parametrize(
  "potential, half_space, angle",
  [
    (Riesz(30.0), False, 20.0),
    (Riesz(1.0, "geodesic"), False, 18.5),
    (Riesz(1.0, eps=1.0), False, 18.5),  # As if the softening were none.
    (Riesz(2.0), True, 12.0),
    (InverseDistance(), False, 18.5),
  ],
  ids=str,
)
def test_no_two_points_coincide_in_float32(potential, half_space, angle):
  """Single starts: several, because a line search that jumps into a point is rare.

  100 points, whose best packing is one of about 21 degrees.
  """
  keys = jax.random.split(jax.random.key(1), 4)
  sets, energies = jax.vmap(
    lambda key: minimize(
      key, 100, 3, potential, half_space=half_space, num_restarts=1, dtype="float32"
    )
  )(keys)
  assert np.ptp(energies) < 5e-3 * abs(np.mean(energies)) or potential == Riesz(30.0)
  for points in sets:
    both = np.concatenate([points, -points]) if half_space else points
    assert smallest_angle(both) > angle


def test_two_hundred_points_in_float32(key):
  """Their energy is that of the points, and near the least known."""
  s, least = 2, 24814.0
  points, energy = minimize(key, 200, 3, Riesz(s), num_restarts=1, dtype="float32")
  assert float(energy) == pytest.approx((distances(points) ** -s).sum(), rel=1e-5)
  assert least < float(energy) < least * (1 + 5e-4)


# The best packing of 24 points, the snub cube, has 43.69 degrees.
@pytest.mark.parametrize(
  "potential, dtype, angle",
  [
    (Riesz(10.0), "float32", 42.9),
    (Riesz(100.0), "float32", 43.6),
    (Riesz(1000.0), "float32", 43.68),
    (Riesz(100.0, "geodesic"), "float32", 43.6),
    (Gaussian(1000.0), "float32", 43.0),  # Its energies underflow.
  ],
  ids=str,
)
def test_steep_potentials_pack(key, potential, dtype, angle):
  points, energy = minimize(key, 24, 3, potential, dtype=dtype)
  assert angle < smallest_angle(points) < 43.6908
  given = hyperspherical_energy(points, potential, reduction="sum")
  assert float(energy) == pytest.approx(float(given), rel=1e-3)
  if potential in (Riesz(10.0), Riesz(100.0)):
    assert float(energy) == pytest.approx(
      (distances(points) ** -potential.s).sum(), rel=1e-4
    )
  if potential == Riesz(10.0):
    assert float(energy) == pytest.approx(1149.795, rel=1e-5)


def test_a_start_that_is_nan_never_wins():
  key = jax.random.key(9)
  starts = jax.random.normal(key, (8, 24, 3), "float32")
  energies = hyperspherical_energy(starts, NanWhereClose())
  assert np.isnan(energies[0])
  assert 0 < np.isnan(energies).sum() < 8
  points, energy = minimize(key, 24, 3, NanWhereClose(), dtype="float32")
  assert smallest_angle(points) > 40
  assert float(energy) == pytest.approx((distances(points) ** -2).sum(), rel=1e-5)


@pytest.mark.parametrize("s, dtype", ((0.0, "float64"), (1000.0, "float32")))
def test_three_points_on_a_line_must_coincide(key, s, dtype):
  """Two of them, and not all: the energy is that of their softening, and finite."""
  points, energy = minimize(key, 3, 1, Riesz(s), dtype=dtype)
  assert abs(points.sum()) == 1
  pair = Riesz(s).value(jnp.array([0.0, 4.0, 4.0], dtype)).sum()
  assert float(energy) == pytest.approx(float(pair), rel=1e-5)
  assert np.isfinite(energy)


@pytest.mark.parametrize("s", (0.0, 4.0))
def test_many_points_on_a_circle_are_apart(key, s):
  """Where no point can pass another: equal angles, of 3.6 degrees."""
  points, _ = minimize(key, 100, 2, Riesz(s), num_restarts=2, dtype="float32")
  assert smallest_angle(points) > 3.5


@pytest.mark.parametrize(
  "n, d, arguments, error, match",
  [
    (0, 3, {}, ValueError, r"\bn must"),
    (-1, 3, {}, ValueError, r"\bn must"),
    (2.5, 3, {}, ValueError, r"\bn must"),
    (float("nan"), 3, {}, ValueError, r"\bn must"),
    ("4", 3, {}, (TypeError, ValueError), r"\bn must"),
    (None, 3, {}, (TypeError, ValueError), r"\bn must"),
    (4, 0, {}, ValueError, r"\bd must"),
    (4, 2.5, {}, ValueError, r"\bd must"),
    (4, 3, dict(num_restarts=0), ValueError, "num_restarts"),
    (4, 3, dict(num_restarts=1.5), ValueError, "num_restarts"),
    (4, 3, dict(max_steps=0), ValueError, "max_steps"),
    (4, 3, dict(tolerance=-1.0), ValueError, "tolerance"),
    (4, 3, dict(tolerance=float("nan")), ValueError, "tolerance"),
    (4, 3, dict(reduction="max"), ValueError, "reduction .* 'max'"),
    (4, 3, dict(dtype="float16"), ValueError, "dtype .* float16"),
    (4, 3, dict(dtype="bfloat16"), ValueError, "dtype .* bfloat16"),
    (4, 3, dict(dtype=int), ValueError, "dtype .* int64"),
    (4, 3, dict(potential=1.0), TypeError, "potential"),
  ],
)
def test_bad_arguments_are_named(key, n, d, arguments, error, match):
  with pytest.raises(error, match=match):
    minimize_energy(key, n, d, **arguments)
