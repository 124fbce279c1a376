"""Pair potentials: closed forms, slopes, both ends of [0, 4], and construction."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mhe_jax
from mhe_jax import Gaussian, Riesz

EXPONENTS = (0.0, 0.5, 1.0, 2.0, 3.5, 4.0, 8.0, 20.0)
POTENTIALS = [
  *(Riesz(s, metric) for s in EXPONENTS for metric in ("chordal", "geodesic")),
  Gaussian(2.0),
  Gaussian(0.3),
]
# Up to the antipode, and on both sides of the angle, 0.0316, where the geodesic slope
# changes from a series to a quotient.
ANGLES = np.array([0.02, 0.0316, 0.0317, 0.1, 0.5, 1.0, 1.5, 2.0, 3.0, 3.14])


def squared_distance(theta):
  return 4 * np.sin(theta / 2) ** 2


def closed_form(potential, theta):
  """Value, and derivative with respect to the squared chordal distance."""
  if isinstance(potential, Gaussian):
    value = np.exp(-potential.t * squared_distance(theta))
    return value, -potential.t * value
  if potential.metric == "geodesic":
    z, dz_dr = theta, 1 / (2 * np.sin(theta))
  else:
    z = 2 * np.sin(theta / 2)
    dz_dr = 1 / (2 * z)
  s = potential.s
  value = -np.log(z) if s == 0 else z**-s
  return value, -(s or 1.0) * z ** (-s - 1) * dz_dr


@pytest.mark.parametrize("potential", POTENTIALS, ids=str)
def test_value_and_slope_are_the_closed_forms(potential):
  value, slope = closed_form(potential, ANGLES)
  # Softening changes nothing here. Next to the antipode r tells little of the angle.
  r = jnp.asarray(squared_distance(ANGLES))
  np.testing.assert_allclose(potential.value(r), value, rtol=1e-11, atol=1e-13)
  np.testing.assert_allclose(potential.slope(r), slope, rtol=1e-9)
  np.testing.assert_allclose(potential.at_angle(ANGLES), value, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("potential", POTENTIALS, ids=str)
def test_float32_value_and_slope_are_accurate(potential):
  r = jnp.asarray(np.linspace(0.2, 3.99, 64), jnp.float32)
  theta = 2 * np.arcsin(np.sqrt(np.asarray(r, np.float64)) / 2)
  value, slope = closed_form(potential, theta)
  rtol = 4e-6 * (1 + getattr(potential, "s", 0.0))  # A power multiplies roundings.
  assert potential.value(r).dtype == potential.slope(r).dtype == jnp.float32
  np.testing.assert_allclose(potential.value(r), value, rtol=rtol, atol=1e-6)
  np.testing.assert_allclose(potential.slope(r), slope, rtol=rtol)


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
@pytest.mark.parametrize("potential", POTENTIALS, ids=str)
def test_slope_is_the_gradient_of_value(potential, dtype):
  r = jnp.asarray(np.r_[1e-9, 1e-5, 1e-3, np.linspace(0.002, 3.999, 61)], dtype)
  gradient = jax.grad(lambda r: potential.value(r).sum())(r)
  rtol = 1e-5 if dtype == np.float32 else 1e-12
  np.testing.assert_allclose(potential.slope(r), gradient, rtol=rtol)


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
@pytest.mark.parametrize("potential", POTENTIALS, ids=str)
def test_everything_is_finite_at_and_beyond_both_ends(potential, dtype):
  # Rounding of 2 - 2 cos takes r a little out of [0, 4].
  r = jnp.asarray([-1e-7, 0.0, 1e-30, 4.0 - 1e-6, 4.0, 4.0 + 1e-6], dtype)
  derivatives = [
    potential.value(r),
    potential.slope(r),
    jax.grad(lambda r: potential.value(r).sum())(r),
    jax.grad(lambda r: potential.slope(r).sum())(r),  # Hessian-vector products.
  ]
  for order in derivatives:
    assert order.dtype == dtype
    assert np.isfinite(order).all(), order
  assert (np.asarray(potential.slope(r)) <= 0).all()


@pytest.mark.parametrize("metric", ("chordal", "geodesic"))
@pytest.mark.parametrize("s", (0.0, 1.0, 2.0, 3.5))
def test_eps_bounds_the_squared_distance_from_below(s, metric):
  eps = 0.01
  theta = np.array([0.0, 0.05, 0.5, 3.0])
  z = np.maximum(theta if metric == "geodesic" else 2 * np.sin(theta / 2), eps**0.5)
  expected = -np.log(z) if s == 0 else z**-s
  potential = Riesz(s, metric, eps=eps)
  r = jnp.asarray(squared_distance(theta))
  np.testing.assert_allclose(potential.value(r), expected, rtol=1e-12)
  # Closer pairs exert no force.
  assert ((np.asarray(potential.slope(r)) == 0) == [True, True, False, False]).all()


@pytest.mark.parametrize(
  "s, dtype, eps",
  [
    (1.0, "float32", 8 * 2.0**-23),
    (2.0, "float32", 8 * 2.0**-23),
    (8.0, "float32", 1e-6),
    (20.0, "float32", 1e-3),
    (2.0, "float64", 8 * 2.0**-52),
    (8.0, "float64", 8 * 2.0**-52),
  ],
)
def test_default_eps_is_the_documented_one(s, dtype, eps):
  coincident = Riesz(s).value(jnp.zeros((), dtype))
  np.testing.assert_allclose(coincident, eps ** (-s / 2), rtol=1e-5)


def test_at_angle_is_not_softened():
  assert Riesz(1.0).at_angle(np.array(0.0)) == math.inf
  assert Riesz(0.0, "geodesic").at_angle(np.array(0.0)) == math.inf
  assert Gaussian(3.0).at_angle(np.array(0.0)) == 1.0


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
@pytest.mark.parametrize(
  "rows, t",
  [
    (np.eye(3)[:1], 2.0),  # No pair.
    (np.eye(3)[:0], 2.0),
    (np.eye(3), 2.0),
    (np.ones((3, 3)), 2.0),
    (np.stack([np.eye(3)[0], -np.eye(3)[0]]), 1e4),  # Energies underflow.
    (np.stack([np.eye(3)[:2], np.ones((2, 3))]), 2.0),
  ],
  ids=["one", "none", "orthogonal", "equal", "far", "batch"],
)
def test_the_documented_logarithm_of_gaussian_energies_is_finite(rows, t, dtype):
  def uniformity(x):
    mean = mhe_jax.hyperspherical_energy(x, Gaussian(t))
    return jnp.log(jnp.maximum(mean, jnp.finfo(mean.dtype).tiny)).sum()

  value, gradient = jax.value_and_grad(uniformity)(jnp.asarray(rows, dtype))
  assert np.isfinite(value)
  assert np.isfinite(gradient).all()
  if rows.shape == (3, 3):
    expected = -4.0 if rows[0, 1] == 0 else 0.0
    assert float(value) == pytest.approx(expected, abs=1e-5)


def test_potentials_compare_and_hash_by_value():
  assert Riesz(1) == Riesz(1.0) == Riesz(np.float32(1.0), "chordal", None)
  assert hash(Riesz(1)) == hash(Riesz(1.0))
  assert Gaussian() == Gaussian(2)
  distinct = {
    Riesz(1.0),
    Riesz(2.0),
    Riesz(1.0, "geodesic"),
    Riesz(1.0, eps=1e-6),
    Gaussian(1.0),
    Gaussian(2.0),
    Riesz(1),
  }
  assert len(distinct) == 6


@pytest.mark.parametrize(
  "make, error, match",
  [
    (lambda: Riesz(-1.0), ValueError, r"\bs must be"),
    (lambda: Riesz(math.nan), ValueError, r"\bs must be"),
    (lambda: Riesz(math.inf), ValueError, r"\bs must be"),
    (lambda: Riesz("chordal"), TypeError, r"\bs must be"),
    (lambda: Riesz("2"), TypeError, r"\bs must be"),
    (lambda: Riesz(None), TypeError, r"\bs must be"),
    (lambda: Riesz(1j), TypeError, r"\bs must be"),
    (lambda: Riesz(np.ones(2)), TypeError, r"\bs must be"),
    (lambda: jax.jit(lambda s: Riesz(s).s)(1.0), TypeError, r"\bs must be"),
    (lambda: Riesz(1.0, "cosine"), ValueError, "metric .* 'cosine'"),
    (lambda: Riesz(1.0, None), ValueError, "metric"),
    (lambda: Riesz(1.0, eps=0.0), ValueError, "eps"),
    (lambda: Riesz(1.0, eps=-1e-6), ValueError, "eps"),
    (lambda: Riesz(1.0, eps=math.nan), ValueError, "eps"),
    (lambda: Riesz(1.0, eps="small"), TypeError, "eps"),
    (lambda: Gaussian(0.0), ValueError, r"\bt must be"),
    (lambda: Gaussian(-2.0), ValueError, r"\bt must be"),
    (lambda: Gaussian(math.inf), ValueError, r"\bt must be"),
    (lambda: Gaussian("wide"), TypeError, r"\bt must be"),
  ],
)
def test_bad_parameters_are_named(make, error, match):
  with pytest.raises(error, match=match):
    make()


@dataclasses.dataclass(frozen=True)
class SquaredCosine(mhe_jax.Potential):
  """A user's potential: frame potential a * cos^2, whose sums are known exactly."""

  a: float = 1.0

  def value(self, r):
    return self.a * (1.0 - 0.5 * r) ** 2


class TestUserDefinedPotential:
  def test_slope_defaults_to_the_derivative(self):
    r = jnp.linspace(0.0, 4.0, 9)
    np.testing.assert_allclose(SquaredCosine(3.0).slope(r), -3.0 * (1 - 0.5 * r))

  def test_energy_and_gradient(self):
    w = jax.random.normal(jax.random.key(1), (6, 4))
    u = w / jnp.linalg.norm(w, axis=1, keepdims=True)

    def frame_energy(w):  # sum over i < j of cos^2, from ||U^T U||_F^2.
      u = w / jnp.linalg.norm(w, axis=1, keepdims=True)
      return ((u.T @ u) ** 2).sum() / 2 - len(w) / 2

    def energy(w):
      return mhe_jax.hyperspherical_energy(w, SquaredCosine(), reduction="sum")

    value, gradient = jax.value_and_grad(energy)(w)
    expected, expected_gradient = jax.value_and_grad(frame_energy)(w)
    assert float(value) == pytest.approx(float(expected), rel=1e-12)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-10, atol=1e-12)
    params = {"kernel": u.T}
    network = mhe_jax.network_energy(params, SquaredCosine(), half_space=False)
    assert float(network) == pytest.approx(float(expected) / 15, rel=1e-12)

  @pytest.mark.parametrize("d", (1, 2, 8, 512))
  def test_uniform_energy_is_integrated(self, d):
    # The mean of cos^2 is 1 / d.
    uniform = mhe_jax.uniform_energy(d, SquaredCosine(2.0))
    assert uniform == pytest.approx(2.0 / d, rel=1e-8)

  def test_uniform_energy_may_be_zero(self):
    @dataclasses.dataclass(frozen=True)
    class Cosine(mhe_jax.Potential):
      def value(self, r):
        return 1.0 - 0.5 * r

    assert mhe_jax.uniform_energy(8, Cosine()) == pytest.approx(0.0, abs=1e-10)

  def test_uniform_energy_in_single_precision(self):
    with jax.enable_x64(False):
      uniform = mhe_jax.uniform_energy(8, SquaredCosine())
    assert uniform == pytest.approx(1 / 8, rel=1e-5)
