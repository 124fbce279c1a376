"""The nearest of each neuron, against a loop and configurations of known angles."""

import functools
import math

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objectives import transformations
from sets import (
  changed,
  cross_polytope,
  every_space,
  icosahedron,
  normal,
  simplex,
  units_of,
)

from mhe_jax.neurons import nearest_neurons
from mhe_jax.pair_sum import nearest_rows
from mhe_jax.pair_sum.mask import Mask


def all_angles(w, half_space):
  """[n, n], by differences; rows of zeros are orthogonal to all."""
  u = units_of(w)
  apart, together = (np.linalg.norm(u[:, None] + s * u, axis=-1) for s in (-1, 1))
  zero = (apart == 0) & (together == 0)
  theta = np.where(zero, np.pi / 2, 2 * np.arctan2(apart, together))
  return np.minimum(theta, np.pi - theta) if half_space else theta


def loop(w, half_space, k, is_pair=True):
  """The k nearest, -1 and infinity where there are not so many."""
  n = len(w)
  theta = np.where(is_pair & ~np.eye(n, dtype=bool), all_angles(w, half_space), np.inf)
  order = np.argsort(theta, axis=1, kind="stable")[:, :k]
  theta = np.take_along_axis(theta, order, 1)
  return theta, np.where(np.isfinite(theta), order, -1)


def check(w, half_space, k, atol=1e-12, exact_indices=True):
  function = functools.partial(nearest_neurons, half_space=half_space, k=k)
  theta, indices = jax.jit(function)(w)
  expected, numbers = loop(w, half_space, k)
  assert theta.shape == indices.shape == (len(w), k) and indices.dtype == jnp.int32
  np.testing.assert_allclose(theta, expected, rtol=1e-7, atol=atol)
  if exact_indices:
    np.testing.assert_array_equal(indices, numbers)


# --- numbers ---------------------------------------------------------------


@every_space
def test_agrees_with_a_loop(half_space):
  for n, k in ((2, 1), (17, 1), (17, 16), (70, 69)):
    check(normal(n, 4, seed=n), half_space, k)


@every_space
def test_tiles_agree_with_a_loop(half_space, small_tiles):
  for n, d, k in ((33, 3, 20), (64, 8, 1), (331, 2, 20)):
    check(normal(n, d, seed=n), half_space, k)


@hypothesis.settings(max_examples=8, deadline=None)
@hypothesis.given(
  n=st.integers(1, 140),
  d=st.integers(1, 6),
  k=st.integers(1, 9),
  block_size=st.integers(32, 100),
  half_space=st.booleans(),
)
def test_any_shape(n, d, k, block_size, half_space):
  w = normal(n, d, seed=n)
  units = units_of(w)
  nearest = functools.partial(
    nearest_rows.nearest, half_space=half_space, k=k, block_size=block_size
  )
  actual = jax.jit(nearest)(units)
  if d == 1:  # All are coincident or antipodal.
    units = np.round(units)
  _, expected = loop(units, half_space, k)
  expected = np.pad(expected, ((0, 0), (0, k - expected.shape[1])), constant_values=-1)
  if d == 1 and n > 16 * (k + nearest_rows.SPARE_GROUPS):
    return  # More ties than are compared.
  np.testing.assert_array_equal(actual, expected)


# --- of some neurons ---------------------------------------------------------


@every_space
@pytest.mark.parametrize("m", (1, 7, 300))
def test_some_rows_agree_with_a_loop(m, half_space, small_tiles):
  w = normal(230, 5)
  w[3], w[4] = w[200], 0.0
  rows = np.random.default_rng(1).integers(0, 230, m)
  rows[0] = 3
  theta, numbers = loop(w, half_space, 2)
  function = functools.partial(nearest_neurons, half_space=half_space, k=2)
  for dtype in ("int8", "uint8", "int64"):
    some = rows[rows < 128] if dtype == "int8" else rows
    actual = jax.jit(function)(w, rows=some.astype(dtype))
    assert actual[0].shape == actual[1].shape == (len(some), 2)
    np.testing.assert_allclose(actual[0], theta[some], rtol=1e-7, atol=1e-12)
    np.testing.assert_array_equal(actual[1], numbers[some])


def test_some_rows_of_a_batch():
  w, rows = normal(3, 2, 40, 4), jnp.array([39, 0, 0])
  actual = nearest_neurons(w, k=3, rows=rows)
  for found, expected in zip(actual, nearest_neurons(w, k=3)):
    assert found.shape == (3, 2, 3, 3)
    np.testing.assert_array_equal(found, expected[..., rows, :])


def test_rows_that_are_not_there():
  w = normal(40, 4)
  w = changed(w, 5, math.nan)
  theta, numbers = nearest_neurons(w, rows=np.array([-1, 40, 2**32, 5, 6]))
  assert np.isnan(theta[:4]).all() and (numbers[:4] == -1).all()
  assert np.isfinite(theta[4]).all() and numbers[4] != 5
  gradient = jax.grad(
    lambda w: jnp.nansum(nearest_neurons(w, rows=jnp.array([-1, 6]))[0])
  )(changed(w, 5, 0.0))
  assert np.isfinite(gradient).all()


def test_gradient_of_some_rows():
  w, rows = normal(90, 3), jnp.array([3, 80, 3])
  weights = jnp.array([1.0, 2.0, 3.0])
  actual, expected = (
    jax.grad(lambda w, f=f: f(w)[:, 0] @ weights)(w)
    for f in (
      lambda w: nearest_neurons(w, rows=rows)[0],
      lambda w: by_definition(w, False, 1)[rows],
    )
  )
  np.testing.assert_allclose(actual, expected, atol=1e-8 * np.abs(expected).max())


def test_memory_of_some_rows():
  n, m, d = 2**17, 2048, 64
  w = jax.ShapeDtypeStruct((n, d), jnp.float32)
  rows = jax.ShapeDtypeStruct((m,), jnp.int32)
  program = jax.jit(lambda w, rows: nearest_neurons(w, rows=rows)).lower(w, rows)
  memory = program.compile().memory_analysis()
  assert memory.temp_size_in_bytes <= 4 * n * d * 4 + 40 * 2**20


@pytest.mark.parametrize(
  ("neurons", "full", "half"),
  [
    (simplex(5), [math.acos(-1 / 5)] * 5, [math.acos(1 / 5)] * 5),
    (np.eye(5), [math.pi / 2] * 4, [math.pi / 2] * 4),
    (
      cross_polytope(4),
      [math.pi / 2] * 6 + [math.pi],
      [0.0] + [math.pi / 2] * 6,
    ),
    (
      icosahedron(),
      [math.atan(2)] * 5 + [math.pi - math.atan(2)] * 5 + [math.pi],
      [0.0] + [math.atan(2)] * 10,
    ),
  ],
  ids=("simplex", "orthogonal", "cross-polytope", "icosahedron"),
)
def test_closed_forms(neurons, full, half):
  w = jnp.asarray(neurons * np.exp(np.arange(len(neurons)) - 3.0)[:, None])
  for half_space, expected in ((False, full), (True, half)):
    theta, indices = nearest_neurons(w, half_space=half_space, k=len(w) - 1)
    np.testing.assert_allclose(
      theta, np.broadcast_to(expected, theta.shape), rtol=0, atol=1e-12
    )
    assert all(
      sorted([i, *row]) == list(range(len(w))) for i, row in enumerate(indices.tolist())
    )


@every_space
def test_ties_go_to_the_lowest_index(half_space, small_tiles):
  # Rows of the axes: all zeros and ones, which do not round.
  axes = np.random.default_rng(0).integers(0, 5, 300)
  w = np.eye(5)[axes]
  for k in (1, 4):
    check(w, half_space, k)
  check(np.ones((200, 3)), half_space, 5)
  check(np.eye(120), half_space, 7)


# --- what cosines do not see -----------------------------------------------


@every_space
def test_float32_cosines_are_blind_but_angles_are_not(half_space, small_tiles):
  # Of each of 100 rows five more, at angles whose cosines are 1 in float32.
  rng = np.random.default_rng(0)
  w = np.repeat(rng.normal(size=(100, 16)), 6, axis=0)
  w /= np.linalg.norm(w, axis=1, keepdims=True)
  w = w + 1e-5 * rng.normal(size=w.shape)
  w = jnp.asarray(
    (w * rng.choice([-1, 1], (600, 1)) if half_space else w)[rng.permutation(600)],
    jnp.float32,
  )
  theta, indices = nearest_neurons(w, half_space=half_space, k=2)
  expected, numbers = loop(w, half_space, 2)
  np.testing.assert_allclose(theta, expected, rtol=0, atol=3e-7)
  # All but those that are closer to each other than the unit vectors round.
  third = loop(w, half_space, 3)[0]
  told_apart = np.diff(third, axis=1) > 4e-7
  np.testing.assert_array_equal(indices[told_apart.all(1)], numbers[told_apart.all(1)])
  assert told_apart.all(1).mean() > 0.8
  assert expected[:, 0].max() < 1e-3


@pytest.mark.parametrize("dtype", ("float32", "bfloat16", "float16"))
def test_lower_precision(dtype):
  w = normal(1200, 48, dtype=dtype)
  theta, indices = nearest_neurons(w)
  assert theta.dtype == jnp.float32
  expected, numbers = nearest_neurons(w.astype(float))
  np.testing.assert_allclose(theta, expected, rtol=1e-6)
  assert np.mean(indices == numbers) > 0.999


def test_returned_angles_ascend(small_tiles):
  theta, _ = nearest_neurons(normal(400, 3, dtype=jnp.float32), k=30)
  assert (np.diff(theta, axis=1) >= 0).all()


def test_huge_and_tiny_norms(small_tiles):
  w = normal(100, 5)
  scale = np.exp(np.linspace(-60, 60, 100))[:, None]
  expected = nearest_neurons(w, k=3)
  theta, indices = nearest_neurons((w * scale).astype(jnp.float32), k=3)
  np.testing.assert_allclose(theta, expected[0], rtol=1e-5)
  np.testing.assert_array_equal(indices, expected[1])


# --- rows that are not as others -------------------------------------------


@every_space
def test_rows_of_zeros_are_orthogonal(half_space):
  w = changed(-np.abs(normal(70, 4)), [2, 5, 40], 0.0)
  check(w, half_space, 3)
  w = changed(simplex(5), 4, 0.0)  # Others are at obtuse angles.
  check(w, half_space, 5, exact_indices=False)
  theta, indices = nearest_neurons(jnp.zeros((4, 3)), half_space=half_space, k=2)
  np.testing.assert_allclose(theta, np.full((4, 2), math.pi / 2))
  assert indices.tolist() == [[1, 2], [0, 2], [0, 1], [0, 1]]


@pytest.mark.parametrize("bad", (math.nan, math.inf))
def test_a_damaged_row_has_no_neighbor_and_is_none(bad):
  w = normal(40, 3)
  damaged = changed(w, (7, 1), bad)
  theta, indices = nearest_neurons(damaged, k=3)
  assert np.isnan(theta[7]).all() and indices[7].tolist() == [-1] * 3
  rest = np.arange(40) != 7
  expected, numbers = loop(w, False, 3, rest & rest[:, None])
  np.testing.assert_allclose(theta[rest], expected[rest], rtol=1e-10)
  np.testing.assert_array_equal(indices[rest], numbers[rest])
  theta, indices = nearest_neurons(damaged[6:9], k=2)
  assert np.isnan(theta).tolist() == [[False, True], [True, True], [False, True]]
  assert indices.tolist() == [[2, -1], [-1, -1], [0, -1]]
  # Its gradient is its own.
  gradient = jax.grad(lambda w: nearest_neurons(w)[0].sum())(damaged)
  assert np.isnan(gradient[7]).all() and np.isfinite(gradient[rest]).all()


WHERE = np.arange(90) % 3 > 0
LABELS = np.random.default_rng(0).integers(-2, 5, 90)
MASKS = {
  "where": (WHERE, None),
  "labels": (None, LABELS),
  "both": (WHERE, LABELS),
  "one row": (np.arange(90) == 3, None),
}


@every_space
@pytest.mark.parametrize(
  ("name", "k", "block_size"),
  [
    *(("where", 1, 32), ("labels", 80, 32), ("both", 5, 1024)),
    *(("both", 80, 32), ("one row", 5, 32)),
  ],
)
def test_masks(name, k, block_size, half_space):
  w, (where, labels) = normal(90, 3), MASKS[name]
  units = units_of(w)
  is_pair = np.ones((90, 90), bool)
  if where is not None:
    is_pair &= where & where[:, None]
  if labels is not None:
    is_pair &= labels != labels[:, None]
  mask = Mask(*(None if x is None else jnp.asarray(x) for x in (where, labels)))
  for k, block_size in ((1, 32), (5, 1024), (80, 32)):
    actual = jax.jit(
      functools.partial(
        nearest_rows.nearest, half_space=half_space, k=k, block_size=block_size
      )
    )(units, mask=mask)
    _, expected = loop(w, half_space, k, is_pair)
    np.testing.assert_array_equal(actual, expected)
  rows = jnp.array([3, 89, 3, 40])
  actual = nearest_rows.nearest(
    units, half_space=half_space, k=2, rows=rows, mask=mask, block_size=32
  )
  _, expected = loop(w, half_space, 2, is_pair)
  np.testing.assert_array_equal(actual, expected[rows])


# --- transformations -------------------------------------------------------


def by_definition(w, half_space, k=2):
  """Angles from cosines, to be differentiated."""
  u = w / jnp.linalg.norm(w, axis=-1, keepdims=True)
  cosines = u @ jnp.swapaxes(u, -1, -2)
  cosines = jnp.abs(cosines) if half_space else cosines
  cosines = jnp.where(jnp.eye(w.shape[-2], dtype=bool), -1.0, cosines)
  return jnp.arccos(jax.lax.top_k(cosines, k)[0])


def weighted(f):
  return lambda w: jnp.vdot(f(w)[..., 0], jnp.arange(w.shape[-2], dtype=w.dtype))


TRANSFORMATIONS = {"jit": lambda f, w, v: f(w), **transformations(weighted)}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_transformations(name, small_tiles):
  w, v = normal(90, 3), normal(90, 3, seed=1)
  actual, expected = (
    jax.jit(functools.partial(TRANSFORMATIONS[name], f))(w, v)
    for f in (
      lambda w: nearest_neurons(w, half_space=True, k=2)[0],
      functools.partial(by_definition, half_space=True),
    )
  )
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-8 * np.abs(y).max()),
    actual,
    expected,
  )


@every_space
def test_gradients_are_finite_where_angles_have_kinks(half_space):
  rows = np.array([[1.0, 2, 3], [1, 2, 3], [-2, -4, -6], [0, 0, 0], [0, 0, 0]])
  pairs = np.stack([rows[:2], rows[1:3], rows[3:], 1e-30 * rows[:2]])

  @jax.jit
  def derivatives(w):
    def total(w):
      return nearest_neurons(w, half_space=half_space, k=4)[0].sum()

    return jax.jvp(jax.grad(total), (w,), (jnp.ones_like(w),))

  for dtype in (np.float32, np.float64):
    for sets in (rows[None], pairs):
      gradient, turn = derivatives(np.concatenate([sets] * 3, axis=1).astype(dtype))
      assert np.isfinite(gradient).all()
      assert np.isfinite(turn[:3]).all()  # Those of the tiny ones overflow.


# --- everywhere ------------------------------------------------------------


def test_inside_shard_map(small_tiles):
  mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
  w = normal(8, 70, 3)

  def with_gradient(w):
    theta, indices = nearest_neurons(w[0], k=2)
    return (
      theta[None],
      indices[None],
      jax.grad(lambda w: nearest_neurons(w)[0].sum())(w[0])[None],
    )

  spec = jax.P("x")
  sharded = jax.shard_map(with_gradient, mesh=mesh, in_specs=spec, out_specs=spec)
  theta, indices, gradient = jax.jit(sharded)(w)
  for i in range(8):
    expected, numbers = loop(w[i], False, 2)
    np.testing.assert_allclose(theta[i], expected, rtol=1e-9)
    np.testing.assert_array_equal(indices[i], numbers)
  expected = jax.grad(lambda w: by_definition(w, False)[..., 0].sum())(w)
  np.testing.assert_allclose(gradient, expected, atol=1e-8 * np.abs(expected).max())


# --- arguments -------------------------------------------------------------


@pytest.mark.parametrize(
  ("neurons", "options", "error", "match"),
  [
    (np.ones((3, 4), int), {}, TypeError, "neurons must be a real floating"),
    (np.ones(4), {}, ValueError, r"neurons must have shape \[\*batch, n, d\]"),
    (np.ones((3, 4)), dict(k=3), ValueError, "k must be .* from 1 to n - 1 = 2, got 3"),
    (np.ones((3, 4)), dict(k=0), ValueError, "k must be a whole number"),
    (np.ones((3, 4)), dict(k=1.5), ValueError, "k must be a whole number.*got 1.5"),
    (np.ones((1, 4)), {}, ValueError, "k must be .* n - 1 = 0, got 1"),
    (np.ones((0, 4)), {}, ValueError, "k must be"),
    (np.ones((3, 4)), dict(rows=[0.5]), TypeError, "rows must be integer.*float"),
    (
      np.ones((3, 4)),
      dict(rows=1),
      ValueError,
      r"rows must have shape.*got \(\)",
    ),
    (np.ones((3, 4)), dict(rows=np.ones(0, int)), ValueError, "rows must have shape"),
  ],
)
def test_errors(neurons, options, error, match):
  with pytest.raises(error, match=match):
    nearest_neurons(neurons, **options)
