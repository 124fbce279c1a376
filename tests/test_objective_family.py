"""Objectives that draw or seek something, against float64 calculations in NumPy."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from objectives import KEY
from sets import cross_polytope, every_space, normal, simplex

from experiments.benchmarks.products import products_of
from mhe_jax import (
  Adversarial,
  AnglePreserving,
  Covering,
  Gaussian,
  Grouped,
  MeanDirection,
  Objective,
  Orthonormality,
  Polarization,
  Projected,
  RelativeExcess,
  Riesz,
  SlicedUniformity,
)


def unit(w):
  return w / np.linalg.norm(w, axis=-1, keepdims=True)


def with_antipodes(u, half_space):
  return np.concatenate([u, -u]) if half_space else u


def mean_energy(w, half_space, f):
  u = with_antipodes(unit(w), half_space)
  return np.mean([f(np.sum((x - y) ** 2)) for x, y in itertools.combinations(u, 2)])


def inverse(r):
  return 1 / r


def draws(num, d, dim):
  own, _ = jax.random.split(KEY)
  return np.asarray(jax.random.normal(own, (num, d, dim), float))


# --- The point that is left out.


def largest_on_sphere(function, d):
  """By a quasi-Newton method from many starts."""

  def least(x):
    return -function(x / np.linalg.norm(x))

  starts = normal(30, d, seed=5)
  return -min(scipy.optimize.minimize(least, x, tol=1e-10).fun for x in starts)


def potential_at(v, u):
  return -np.mean(1 / np.sum((v - u) ** 2, -1))


def hole_at(v, u):
  return -np.log(np.mean(np.exp(-10 * np.sum((v - u) ** 2, -1)))) / 10


@every_space
@pytest.mark.parametrize(
  "objective, function",
  [
    (Polarization(Riesz(2.0), 16, 40), potential_at),
    (Covering(10.0, 16, 40), hole_at),
  ],
  ids=("polarization", "covering"),
)
def test_the_pole_is_the_worst(objective, function, half_space):
  w = normal(9, 3)
  u = with_antipodes(unit(w), half_space)
  expected = largest_on_sphere(lambda v: function(v, u), 3)
  value = float(objective(w, half_space=half_space, key=KEY))
  assert value == pytest.approx(expected, rel=1e-4)
  assert value <= expected + 1e-9


def test_poles_of_polygons_and_of_the_octahedron():
  angles = 2 * np.pi * np.arange(7) / 7
  heptagon = np.stack([np.cos(angles), np.sin(angles)], -1)
  value = Polarization(Riesz(2.0), 8, 40)(heptagon, key=KEY)
  assert float(value) == pytest.approx(-7 / 4, rel=1e-4)
  hole = Covering(1e4, 8, 60)(cross_polytope(3), key=KEY)
  # In the middle of a face, as far from three of the six.
  assert float(hole) == pytest.approx(2 - 2 / 3**0.5 + math.log(2) / 1e4, rel=1e-4)


@every_space
@pytest.mark.parametrize(
  "objective",
  [Polarization(Riesz(2.0), num_steps=60), Covering(num_steps=60)],
  ids=("polarization", "covering"),
)
def test_the_gradient_is_that_at_the_pole(objective, half_space):
  """As of a maximum: nearly that of the value, by differences, after many steps."""
  w = jnp.asarray(normal(6, 3))
  f = jax.jit(lambda w: objective(w, half_space=half_space, key=KEY))
  direction = normal(6, 3, seed=1)
  slope = np.vdot(jax.grad(f)(w), direction)
  difference = (f(w + 1e-3 * direction) - f(w - 1e-3 * direction)) / 2e-3
  assert slope == pytest.approx(float(difference), rel=1e-2, abs=1e-4)


def test_the_mean_direction():
  w = normal(6, 4)
  assert float(MeanDirection()(w)) == pytest.approx(np.sum(unit(w).mean(0) ** 2))
  for balanced in (simplex(4), cross_polytope(3)):
    assert float(MeanDirection()(balanced)) == pytest.approx(0.0, abs=1e-15)
  assert float(MeanDirection()(w, half_space=True)) == 0.0
  with pytest.raises(NotImplementedError, match="no scale"):
    RelativeExcess(MeanDirection())(w, half_space=True)


# --- Projections.


@every_space
@pytest.mark.parametrize("num_groups, sizes", [(1, [7]), (3, [3, 2, 2]), (9, [1] * 7)])
def test_groups(num_groups, sizes, half_space):
  w = normal(5, 7)
  parts = np.split(unit(w), np.cumsum(sizes)[:-1], axis=1)
  f = lambda r: np.exp(-r)  # noqa: E731
  expected = np.mean([mean_energy(part, half_space, f) for part in parts])
  value = Grouped(Gaussian(1.0), num_groups)(w, half_space=half_space)
  assert float(value) == pytest.approx(expected, rel=1e-12)


def cosines(w):
  return unit(w) @ unit(w).T


def test_no_steps_away_is_the_draw_of_random_projections():
  """Both fitted projections start there, and better their own losses from there on."""
  w = normal(12, 20)
  starts = draws(3, 20, 4)
  energies = [mean_energy(unit(w) @ p, False, inverse) for p in starts]
  projected = Projected(Riesz(2.0), 4, 3)(w, key=KEY)
  assert float(projected) == pytest.approx(np.mean(energies), rel=1e-10)
  worst = [float(Adversarial(Riesz(2.0), 4, 3, k)(w, key=KEY)) for k in (1, 3, 6)]
  assert np.mean(energies) < worst[0] < worst[1] < worst[2]


def turned(x, gradient, angle):
  """By hand: a point of the sphere of all numbers of x, turned along -gradient."""
  gradient = gradient / np.linalg.norm(gradient)
  tangent = gradient - np.sum(gradient * x) * x
  x = x - angle * tangent / np.linalg.norm(tangent)
  return x / np.linalg.norm(x)


@every_space
@pytest.mark.parametrize("kind", (AnglePreserving, Adversarial))
def test_fitted_projections_are_what_differences_descend_to(kind, half_space):
  """Two steps by hand, with gradients by differences."""
  w, dim = normal(5, 6), 3

  def energy(p):
    return mean_energy(w @ p, half_space, lambda r: np.exp(-r))

  def loss(p):
    if kind is Adversarial:
      return -energy(p)
    return np.sum((cosines(unit(w) @ p) - cosines(w)) ** 2)

  (p,) = draws(1, 6, dim)
  p = p / np.linalg.norm(p)
  basis = np.eye(p.size).reshape(-1, *p.shape)
  for angle in (0.5, 0.4):
    slopes = [(loss(p + 1e-6 * e) - loss(p - 1e-6 * e)) / 2e-6 for e in basis]
    p = turned(p, np.reshape(slopes, p.shape), angle)
  objective = kind(Gaussian(1.0), dim, num_steps=2)
  f = lambda w: objective(w, half_space=half_space, key=KEY)  # noqa: E731
  value, gradient = jax.value_and_grad(f)(jnp.asarray(w))
  assert float(value) == pytest.approx(energy(p), rel=1e-6)

  def at(w):  # With that projection, whatever the neurons.
    return mean_energy(w @ p, half_space, lambda r: np.exp(-r))

  for i, j in ((0, 0), (3, 5)):
    move = np.zeros_like(w)
    move[i, j] = 1e-5
    difference = (at(w + move) - at(w - move)) / 2e-5
    assert float(gradient[i, j]) == pytest.approx(difference, rel=1e-4, abs=1e-7)


@dataclasses.dataclass(frozen=True)
class Difference(Objective):
  """Of the cosines from those of a set that is random, and not projected."""

  d: int

  def evaluate(self, units, *, half_space, key):
    kept = cosines(normal(units.shape[-2], self.d))
    kept = jnp.broadcast_to(kept, (*units.shape[:-1], len(kept)))
    return jnp.linalg.norm(units @ units.mT - kept, axis=(-2, -1))


@pytest.mark.parametrize("d, dim, left", [(27, 20, 0.3), (576, 30, 0.6)])
def test_preserved_angles_are_nearer_than_random_ones(d, dim, left):
  """By as much as documented."""
  w = normal(64, d)
  kept = AnglePreserving(Difference(d), dim, 4)(w, key=KEY)
  random = Projected(Difference(d), dim, 4)(w, key=KEY)
  assert float(kept / random) == pytest.approx(left, abs=0.05)


@every_space
@pytest.mark.parametrize("steps", (1, 5))
def test_what_fitted_projections_cost(steps, half_space):
  """In products of the neurons with the projections, where these are most of it."""
  n, d, dim = 64, 2048, 16
  w, unit_of_cost = jnp.asarray(normal(n, d)), n * d * dim

  def cost(objective):
    f = lambda w: objective(w, half_space=half_space, key=KEY)  # noqa: E731
    return products_of(jax.value_and_grad(f), w) / unit_of_cost

  kept = cost(AnglePreserving(Riesz(2.0), dim, num_steps=steps))
  assert kept == pytest.approx(2 + 4 * steps, rel=0.05)
  adversarial = cost(Adversarial(Riesz(2.0), dim, num_steps=steps))
  one = cost(Projected(Riesz(2.0), dim))
  assert adversarial == pytest.approx((1 + steps) * one, rel=0.01)


# --- Slices.


def circle_distance(x):
  """W2 squared to uniform, of positions in turns: by quantiles on a fine grid.

  On a circle, the least over all rotations of the one distribution.
  """
  n, fine = len(x), 200
  quantiles = (np.arange(n * fine) + 0.5) / (n * fine)
  x = np.sort(x)
  around = np.repeat(np.concatenate([x - 1.0, x, x + 1.0]), fine)
  starts = fine * np.arange(2 * n + 1)  # Whichever comes first.
  return min(np.var(around[i : i + n * fine] - quantiles) for i in starts)


def slices(num, d):
  """As documented: planes of two draws, made orthonormal."""
  first, second = np.asarray(jax.random.normal(KEY, (2, num, d), float))
  first = unit(first)
  return first, unit(second - np.sum(first * second, -1, keepdims=True) * first)


@every_space
def test_slices_are_distances_to_uniform(half_space):
  w = normal(7, 4)
  values = []
  for a, b in zip(*slices(5, 4)):
    turns = np.arctan2(unit(w) @ b, unit(w) @ a) / (2 * np.pi)
    values.append(circle_distance(2 * turns % 1 if half_space else turns % 1))
  value = SlicedUniformity(5)(w, half_space=half_space, key=KEY)
  assert float(value) == pytest.approx(np.mean(values), rel=1e-4)


@every_space
def test_circles_are_drawn_from_all_alike(half_space):
  """On average over them, a set that is rotated is as good."""
  w = normal(5, 4)
  rotation, _ = np.linalg.qr(normal(4, 4, seed=1))
  keys = jax.random.split(KEY, 2000)
  sliced = SlicedUniformity(2)
  each = jax.vmap(lambda key: sliced(sets, half_space=half_space, key=key))
  sets = np.stack([w, w @ rotation, w[:, ::-1], abs(w)])
  values = np.asarray(each(keys))
  error = values.std(0) / math.sqrt(2000)
  for other in (1, 2):
    apart = abs(values[:, 0].mean() - values[:, other].mean())
    assert apart < 4 * math.hypot(error[0], error[other])
  # Neurons in one orthant are another matter.
  assert abs(values[:, 0].mean() - values[:, 3].mean()) > 6 * error[0]


@every_space
def test_even_polygons_are_the_best_and_no_set_is_better(half_space):
  n = 9
  angles = (1 if half_space else 2) * np.pi * np.arange(n) / n + 0.3
  even = np.stack([np.cos(angles), np.sin(angles)], -1)
  best, random = SlicedUniformity().scale(n, 2)
  values = SlicedUniformity()(
    np.stack([even, *normal(20, n, 2)]), half_space=half_space, key=KEY
  )
  assert float(values[0]) == pytest.approx(best, rel=1e-9)
  assert (np.asarray(values[1:]) > best).all()
  assert random == pytest.approx(n * best)


def test_slices_have_no_cancellation_in_float32():
  n = 2000
  angles = 2 * np.pi * np.arange(n) / n
  even = np.stack([np.cos(angles), np.sin(angles)], -1).astype(np.float32)
  excess = RelativeExcess(SlicedUniformity())(even, key=KEY)
  assert float(excess) == pytest.approx(0.0, abs=1e-5)


def test_equal_neurons_are_pulled_apart_by_slices_alone():
  w = jnp.asarray(normal(6, 4))
  w = w.at[1].set(w[0])
  apart = {}
  for objective in (SlicedUniformity(), Riesz(2.0)):
    energy = RelativeExcess(objective)
    gradient = jax.grad(lambda w, f=energy: f(w, key=KEY))(w)
    apart[objective] = float(jnp.linalg.norm(gradient[0] - gradient[1]))
  assert apart[SlicedUniformity()] > 1e-2 > apart[Riesz(2.0)]


# --- Scales.


@every_space
@pytest.mark.parametrize(
  "objective",
  [
    Grouped(Riesz(1.0), 2),
    Grouped(Orthonormality(), 3),
    SlicedUniformity(4),
    MeanDirection(),
  ],
  ids=str,
)
def test_random_neurons_have_an_excess_of_one(objective, half_space):
  if half_space and objective == MeanDirection():
    pytest.skip("it has no scale: all sets have 0")
  excess = RelativeExcess(objective)
  values = np.asarray(excess(normal(1000, 8, 7), half_space=half_space, key=KEY))
  error = values.std() / math.sqrt(1000)
  assert abs(values.mean() - 1) < 4 * error and error < 0.06


@every_space
def test_orthogonal_groups_attain_the_bound(half_space):
  eye = simplex(4) if not half_space else np.eye(5)
  w = np.concatenate([eye, eye], -1)
  excess = RelativeExcess(Grouped(Riesz(1.0), 2))(w, half_space=half_space)
  assert float(excess) == pytest.approx(0.0, abs=1e-7)
