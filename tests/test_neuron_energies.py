"""The energy of each neuron, against loops and configurations of known energy."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objectives import FEW_POTENTIALS, transformations
from sets import (
  changed,
  cross_polytope,
  every_space,
  icosahedron,
  normal,
  simplex,
  units_of,
)

from mhe_jax import Riesz, hyperspherical_energy
from mhe_jax.neurons import neuron_energies
from mhe_jax.pair_sum import layout, tiled
from mhe_jax.pair_sum.mask import Mask


def loop(w, potential, half_space, where=None, labels=None):
  """Of each row the mean over the others, one by one; and their number."""
  n = len(w)
  where = np.ones(n, bool) if where is None else where
  labels = np.arange(n) if labels is None else labels
  units = units_of(w)
  energies, numbers = np.zeros(n), np.zeros(n)
  for i in range(n):
    others = [
      j for j in range(n) if where[i] and where[j] and labels[i] != labels[j] and i != j
    ]
    vectors = [sign * units[j] for j in others for sign in (1, -1)[: 1 + half_space]]
    if vectors:
      theta = np.arccos(np.clip(np.array(vectors) @ units[i], -1, 1))
      energies[i] = potential.at_angle(theta).mean()
    numbers[i] = len(others)
  return energies, numbers


def dense(w, potential=Riesz(1.0), half_space=False):
  """The definition, to be differentiated."""
  u = w / jnp.linalg.norm(w, axis=-1, keepdims=True)
  is_pair = ~jnp.eye(w.shape[-2], dtype=bool)
  cosines = jnp.where(is_pair, u @ jnp.swapaxes(u, -1, -2), 0.0)
  energies = potential.value(2 - 2 * cosines)
  if half_space:
    energies = (energies + potential.value(2 + 2 * cosines)) / 2
  return jnp.where(is_pair, energies, 0.0).sum(-1) / max(w.shape[-2] - 1, 1)


# --- numbers ------------------------------------------------------------------


@every_space
@pytest.mark.parametrize("potential", FEW_POTENTIALS, ids=str)
def test_agrees_with_a_loop(potential, half_space):
  for n in (0, 1, 2, 3, 17):
    w = normal(n, 4, seed=n)
    actual = neuron_energies(w, potential, half_space=half_space)
    assert actual.shape == (n,) and actual.dtype == jnp.float64
    np.testing.assert_allclose(actual, loop(w, potential, half_space)[0], rtol=1e-10)


@every_space
@pytest.mark.parametrize("potential", FEW_POTENTIALS, ids=str)
def test_tiles_agree_with_a_loop(potential, half_space):
  sizes = [(2, 2), (5, 2), (37, 8), (50, 16), (50, 37)]
  for n, block_size in sizes if potential == Riesz(2.0) else [(37, 8), (50, 37)]:
    w = normal(n, 4, seed=n)
    units = units_of(w)
    sums = tiled.row_sums(
      units, potential, half_space=half_space, block_size=block_size
    )
    expected = (n - 1) * (1 + half_space) * loop(w, potential, half_space)[0]
    np.testing.assert_allclose(sums, expected, rtol=1e-9, atol=1e-12)


COSINES = {
  # Of one neuron with all others; all neurons of these are alike.
  "simplex": (simplex(5), [-1 / 5] * 5),
  "orthogonal": (np.eye(5), [0.0] * 4),
  "cross-polytope": (cross_polytope(4), [-1.0] + [0.0] * 6),
  "icosahedron": (icosahedron(), [-1.0] + [5**-0.5] * 5 + [-(5**-0.5)] * 5),
}


@pytest.mark.parametrize("name", COSINES)
def test_closed_forms(name):
  neurons, cosines = COSINES[name]
  scale = np.exp(np.arange(len(neurons)) - 3.0)[:, None]
  for potential in FEW_POTENTIALS:
    f = potential.at_angle(np.arccos(cosines))
    actual = neuron_energies(jnp.asarray(scale * neurons), potential)
    np.testing.assert_allclose(actual, np.full(len(neurons), f.mean()), rtol=1e-9)
    if -1.0 in cosines:  # A pair of antipodes coincides as lines.
      continue
    f = potential.at_angle(np.arccos(np.concatenate([cosines, np.negative(cosines)])))
    actual = neuron_energies(jnp.asarray(scale * neurons), potential, half_space=True)
    np.testing.assert_allclose(actual, np.full(len(neurons), f.mean()), rtol=1e-9)


@pytest.mark.parametrize("potential", FEW_POTENTIALS, ids=str)
def test_their_mean_is_the_energy(potential):
  w = normal(3, 40, 5)
  n = w.shape[-2]
  mean = neuron_energies(w, potential).mean(-1)
  np.testing.assert_allclose(mean, hyperspherical_energy(w, potential), rtol=1e-12)
  mean = neuron_energies(w, potential, half_space=True).mean(-1)
  f2 = potential.at_angle(np.pi)
  expected = (f2 + 2 * (n - 1) * mean) / (2 * n - 1)
  energy = hyperspherical_energy(w, potential, half_space=True)
  np.testing.assert_allclose(energy, expected, rtol=1e-12)


def test_the_redundant_neurons_have_the_highest():
  w = normal(300, 30)
  w[7] = 2 * w[200] + 0.01 * w[7]
  energies = neuron_energies(w, Riesz(2.0))
  assert set(np.argsort(energies)[-2:].tolist()) == {7, 200}
  flipped = neuron_energies(changed(w, 7, -w[7]), Riesz(2.0), half_space=True)
  assert set(np.argsort(flipped)[-2:].tolist()) == {7, 200}


@pytest.mark.parametrize("dtype", ("float32", "bfloat16", "float16"))
def test_lower_precision(dtype):
  w = normal(2100, 48, dtype=dtype)
  for half_space in (False, True):
    actual = neuron_energies(w, Riesz(1.0), half_space=half_space)
    assert actual.dtype == jnp.float32
    expected = neuron_energies(w.astype(float), Riesz(1.0), half_space=half_space)
    np.testing.assert_allclose(actual, expected, rtol=3e-6)


# --- rows that are not as others ----------------------------------------------------


@every_space
def test_rows_of_zeros_are_orthogonal(half_space):
  w = changed(normal(9, 4), [2, 5], 0.0)
  energies = functools.partial(neuron_energies, half_space=half_space)
  expected = loop(w, Riesz(1.0), half_space)[0]
  np.testing.assert_allclose(energies(w), expected, rtol=1e-10)
  np.testing.assert_allclose(energies(jnp.zeros((4, 3))), np.full(4, 2**-0.5))
  gradient = jax.grad(lambda w: energies(w).sum())(w)
  assert np.isfinite(gradient).all() and not gradient[2].any()


@every_space
def test_equal_and_opposite_rows_are_finite(half_space):
  w = jnp.concatenate([jnp.ones((2, 3)), -jnp.ones((2, 3)), 1e30 * normal(2, 3)])
  for dtype in (jnp.float32, jnp.float64):
    value, pullback = jax.vjp(
      functools.partial(neuron_energies, half_space=half_space), w.astype(dtype)
    )
    assert np.isfinite(value).all()
    assert np.isfinite(pullback(jnp.arange(6, dtype=dtype))[0]).all()


@pytest.mark.parametrize("bad", (math.nan, math.inf))
def test_a_damaged_row_is_in_every_mean(bad):
  w = changed(normal(2, 9, 4), (0, 3, 1), bad)
  energies = neuron_energies(w)
  assert np.isnan(energies[0]).all() and np.isfinite(energies[1]).all()
  # But not in that of a row it is no pair with.
  labels = jnp.array([0, 0, 0, 0, 1, 1, 1, 1, 1])
  energies = neuron_energies(w[0], labels=labels)
  assert np.isnan(energies).tolist() == [False] * 3 + [True] * 6
  assert np.isnan(neuron_energies(w[0, 3:4])).all()
  where = jnp.arange(9) != 3
  assert np.isfinite(neuron_energies(w[0], where=where)).all()


WHERE = np.arange(37) % 3 > 0
LABELS = np.random.default_rng(0).integers(-2, 5, 37)


@every_space
@pytest.mark.parametrize(
  "mask",
  [
    dict(where=WHERE),
    dict(labels=LABELS),
    dict(where=WHERE, labels=LABELS),
    dict(where=np.zeros(37, bool)),
    dict(labels=np.zeros(37, int)),
    dict(where=np.arange(37) == 5, labels=LABELS),
  ],
  ids=("where", "labels", "both", "none", "one label", "one row"),
)
def test_masks(mask, half_space):
  w = normal(37, 4)
  expected, numbers = loop(w, Riesz(2.0), half_space, **mask)
  actual = neuron_energies(w, Riesz(2.0), half_space=half_space, **mask)
  np.testing.assert_allclose(actual, expected, rtol=1e-9)
  arrays = Mask(
    *(None if (x := mask.get(k)) is None else jnp.asarray(x) for k in Mask._fields)
  )
  np.testing.assert_array_equal(arrays.num_partners(37, jnp.float64), numbers)
  # In tiles too.
  units = units_of(w)
  sums = tiled.row_sums(
    units, Riesz(2.0), half_space=half_space, mask=arrays, block_size=8
  )
  np.testing.assert_allclose(sums, expected * numbers * (1 + half_space), rtol=1e-9)
  if not half_space:
    weighted = (actual * numbers).sum() / max(numbers.sum(), 1)
    energy = hyperspherical_energy(w, Riesz(2.0), **mask)
    np.testing.assert_allclose(weighted, energy, rtol=1e-12)


def test_rows_that_do_not_count_have_no_energy_and_no_gradient():
  w = changed(normal(9, 4), 3, np.nan)
  where = jnp.arange(9) != 3
  value, pullback = jax.vjp(functools.partial(neuron_energies, where=where), w)
  (gradient,) = pullback(jnp.ones(9))
  kept = jax.grad(lambda w: neuron_energies(w).sum())(w[where])
  assert value[3] == 0.0 and not gradient[3].any()
  np.testing.assert_allclose(gradient[where], kept, rtol=1e-12, atol=1e-12)


# --- transformations ----------------------------------------------------------


def weighted(f):
  return lambda w: jnp.vdot(f(w), jnp.arange(w.shape[-2], dtype=w.dtype))


TRANSFORMATIONS = {
  **transformations(weighted),
  "Jacobian": lambda f, w, v: jax.jacrev(f)(w),
  "reverse over forward": lambda f, w, v: jax.grad(
    lambda w: jax.jvp(weighted(f), (w,), (v,))[1]
  )(w),
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_transformations(name, monkeypatch):
  # As many tiles as there are of thousands of neurons.
  monkeypatch.setattr(layout, "default_block_size", lambda: 8)
  w, v = normal(37, 3), normal(37, 3, seed=1)
  expected, actual = (
    jax.jit(
      functools.partial(
        TRANSFORMATIONS[name],
        # Of no other test, so that it is traced with these tiles.
        functools.partial(f, potential=Riesz(1.5), half_space=True),
      )
    )(w, v)
    for f in (dense, neuron_energies)
  )
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-11 * np.abs(y).max()),
    actual,
    expected,
  )


# --- arguments ----------------------------------------------------------------


def test_shapes():
  for shape in ((0, 3), (1, 3), (3, 0), (2, 0, 4), (0, 5, 4), (2, 3, 1, 4)):
    for half_space in (False, True):
      energies = neuron_energies(jnp.ones(shape), half_space=half_space)
      assert energies.shape == shape[:-1] and np.isfinite(energies).all()
  assert not neuron_energies(jnp.ones((1, 3))).any()
  w = normal(2, 3, 5, 4)
  actual = neuron_energies(w, where=jnp.arange(5) < 4)
  np.testing.assert_allclose(actual[1, 2, :4], dense(w[1, 2, :4]), rtol=1e-12)


@pytest.mark.parametrize(
  ("arguments", "options", "error", "match"),
  [
    ((np.ones((3, 4), int),), {}, TypeError, "neurons must be a real floating"),
    ((np.ones(4),), {}, ValueError, r"neurons must have shape \[\*batch, n, d\]"),
    ((np.ones((3, 4)), 2.0), {}, TypeError, "potential must be"),
    ((np.ones((3, 4)),), dict(where=np.ones(3)), TypeError, "where must be boolean"),
    ((np.ones((3, 4)),), dict(labels=np.ones(3)), TypeError, "labels must be integer"),
    (
      (np.ones((3, 4)),),
      dict(where=np.ones(4, bool)),
      ValueError,
      r"where must have a shape that broadcasts to \(3,\).*got \(4,\)",
    ),
  ],
)
def test_errors(arguments, options, error, match):
  with pytest.raises(error, match=match):
    neuron_energies(*arguments, **options)
