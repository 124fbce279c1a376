"""No NaN, ever, unless NaN went in; and float32 as accurate as its cosines allow."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sets import every_space

from mhe_jax import Gaussian, Riesz, hyperspherical_energy

POTENTIALS = [
  *(Riesz(s, metric) for s in (0, 1, 2, 8) for metric in ("chordal", "geodesic")),
  Gaussian(2.0),
]
pytestmark = pytest.mark.usefixtures("optimized")

A, B, C, D = np.array(
  [[0.6, -1.1, 0.7], [1.3, 0.4, -0.2], [-0.5, 0.9, 1.6], [0.2, -0.3, 1.0]]
)
DEGENERATE = {
  "a zero row": [A, 0 * A, B, C],
  "all but one row zero": [0 * A, B, 0 * A, 0 * A],
  "zero": [0 * A] * 4,
  "equal rows": [A, A, B, A],
  "all rows equal": [A] * 4,
  "collinear rows": [A, 3 * A, A / 7, B],
  "antipodal rows": [A, -A, B, -B],
  "scaled antipodal rows": [A, -3 * A, B, -B / 7],
  "orthogonal rows": [*np.eye(3), -np.eye(3)[0]],
}
# Norms that a dtype can hold. The gradient grows as 1 / norm; it is saturated.
SMALL_AND_LARGE = {
  "float32": (1e-30, 1e30),
  "float64": (1e-150, 1e150),
  "bfloat16": (1e-30, 1e30),
  "float16": (1e-3, 1e4),
}


def mixed_norms(small, large):
  return {
    "small and large norms": [small * A, large * B, C, small * D],
    "large norms": [large * A, large * B, large * C, large * D],
    "small norms": [small * A, small * B, small * C, small * D],
    "zero, small and large norms": [small * A, 0 * B, large * C, D],
    "equal, small and large": [small * A, small * A, large * A, -small * A],
    "close and small": [small * A, small * (A + B / 500), small * (B / 500 - A), C],
  }


def values_and_gradients(w, potentials, half_space):
  """``{potential: (energies [*batch], gradients [*batch, n, d])}``, compiled once."""

  def total(w, potential):
    energies = hyperspherical_energy(w, potential, half_space=half_space)
    return energies.sum(), energies  # The sets of a batch do not interact.

  # Nearly all of the time is compilation, which is told to hurry.
  @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
  def evaluate(w):
    return [jax.grad(total, has_aux=True)(w, p) for p in potentials]

  with jax.debug_nans(bool(np.isfinite(w.astype(float)).all())):
    results = evaluate(w)
  return {
    p: (np.asarray(energies), np.asarray(gradient, float))
    for p, (gradient, energies) in zip(potentials, results)
  }


@every_space
@pytest.mark.parametrize("dtype", SMALL_AND_LARGE)
def test_degenerate_sets_are_finite(dtype, half_space):
  sets = DEGENERATE | mixed_norms(*SMALL_AND_LARGE[dtype])
  w = np.array(list(sets.values())).astype(jnp.dtype(dtype))
  # Smaller floats differ from float32 by the range of the gradient only.
  potentials = POTENTIALS if "16" not in dtype else [Riesz(1.0), *POTENTIALS[6:]]
  for potential, results in values_and_gradients(w, potentials, half_space).items():
    for name, energy, gradient in zip(sets, *results):
      assert np.isfinite(energy), (potential, name)
      assert np.isfinite(gradient).all(), (potential, name)


@pytest.mark.parametrize("dtype", ("float32", "float16"))
def test_small_shapes_have_their_limits(dtype):
  """No pairs, one antipodal pair, two points (d = 1), and no directions (d = 0)."""
  potential = Riesz(8.0, "geodesic", eps=0.01)
  same, right, opposite = (
    float(potential.value(jnp.array(r, jnp.float32))) for r in (0.0, 2.0, 4.0)
  )
  two_points = np.array([[1.0], [-2.0]])
  expected = [  # neurons, full space, half-space
    (np.ones((0, 3)), 0.0, 0.0),
    (np.ones((0, 0)), 0.0, 0.0),
    (np.ones((1, 3)), 0.0, opposite),
    (np.zeros((1, 3)), 0.0, right),
    (two_points, opposite, (2 * same + 4 * opposite) / 6),
    (np.ones((2, 0)), right, right),
  ]

  @jax.jit
  def evaluate(neurons):
    return [
      jax.value_and_grad(hyperspherical_energy)(w, potential, half_space=half_space)
      for w in neurons
      for half_space in (False, True)
    ]

  with jax.debug_nans(True):
    results = evaluate([w.astype(dtype) for w, *_ in expected])
  for (value, gradient), energy in zip(results, [e for _, *es in expected for e in es]):
    assert float(value) == pytest.approx(energy, rel=2e-3)
    np.testing.assert_allclose(np.asarray(gradient, float), 0.0, atol=1e-6)


@every_space
@pytest.mark.parametrize("n", (0, 2))
def test_an_empty_batch_axis_stays(n, half_space):
  w = jnp.ones((2, 0, n, 3))
  assert hyperspherical_energy(w, half_space=half_space).shape == (2, 0)


def test_a_zero_row_is_orthogonal_to_all_and_gets_no_gradient():
  w = np.array([[A, 0 * A, B]])
  in_four_dimensions = np.pad(w, ((0, 0), (0, 0), (0, 1)))
  in_four_dimensions[0, 1, 3] = 1.0
  potentials = [Riesz(1.0), Gaussian(2.0)]
  zero = values_and_gradients(w, potentials, False)
  orthogonal = values_and_gradients(in_four_dimensions, potentials, False)
  for potential in potentials:
    assert zero[potential][0] == pytest.approx(orthogonal[potential][0], rel=1e-12)
    assert (zero[potential][1][0, 1] == 0).all()
    others = orthogonal[potential][1][0, ::2, :3]
    np.testing.assert_allclose(zero[potential][1][0, ::2], others, rtol=1e-10)


@every_space
@pytest.mark.parametrize("dtype", ("float32", "float64"))
def test_equal_rows_exert_no_force_on_each_other(dtype, half_space):
  """No direction is preferred: what rounding makes of 0 * eps^(-s/2) is not a force."""
  rng = np.random.default_rng(0)
  a, b = rng.normal(size=(2, 64, 1, 8))
  sign = -1.0 if half_space else 1.0  # Antipodes are equal lines.
  several = np.concatenate([a, sign * a, b, 2 * a], axis=1).astype(dtype)
  single = np.concatenate([a, b], axis=1)
  potentials = [Riesz(1.0), Riesz(8.0), Riesz(1.0, "geodesic")]
  equal = values_and_gradients(several, potentials, half_space)
  alone = values_and_gradients(single, potentials, half_space)
  # Means over 6 pairs instead of 1, or 8 * 7 / 2 pairs instead of 4 * 3 / 2.
  share = 6 / 28 if half_space else 1 / 6
  for potential in potentials:
    of_a, of_b = np.moveaxis(alone[potential][1], 1, 0) * share
    expected = np.stack([of_a, sign * of_a, 3 * of_b, of_a / 2], axis=1)
    scale = np.abs(expected).max((1, 2), keepdims=True)
    error = np.abs(equal[potential][1] - expected) / scale
    # Next to an antipode (half-space) a geodesic force is known to sqrt(eps) only.
    assert error.max() < 32 * math.sqrt(np.finfo(dtype).eps), potential


@every_space
def test_nan_and_inf_come_out_as_nan_of_their_set_only(half_space):
  bad_values = (0.0, math.nan, math.inf, 1.0, -math.inf)
  w = np.array([[A, B, C, D]] * 5)
  w[:, 2, 0] = bad_values
  potentials = [Riesz(0.0), Riesz(2.0), Riesz(1.0, "geodesic"), Gaussian(2.0)]
  for potential, results in values_and_gradients(w, potentials, half_space).items():
    for bad, energy, gradient in zip(bad_values, *results):
      if math.isfinite(bad):
        assert math.isfinite(energy), potential
        assert np.isfinite(gradient).all(), potential
      else:
        assert math.isnan(energy), (potential, bad)
        assert not np.isfinite(gradient).any(), (potential, bad)


@functools.cache
def float32_pairs():
  """Pairs at known angles, of differing norm, rounded to float32, and their results.

  Returns exact squared distances ``[angle, pair]``, and by potential the energies
  ``[angle, pair]`` in float32, the gradients ``[angle, pair, 2, d]`` and the same
  gradients in float64.
  """
  rng = np.random.default_rng(0)
  frames = np.linalg.qr(rng.normal(size=(64, 8, 2)))[0]
  u, v = frames[..., 0], frames[..., 1]
  theta = ANGLES[:, None, None]
  other = np.cos(theta) * u + np.sin(theta) * v
  w = np.stack([3.0 * u + 0 * theta, 0.2 * other], axis=2).astype(np.float32)
  exact = w.astype(np.float64)
  units = exact / np.linalg.norm(exact, axis=-1, keepdims=True)
  r = ((units[..., 0, :] - units[..., 1, :]) ** 2).sum(-1)
  potentials = [*POTENTIALS[:6], Gaussian(2.0)]
  single = values_and_gradients(w, potentials, False)
  double = values_and_gradients(exact, potentials, False)
  results = {p: (*single[p], double[p][1]) for p in potentials}
  return np.minimum(r, 4.0), results


ANGLES = np.array([1e-3, 2e-3, 1e-2, 0.1, 1.0, 2.0, 3.0, 3.13, 3.14, math.pi])


class TestFloat32:
  """2 - 2 cos carries an absolute rounding of a few eps, and nothing else is lost.

  So the energy and the force of a pair must lie between those of pairs whose squared
  distance is that much smaller and larger (measured: 4.2 eps at most for d <= 64).
  """

  eps = 2.0**-23

  @pytest.mark.parametrize("index", range(7))
  def test_value_and_gradient(self, index):
    r, results = float32_pairs()
    potential, (energies, gradients, exact) = list(results.items())[index]
    near_r_far = np.clip([r - 6 * self.eps, r, r + 6 * self.eps], 0.0, 4.0)
    highest, _, lowest = np.asarray(potential.value(jnp.asarray(near_r_far)))
    slack = 4e-6 * np.maximum(np.abs(highest), 1.0)
    assert (energies <= highest + slack).all()
    assert (energies >= lowest - slack).all()

    slopes = np.abs(potential.slope(jnp.asarray(near_r_far)))
    spread = np.ptp(slopes, axis=0) / slopes[1]
    # A neuron is pushed along the tangential part of the other, of length sin(theta).
    sine = np.sqrt(r * (1 - r / 4)) + 1e-15
    bound = spread + 8 * self.eps / sine + 1e-5
    size = np.linalg.norm(exact, axis=-1)
    error = np.linalg.norm(gradients - exact, axis=-1) / size
    resolved = (ANGLES > 1e-3) & (ANGLES < 3.1415)
    assert (error <= bound[..., None])[resolved].all()
    # At the antipode it has no direction; it must not be larger than next to it.
    last = np.linalg.norm(gradients[-1], axis=-1)
    assert (last <= 1.5 * size[-2].max(0)).all()

  def test_a_thousandth_of_a_radian_is_still_told(self):
    """The Coulomb energy at 1e-3 rad is good to 40%, and at 2e-3 to 10%."""
    r, results = float32_pairs()
    energies, *_ = results[Riesz(1.0)]
    error = np.abs(energies * np.sqrt(r) - 1).max(1)
    assert error[0] < 0.4
    assert error[1] < 0.1


@every_space
@pytest.mark.parametrize("bad", (math.nan, math.inf))
def test_a_single_damaged_row_is_not_hidden_by_having_no_pairs(bad, half_space):
  energy = hyperspherical_energy(jnp.array([[1.0, bad]]), half_space=half_space)
  assert math.isnan(float(energy))
