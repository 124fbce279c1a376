"""The smallest angle of a layer, by describe: of many neurons, tile by tile."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sets import every_space, normal

from mhe_jax import LayerRule, NeuronAxes, describe

pytestmark = pytest.mark.usefixtures("optimized")


def angles(w, half_space):
  """Between all pairs, by differences, [n (n - 1) / 2]."""
  u = w / np.linalg.norm(w, axis=1, keepdims=True)
  i, j = np.triu_indices(len(u), 1)
  apart, together = (np.linalg.norm(u[i] + s * u[j], axis=1) for s in (-1, 1))
  angles = 2 * np.arctan2(apart, together)
  return np.minimum(angles, np.pi - angles) if half_space else angles


def close_pairs(*between):
  """Random rows, and next to some of them another, at these angles, some reversed."""
  w = normal(100, 16)
  for k, angle in enumerate(between):
    u = w[k] / np.linalg.norm(w[k])
    across = w[50 + k] - (w[50 + k] @ u) * u
    row = np.cos(angle) * u + np.sin(angle) * across / np.linalg.norm(across)
    w[-1 - k] = (-1) ** k * row * math.exp(k - 2)
  return w


SETS = {
  "random": normal(100, 16),
  "one block and a row": normal(33, 5),
  "too close for float32": close_pairs(*np.linspace(3e-4, 1e-5, 9)),
  "more ties than not": np.tile(normal(10, 16), (10, 1)) + 1e-5 * normal(100, 16),
  "one direction": np.abs(normal(1, 16)) + 1e-5 * normal(100, 16),
  "orthogonal": np.linalg.qr(normal(100, 100))[0],
  "a simplex": np.eye(40) - 1 / 40,
  "in one orthant": np.abs(normal(100, 3)),
  "in the plane": normal(100, 2),
  "on a line": normal(40, 1),
  "norms": normal(100, 16) * np.exp(normal(100, 1) * 20),
}


def row_of(w, half_space):
  rules = [LayerRule("kernel", NeuronAxes(0))]
  (row,) = describe({"kernel": w}, half_space=half_space, rules=rules)
  return row


@every_space
@pytest.mark.parametrize(
  ("name", "dtype"),
  [*itertools.product(SETS, ("float64", "float32")), ("random", "bfloat16")],
)
def test_is_the_smallest_of_all_pairs(name, dtype, half_space, small_tiles):
  w = jnp.asarray(SETS[name], dtype)
  expected = np.degrees(angles(np.float64(w), half_space).min())
  actual = row_of(w, half_space).smallest_angle
  # Unit vectors of float32, and their differences, are good to a few of its roundings.
  close = 1e-9 if dtype == "float64" else 5e-7
  assert actual == pytest.approx(expected, rel=1e-6, abs=np.degrees(close))


@every_space
def test_zero_rows_are_left_out(half_space):
  w = np.zeros((60, 16), np.float32)
  w[::2] = -np.abs(normal(30, 16)) if half_space else (np.eye(30) - 1 / 30)[:, :16]
  expected = np.degrees(angles(np.float64(w[::2]), half_space).min())
  row = row_of(jnp.asarray(w), half_space)
  assert row.smallest_angle == pytest.approx(expected, rel=1e-6)
  assert row.zero_neurons == 30
  for rows in (w[1::2], w[:2]):
    row = row_of(jnp.asarray(rows), half_space)
    assert math.isnan(row.smallest_angle) and math.isfinite(row.energy)


@pytest.mark.parametrize("bad", (math.nan, math.inf))
def test_a_damaged_row(bad):
  for n in (3, 40):
    w = normal(n, 4)
    w[1, 2] = bad
    row = row_of(jnp.asarray(w), True)
    assert math.isnan(row.smallest_angle) and math.isnan(row.energy)


def test_does_not_need_x64(small_tiles):
  w = jnp.asarray(SETS["too close for float32"], jnp.float32)
  expected = row_of(w, True).smallest_angle
  with jax.enable_x64(False):
    actual = row_of(w, True).smallest_angle
  assert actual == expected == pytest.approx(np.degrees(1e-5), rel=0.02)


def test_a_large_layer_is_described():
  w = normal(3, 2, 1500)
  rules = [LayerRule("kernel", NeuronAxes(-1, batch=0))]
  (row,) = describe({"kernel": w}, half_space=False, rules=rules)
  expected = min(angles(x.T, False).min() for x in w)
  assert row.smallest_angle == pytest.approx(math.degrees(expected), rel=1e-6)
