"""hyperspherical_energy: the double sum, its derivatives, symmetries and dtypes."""

import dataclasses
import functools
import itertools

import chex
import hypothesis
import hypothesis.extra.numpy
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objectives import ENERGIES, FEW_POTENTIALS
from sets import (
  cross_polytope,
  every_space,
  icosahedron,
  one_of_each_line,
  simplex,
  units_of,
)

from mhe_jax import Gaussian, Riesz, hyperspherical_energy

POTENTIALS = [
  *(Riesz(s, metric) for s in (0, 1, 2, 3.5) for metric in ("chordal", "geodesic")),
  Gaussian(2.0),
]
NEURONS = np.random.default_rng(0).normal(size=(5, 4)) * [[1], [2], [0.1], [9], [1]]


def pair_energy(potential, cosine):
  """The definition, without softening, which concerns coincident neurons only."""
  cosine = np.clip(cosine, -1.0, 1.0)
  if isinstance(potential, Gaussian):
    return np.exp(-potential.t * (2 - 2 * cosine))
  geodesic = potential.metric == "geodesic"
  z = np.arccos(cosine) if geodesic else np.sqrt(2 - 2 * cosine)
  return -np.log(z) if potential.s == 0 else z**-potential.s


def pair_energies(units, potential):
  return [
    pair_energy(potential, np.dot(u, v)) for u, v in itertools.combinations(units, 2)
  ]


def near_antipode(potential):
  """Relative precision: the arccos of an antipodal pair has half of the digits."""
  return 1e-7 if getattr(potential, "metric", "") == "geodesic" else 1e-11


@every_space
@pytest.mark.parametrize("potential", POTENTIALS, ids=str)
def test_agrees_with_a_double_loop(potential, half_space):
  @jax.jit
  def mean_and_sum(w):
    return [
      hyperspherical_energy(w, potential, half_space=half_space, reduction=reduction)
      for reduction in ("mean", "sum")
    ]

  mean, total = mean_and_sum(NEURONS)
  assert mean.shape == total.shape == ()
  energies = pair_energies(units_of(NEURONS, half_space), potential)
  rel = near_antipode(potential)
  assert float(mean) == pytest.approx(np.mean(energies), rel=rel)
  assert float(total) == pytest.approx(np.sum(energies), rel=rel)


# Points, and how many pairs have which cosine.
POLYTOPES = {
  "simplex": (simplex(4), {-1 / 4: 10}),
  "cross-polytope": (cross_polytope(4), {0.0: 24, -1.0: 4}),
  "icosahedron": (icosahedron(), {5**-0.5: 30, -(5**-0.5): 30, -1.0: 6}),
}


@pytest.mark.parametrize("name", POLYTOPES)
@pytest.mark.parametrize("potential", FEW_POTENTIALS, ids=str)
def test_polytopes_have_their_exact_energies(name, potential):
  points, pairs = POLYTOPES[name]
  expected = sum(k * pair_energy(potential, t) for t, k in pairs.items())
  energy = hyperspherical_energy(jnp.asarray(points), potential, reduction="sum")
  assert float(energy) == pytest.approx(expected, rel=near_antipode(potential))


@pytest.mark.parametrize(
  "name, potential, thomson",
  [
    ("icosahedron", Riesz(0.0), -21.606145230),
    ("icosahedron", Riesz(1.0), 49.165253058),
    ("icosahedron", Riesz(2.0), 39.0),
    ("octahedron", Riesz(1.0), 9.985281374),
    ("octahedron", Riesz(2.0), 6.75),
  ],
)
def test_thomson_energies_in_full_and_half_space(name, potential, thomson):
  points = icosahedron() if name == "icosahedron" else cross_polytope(3)
  lines = one_of_each_line(points)
  assert len(lines) == len(points) // 2
  for half_space, w in ((False, points), (True, lines)):
    energy = hyperspherical_energy(
      jnp.asarray(w), potential, half_space=half_space, reduction="sum"
    )
    assert float(energy) == pytest.approx(thomson, rel=1e-9)


@pytest.mark.parametrize("zero_row", (False, True), ids=("", "zero row"))
@pytest.mark.parametrize("potential", FEW_POTENTIALS, ids=str)
def test_half_space_is_the_energy_with_antipodes(potential, zero_row):
  def half_and_full(w, reduction):
    both = jnp.concatenate([w, -w])
    return (
      hyperspherical_energy(w, potential, half_space=True, reduction=reduction),
      hyperspherical_energy(both, potential, reduction=reduction),
    )

  half_and_full = jax.jit(half_and_full, static_argnames="reduction")
  w = NEURONS * [[1], [1], [0 if zero_row else 1], [1], [1]]
  for reduction in ("mean", "sum"):
    half, full = half_and_full(w, reduction)
    rel = near_antipode(potential) / 10
    assert float(half) == pytest.approx(float(full), rel=rel)


@every_space
def test_leading_axes_are_a_batch(half_space):
  def energy(w):
    return hyperspherical_energy(w, Riesz(1.0), half_space=half_space)

  w = np.random.default_rng(1).normal(size=(2, 3, 5, 4))
  single = [[float(energy(matrix)) for matrix in row] for row in w]
  batched = energy(w)
  assert batched.shape == (2, 3)
  np.testing.assert_allclose(batched, single, rtol=1e-14)
  np.testing.assert_allclose(jax.vmap(jax.vmap(energy))(w), single, rtol=1e-14)
  assert energy(w[:0]).shape == (0, 3)


@every_space
def test_it_is_the_objective_of_its_potential(half_space):
  """Whose derivatives, of every order, are tested with those of the others."""

  def value_and_grad(energy):
    return jax.value_and_grad(lambda w: energy(w, half_space=half_space))(
      jnp.asarray(NEURONS)
    )

  for potential in FEW_POTENTIALS:
    expected = value_and_grad(ENERGIES[str(potential)])
    energy = functools.partial(hyperspherical_energy, potential=potential)
    jax.tree.map(np.testing.assert_array_equal, value_and_grad(energy), expected)


@every_space
def test_descent_separates_neurons(half_space):
  def smallest_angle(w):
    u = w / np.linalg.norm(w, axis=1, keepdims=True)
    cosines = (u @ u.T)[np.triu_indices(len(u), 1)]
    return np.arccos((abs(cosines) if half_space else cosines).max())

  def energy(w):
    return hyperspherical_energy(w, Riesz(2.0), half_space=half_space)

  @jax.jit
  def descend(w):
    return jax.lax.fori_loop(0, 10, lambda _, w: w - 0.3 * jax.grad(energy)(w), w)

  # Noisy copies of one direction, some of them reversed.
  w = 1.0 + 0.5 * np.random.default_rng(2).normal(size=(5, 6))
  w *= np.array([[1], [-1], [1], [-1], [1]])
  assert smallest_angle(np.asarray(descend(w))) > smallest_angle(w) + 0.3


# Moved by no more than this, lines stay 3 degrees apart: the rounding of 2 - 2 cos,
# which close neurons feel, is no part of the test.
SEPARATE = np.array([[4, 0, 0], [0, 4, 0], [0, 0, 4], [2.3, 2.3, 2.3]])
MOVES = hypothesis.extra.numpy.arrays(float, (4, 3), elements=st.floats(-1.0, 1.0))


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(move=MOVES, seed=st.integers(0, 2**32 - 1))
@every_space
@pytest.mark.parametrize("potential", FEW_POTENTIALS, ids=str)
def test_invariances(potential, half_space, move, seed):
  """Permutation, scaling of rows, rotation; and, in half-space, reversal of rows."""
  w = SEPARATE + move
  rng = np.random.default_rng(seed)
  rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
  moved = {
    "permuted": w[rng.permutation(4)],
    "scaled": w * np.exp(rng.uniform(-9, 9, size=(4, 1))),
    "rotated": w @ rotation,
  }
  if half_space:
    moved["reversed"] = w * rng.choice([-1.0, 1.0], size=(4, 1))
  energy = hyperspherical_energy(
    jnp.asarray(np.stack([w, *moved.values()])), potential, half_space=half_space
  )
  for name, value in zip(moved, energy[1:]):
    assert float(value) == pytest.approx(float(energy[0]), rel=1e-9, abs=1e-9), name


class TestDtypes:
  @every_space
  @pytest.mark.parametrize("dtype", ("float32", "bfloat16", "float16"))
  def test_small_floats_are_computed_in_float32(self, dtype, half_space):
    def energy(w):
      return hyperspherical_energy(w, Riesz(2.0), half_space=half_space)

    value_and_grad = jax.jit(jax.value_and_grad(energy))
    w = np.random.default_rng(3).normal(size=(16, 32)).astype(jnp.dtype(dtype))
    value, gradient = value_and_grad(w)
    exact, exact_gradient = value_and_grad(w.astype(np.float64))
    chex.assert_type([value, gradient], [jnp.float32, jnp.dtype(dtype)])
    chex.assert_type([exact, exact_gradient], jnp.float64)
    assert float(value) == pytest.approx(float(exact), rel=1e-6)
    # Only the gradient is rounded to the dtype of the parameters.
    error = np.linalg.norm(np.asarray(gradient, np.float64) - exact_gradient)
    rounding = max(float(jnp.finfo(dtype).eps), 1e-5)
    assert error < rounding * np.linalg.norm(exact_gradient)

  @pytest.mark.parametrize("dtype", ("float64", "float32", "bfloat16", "float16"))
  def test_norms_do_not_count_up_to_the_largest_numbers(self, dtype):
    w = np.random.default_rng(3).uniform(-1.0, 1.0, (6, 4))
    w[:, 0] = 1.0
    # Powers of two: the largest is half of the largest number, or all of it.
    largest = jnp.finfo(dtype).maxexp - 1
    smallest = max(jnp.finfo(dtype).minexp, jnp.finfo(jnp.float32).minexp) + 10
    w = w.astype(jnp.dtype(dtype))
    expected = float(hyperspherical_energy(w))
    value_and_grad = jax.jit(jax.value_and_grad(hyperspherical_energy))
    for exponent in (largest, largest - 1, largest - 2, largest - 3, 0, smallest):
      scaled = np.ldexp(w.astype(np.float64), exponent).astype(w.dtype)
      value, gradient = value_and_grad(scaled)
      # Weights of float16 that become subnormal are rounded.
      rel = 1e-2 if dtype == "float16" else 1e-5
      assert float(value) == pytest.approx(expected, rel=rel)
      assert np.isfinite(np.asarray(gradient, np.float64)).all()

  def test_numpy_arrays_and_lists_are_taken(self):
    expected = float(hyperspherical_energy(jnp.asarray(NEURONS)))
    assert float(hyperspherical_energy(NEURONS)) == expected
    assert float(hyperspherical_energy(NEURONS.tolist())) == expected


@dataclasses.dataclass(frozen=True)
class Impostor:
  """Has the method of a potential, but is none."""

  def value(self, r):
    return r


FLOATS = jax.ShapeDtypeStruct((4, 3), jnp.float32)
INTEGERS = jax.ShapeDtypeStruct((4, 3), jnp.int32)
COMPLEX = jax.ShapeDtypeStruct((4, 3), jnp.complex64)
BOOLEANS = jax.ShapeDtypeStruct((4, 3), jnp.bool_)
VECTOR = jax.ShapeDtypeStruct((4,), jnp.float32)
SCALAR = jax.ShapeDtypeStruct((), jnp.float32)


@pytest.mark.parametrize(
  "neurons, arguments, error, match",
  [
    (INTEGERS, {}, TypeError, "neurons .* int32"),
    (COMPLEX, {}, TypeError, "neurons .* complex64"),
    (BOOLEANS, {}, TypeError, "neurons .* bool"),
    (VECTOR, {}, ValueError, r"neurons .* \(4,\)"),
    (SCALAR, {}, ValueError, r"neurons .* \(\)"),
    (FLOATS, dict(potential=1.0), TypeError, "potential .* 1.0"),
    (FLOATS, dict(potential=Riesz), TypeError, "potential"),
    (FLOATS, dict(potential=Impostor()), TypeError, "potential .* Impostor"),
    (FLOATS, dict(reduction="max"), ValueError, "reduction .* 'max'"),
    (FLOATS, dict(reduction=None), ValueError, "reduction"),
    (FLOATS, dict(implementation="fastest"), ValueError, "implementation .*'fastest'"),
    (FLOATS, dict(implementation=["dense"]), ValueError, r"implementation .*\['dense'"),
    (
      FLOATS,
      dict(implementation="dense", block_size=64),
      ValueError,
      "block_size .* 64",
    ),
    (FLOATS, dict(block_size=1), ValueError, "block_size .* >= 2, got 1"),
    (FLOATS, dict(block_size=8.0), ValueError, "block_size .* 8.0"),
    (FLOATS, dict(implementation="tiled", block_size=0), ValueError, "block_size"),
  ],
)
def test_bad_arguments_are_named_at_trace_time(neurons, arguments, error, match):
  with pytest.raises(error, match=match):
    jax.eval_shape(lambda w: hyperspherical_energy(w, **arguments), neurons)
