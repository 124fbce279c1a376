"""where and labels: the pairs that count, against loops over those pairs."""

import functools
import itertools
import math

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objectives import FEW_POTENTIALS
from sets import every_space, normal

from mhe_jax import Gaussian, Riesz, hyperspherical_energy
from mhe_jax.pair_sum.mask import Mask

ENGINES = pytest.mark.parametrize(
  "engine",
  (dict(implementation="dense"), dict(implementation="tiled", block_size=4)),
  ids=("dense", "tiled"),
)
# Of each kind: all rows, some, one, none; labels all different, some equal, all equal.
WHERES = np.array([[1] * 9, [1, 0, 1, 1, 0, 1, 1, 0, 1], [0] * 8 + [1], [0] * 9], bool)
LABELS = np.array([range(9), [3, 1, 4, 1, 5, -4, 2, 4, 4], [7] * 9])


def class_rows(labels, seed=0):
  """Rows of a mini-batch: those of equal labels coincide, but for their norms."""
  return normal(100, 4, seed=seed)[labels] * np.exp(normal(*labels.shape, 1, seed=1))


def assert_close(actual, expected, tolerance=1e-12):
  def check(x, y):
    scale = max(np.abs(y).max(initial=0.0), 1e-3)
    np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * scale)

  jax.tree.map(check, actual, expected)


def loop(w, where, labels, potential, half_space):
  """(sum, number) over the pairs that count, one by one; half-space by antipodes."""
  units = w / np.linalg.norm(w, axis=1, keepdims=True)
  points = [(i, 1.0) for i in range(len(w)) if where[i]]
  if half_space:
    points += [(i, -1.0) for i, _ in points]
  energies = []
  for (i, a), (j, b) in itertools.combinations(points, 2):
    if i == j or labels[i] != labels[j]:  # A row and its own antipode do count.
      cosine = np.clip(a * b * units[i] @ units[j], -1.0, 1.0)
      energies.append(potential.at_angle(np.arccos(-1.0 if i == j else cosine)))
  return float(np.sum(energies)), len(energies)


@every_space
@ENGINES
@pytest.mark.parametrize("potential", FEW_POTENTIALS, ids=str)
def test_agrees_with_a_double_loop(potential, engine, half_space):
  @jax.jit
  def mean_and_sum(w, where, labels):
    energy = functools.partial(
      hyperspherical_energy, w, potential, half_space=half_space, **engine
    )
    return [
      energy(where=where, labels=labels, reduction=reduction)
      for reduction in ("mean", "sum")
    ]

  for where, labels in itertools.product(WHERES, LABELS):
    w = class_rows(labels)
    mean, total = mean_and_sum(w, where, labels)
    expected, number = loop(w, where, labels, potential, half_space)
    assert float(total) == pytest.approx(expected, rel=1e-7, abs=1e-12)
    assert float(mean) == pytest.approx(expected / max(number, 1), rel=1e-7, abs=1e-12)


@every_space
@ENGINES
def test_rows_that_do_not_count_are_as_if_they_were_not_there(engine, half_space):
  @functools.partial(jax.jit, static_argnames=("with_labels", "dense"))
  def value_and_grad(w, where, labels, with_labels, dense=False):
    def energy(w):
      energies = hyperspherical_energy(
        w,
        Riesz(2.0),
        half_space=half_space,
        where=where,
        labels=labels if with_labels else None,
        **(dict(implementation="dense") if dense else engine),
      )
      return energies.sum(), energies

    gradient, energies = jax.grad(energy, has_aux=True)(w)
    return energies, gradient

  w, labels = normal(9, 4), LABELS[1]
  junk = np.array([1.0, 0.0, math.nan, math.inf])[:, None, None, None]
  damaged = np.where(WHERES[..., None], w, junk)  # [junk, where, n, d]
  for with_labels in (False, True):
    energies, gradients = map(
      np.asarray, value_and_grad(damaged, WHERES, labels, with_labels)
    )
    assert not gradients[:, ~WHERES].any()
    for i, where in enumerate(WHERES):
      rest = value_and_grad(w[where], True, labels[where], with_labels, dense=True)
      for value, gradient in zip(energies[:, i], gradients[:, i]):
        assert_close((value, gradient[where]), rest)


@every_space
@ENGINES
def test_different_labels_and_all_rows_are_no_mask(engine, half_space):
  energy = functools.partial(hyperspherical_energy, half_space=half_space, **engine)
  w = normal(9, 4)
  plain = jax.value_and_grad(energy)(w)
  for mask in (dict(where=True), dict(labels=LABELS[0]), dict(where=[True] * 9)):
    assert_close(jax.value_and_grad(functools.partial(energy, **mask))(w), plain)


@every_space
@ENGINES
@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
def test_a_class_twice_in_a_mini_batch(dtype, engine, half_space):
  """Coincident rows leave no trace of r = 0, in the value or its derivatives."""
  labels = LABELS[1]
  w = jnp.asarray(normal(10, 4), dtype)

  def energy(w):
    return hyperspherical_energy(
      w[labels], Riesz(2.0), labels=labels, half_space=half_space, **engine
    )

  def moved_apart(w):  # The definition, in which equal rows have no pair at all.
    u = w / jnp.linalg.norm(w, axis=1, keepdims=True)
    i, j = np.array(
      [p for p in itertools.combinations(range(9), 2) if len({*labels[[*p]]}) == 2]
    ).T
    cosines = (u[labels[i]] * u[labels[j]]).sum(1)
    pairs = 1 / (2 - 2 * cosines)
    if not half_space:
      return pairs.mean()
    pairs = 2 * (pairs + 1 / (2 + 2 * cosines))
    return (pairs.sum() + 9 / 4) / (4 * len(i) + 9)

  with jax.debug_nans(True):
    value, gradient = jax.jit(jax.value_and_grad(energy))(w)
  assert gradient.dtype == dtype
  exact, exact_gradient = jax.value_and_grad(moved_apart)(w.astype(jnp.float64))
  assert float(value) == pytest.approx(float(exact), rel=1e-6)
  tolerance = 2e-2 if dtype == "bfloat16" else 1e-5
  assert_close(np.float64(gradient), exact_gradient, tolerance)


def total(w, mask, half_space=True, **engine):
  return hyperspherical_energy(
    w, Riesz(2.0), half_space=half_space, where=mask.where, labels=mask.labels, **engine
  ).sum()


TRANSFORMATIONS = {
  "jvp": lambda f, w, v: jax.jvp(f, (w,), (v,)),
  "Hessian": lambda f, w, v: jax.hessian(f)(w),
  "reverse over reverse": lambda f, w, v: jax.grad(
    lambda w: jnp.vdot(jax.grad(f)(w), v)
  )(w),
  "checkpoint": lambda f, w, v: jax.grad(jax.checkpoint(f))(w),
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_derivatives_with_traced_masks(name):
  @functools.partial(jax.jit, static_argnames="engine")
  def transformed(w, v, mask, engine):
    options = dict(implementation=engine)
    f = functools.partial(total, mask=mask, half_space=True, **options)
    return TRANSFORMATIONS[name](f, w, v)

  w, v = class_rows(LABELS[1]), normal(9, 4, seed=2)
  for mask in (Mask(WHERES[1]), Mask(None, LABELS[1]), Mask(WHERES[1], LABELS[1])):
    with jax.debug_nans(True):
      dense, tiled = (transformed(w, v, mask, e) for e in ("dense", "tiled"))
    assert_close(tiled, dense, 1e-11)


@hypothesis.settings(max_examples=8, deadline=None)
@hypothesis.given(
  n=st.integers(0, 70),
  block_size=st.integers(2, 40),
  half_space=st.booleans(),
  has_where=st.booleans(),
  has_labels=st.booleans(),
  seed=st.integers(0, 99),
)
def test_tiles_are_dense(n, block_size, half_space, has_where, has_labels, seed):
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, 1 + n // 3, size=(2, n))
  mask = Mask(
    rng.random((2, n)) < 0.7 if has_where else None, labels if has_labels else None
  )
  w = class_rows(labels, seed) if has_labels else normal(2, n, 4)
  options = dict(half_space=half_space, potential=Gaussian(1.0))
  dense, tiled = (
    jax.jit(
      jax.value_and_grad(
        lambda w, engine=engine: hyperspherical_energy(
          w, where=mask.where, labels=mask.labels, **engine, **options
        ).sum()
      )
    )(w)
    for engine in (
      dict(implementation="dense"),
      dict(implementation="tiled", block_size=block_size),
    )
  )
  assert_close(tiled, dense)


def test_float32_tiles():
  labels = np.random.default_rng(0).integers(0, 500, 1000)
  where, rows = labels < 400, jnp.asarray(normal(1000, 48), jnp.float32)
  for w, mask in (
    (rows, Mask(where)),
    (rows[labels], Mask(None, labels)),
    (rows[labels], Mask(where, labels)),
  ):
    value, gradient = jax.value_and_grad(total)(
      w, mask, implementation="tiled", block_size=128
    )
    exact, exact_gradient = jax.value_and_grad(total)(
      w.astype(jnp.float64), mask, implementation="dense"
    )
    assert float(value) == pytest.approx(float(exact), rel=1e-6)
    assert_close(np.float64(gradient), exact_gradient, 3e-6)


@ENGINES
def test_batches_and_broadcasting(engine):
  w = normal(2, 3, 9, 4)

  def energies(w, **mask):
    return hyperspherical_energy(w, **engine, **mask)

  masks = {
    "each its own": (WHERES[[[1, 0, 2], [3, 1, 1]]], LABELS[[[0, 1, 2], [1, 1, 0]]]),
    "one for all": (WHERES[1], LABELS[1]),
    "of one axis": (WHERES[:2, None], LABELS),
  }  # fmt: skip
  for where, labels in masks.values():
    actual = energies(w, where=where, labels=labels)
    wheres, labelss = (np.broadcast_to(x, (2, 3, 9)) for x in (where, labels))
    each = [
      [
        energies(w[i, j], where=wheres[i, j], labels=labelss[i, j]) for j in range(3)
      ]
      for i in range(2)
    ]  # fmt: skip
    assert_close(actual, np.array(each))
    of_vmap = jax.vmap(jax.vmap(lambda w, a, b: energies(w, where=a, labels=b)))
    assert_close(of_vmap(w, wheres, labelss), actual)
  # One set under many masks.
  many = jax.vmap(lambda a: energies(w[0, 0], where=a))(WHERES)
  assert_close(many, energies(np.broadcast_to(w[0, 0], (4, 9, 4)), where=WHERES))


@every_space
@ENGINES
@pytest.mark.parametrize("n", (0, 1))
def test_no_pairs(n, engine, half_space):
  energy = functools.partial(
    hyperspherical_energy, half_space=half_space, potential=Riesz(2.0), **engine
  )
  w = jnp.ones((n, 3))
  for where in (np.ones(n, bool), np.zeros(n, bool)):
    for labels in (None, np.zeros(n, int)):
      value, gradient = jax.value_and_grad(energy)(w, where=where, labels=labels)
      assert float(value) == (0.25 if half_space and where.any() else 0.0)
      assert not np.asarray(gradient).any()


@every_space
@ENGINES
@pytest.mark.parametrize("bad", (math.nan, math.inf))
def test_a_damaged_row_that_counts_is_not_hidden(bad, engine, half_space):
  energy = functools.partial(hyperspherical_energy, half_space=half_space, **engine)
  w = normal(9, 4)
  w[-1, 2] = bad
  for mask in (dict(where=WHERES[2]), dict(labels=LABELS[2]), dict(labels=LABELS[0])):
    assert math.isnan(energy(w, **mask))


def test_numbers_of_pairs_of_many_rows():
  """Whose number an int32 would not hold."""
  labels = np.arange(100_000) % 7
  mask = Mask(labels != 3, labels)
  sizes = np.bincount(labels[labels != 3])
  expected = (sizes.sum() ** 2 - (sizes**2).sum()) / 2
  assert float(mask.num_pairs(100_000, jnp.float32)) == pytest.approx(
    expected, rel=1e-6
  )
  without = float(Mask(labels != 3).num_pairs(100_000, jnp.float64))
  assert without == sizes.sum() * (sizes.sum() - 1) / 2


def test_memory_of_value_and_gradient():
  def value_and_grad(w, where, labels):
    return jax.value_and_grad(
      lambda w: hyperspherical_energy(w, where=where, labels=labels, half_space=True)
    )(w)

  n, d = 65536, 64
  shapes = (
    jax.ShapeDtypeStruct((n, d), jnp.float32),
    jax.ShapeDtypeStruct((n,), jnp.bool_),
    jax.ShapeDtypeStruct((n,), jnp.int32),
  )
  memory = jax.jit(value_and_grad).lower(*shapes).compile().memory_analysis()
  assert memory.temp_size_in_bytes <= 4 * n * d * 4 + 32 * 2**20


def test_inside_shard_map():
  mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
  w, labels = normal(8, 9, 4), np.tile(LABELS[1], (8, 1))
  where = np.tile(WHERES[1], (8, 1))

  def energy(w, where, labels):
    options = dict(implementation="tiled", block_size=4)
    return hyperspherical_energy(w, where=where, labels=labels, **options)

  spec = jax.P("x")
  sharded = jax.shard_map(energy, mesh=mesh, in_specs=spec, out_specs=spec)
  assert_close(jax.jit(sharded)(w, where, labels), energy(w, where, labels))


FLOATS = jax.ShapeDtypeStruct((2, 4, 3), jnp.float32)


@pytest.mark.parametrize(
  "arguments, error, match",
  [
    (dict(where=np.ones((2, 4))), TypeError, "where must be boolean, got .* float64"),
    (dict(where=np.ones(4, np.int32)), TypeError, "where .* int32"),
    (dict(labels=np.ones((2, 4))), TypeError, "labels must be integer, .* float64"),
    (dict(labels=np.ones(4, bool)), TypeError, "labels .* bool"),
    (dict(where=np.ones(3, bool)), ValueError, r"where .* \(2, 4\), .* got \(3,\)"),
    (dict(where=np.ones((5, 2, 4), bool)), ValueError, "where"),
    (dict(labels=np.ones((2, 3), int)), ValueError, r"labels .* \(2, 4\)"),
    (dict(labels=np.ones((2, 4, 3), int)), ValueError, r"labels .* got \(2, 4, 3\)"),
  ],
)
def test_bad_masks_are_named_at_trace_time(arguments, error, match):
  with pytest.raises(error, match=match):
    jax.eval_shape(lambda w: hyperspherical_energy(w, **arguments), FLOATS)
