"""Each objective against a closed form, or a loop over neurons in float64."""

import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objectives import KEY
from sets import (
  cross_polytope,
  every_space,
  icosahedron,
  normal,
  one_of_each_line,
  simplex,
  snub_cube,
  units_of,
)

from mhe_jax import (
  Gaussian,
  KoLeo,
  LayerRule,
  LogDet,
  LogMean,
  Orthonormality,
  Projected,
  RelativeExcess,
  Riesz,
  Separation,
  network_energy,
  relative_excess,
)

# --- Loops. The half-space forms are the full ones of neurons and antipodes.


def distances(u):
  return [np.linalg.norm(x - y) for x, y in itertools.combinations(u, 2)]


def nearest_angles(u):
  return np.array(
    [
      min(
        2 * math.atan2(np.linalg.norm(x - y), np.linalg.norm(x + y))
        for j, y in enumerate(u)
        if j != i
      )
      for i, x in enumerate(u)
    ]
  )


def log_mean_exp(exponents):
  """Relative to the largest, so that nothing underflows."""
  largest = max(exponents)
  total = math.fsum(math.exp(x - largest) for x in exponents)
  return largest + math.log(total / len(exponents))


def log_det(u, t, ridge):
  kernel = np.exp([[-t * np.sum((x - y) ** 2) for y in u] for x in u])
  sign, value = np.linalg.slogdet(kernel + ridge * np.eye(len(u)))
  assert sign == 1
  return -value / len(u)


LOOPS = {
  Separation(): lambda u: -np.mean(nearest_angles(u)),
  Separation("min"): lambda u: -np.min(nearest_angles(u)),
  KoLeo(): lambda u: -np.mean(np.log(2 * np.sin(nearest_angles(u) / 2))),
  LogDet(): lambda u: log_det(u, 1.0, 8 * 6 * 2.0**-52),
  LogDet(0.3, ridge=0.02): lambda u: log_det(u, 0.3, 0.02),
  LogDet(ridge=1e-6): lambda u: log_det(u, 1.0, 1e-6),
  LogMean(Gaussian(2.0)): lambda u: log_mean_exp([-2 * d**2 for d in distances(u)]),
  LogMean(Gaussian(200.0)): lambda u: log_mean_exp([-200 * d**2 for d in distances(u)]),
  LogMean(Riesz(1.0)): lambda u: log_mean_exp([-math.log(d) for d in distances(u)]),
  LogMean(Riesz(90.0)): lambda u: log_mean_exp(
    [-90 * math.log(d) for d in distances(u)]
  ),
  Orthonormality(): lambda u: np.mean(
    [np.dot(x, y) ** 2 for x, y in itertools.combinations(u, 2)]
  ),
}


@every_space
@pytest.mark.parametrize("objective", LOOPS, ids=str)
def test_agrees_with_a_loop(objective, half_space):
  both = half_space and objective != Orthonormality()  # Which has no antipodes.
  w = normal(6, 4)
  expected = LOOPS[objective](units_of(w, both))
  value = objective(w, half_space=half_space)
  assert float(value) == pytest.approx(expected, rel=1e-10)
  if objective == LogDet():  # Its ridge, in float32, is another.
    expected = log_det(units_of(w, both), 1.0, 8 * 6 * 2.0**-23)
  single = objective(w.astype(np.float32), half_space=half_space)
  assert float(single) == pytest.approx(expected, rel=2e-5, abs=1e-6)


# --- RelativeExcess.

CONVEX = [Riesz(0.0), Riesz(2.0), Gaussian(2.0)]


@pytest.mark.parametrize("potential", [*CONVEX, Riesz(1.0, "geodesic")], ids=str)
def test_the_best_have_no_excess(potential):
  excess = RelativeExcess(potential)
  if potential in CONVEX:  # Of angles, a simplex is not the best.
    assert float(excess(simplex(5))) == pytest.approx(0.0, abs=1e-12)
  assert float(excess(np.eye(5, 6), half_space=True)) == pytest.approx(0.0, abs=1e-7)


def of_random_sets(objective, n, d, half_space, num_sets, **arguments):
  w = normal(num_sets, n, d, seed=n * d)
  return np.asarray(objective(w, half_space=half_space, **arguments))


@every_space
@pytest.mark.parametrize(
  "objective",
  [
    Riesz(2.0),
    Riesz(1.0, "geodesic"),
    Separation(),
    KoLeo(),
    Orthonormality(),
  ],
  ids=str,
)
def test_random_neurons_have_an_excess_of_one(objective, half_space):
  values = of_random_sets(RelativeExcess(objective), 8, 7, half_space, 1000)
  assert abs(values.mean() - 1) < 4 * values.std() / math.sqrt(1000)
  assert values.std() / math.sqrt(1000) < 0.03


@every_space
@pytest.mark.parametrize(
  "objective, tolerance",
  [(Separation("min"), 0.05), (LogMean(Gaussian(3.0)), 0.1), (LogMean(Riesz(1)), 0.1)],
  ids=str,
)
def test_scales_that_are_nearly_the_mean_of_random_neurons(
  objective, tolerance, half_space
):
  """Of a minimum and of logarithms there is no closed form."""
  values = of_random_sets(objective, 30, 20, half_space, 500)
  best, random = objective.scale(30, 20, half_space=half_space)
  assert abs(values.mean() - random) < tolerance * (random - best)


@every_space
@pytest.mark.parametrize("potential", [Riesz(0.0), Gaussian(2.0)], ids=str)
def test_relative_excess_is_the_function(potential, half_space):
  w = normal(3, 6, 5)
  value = RelativeExcess(potential)(w, half_space=half_space)
  expected = relative_excess(w, potential, half_space=half_space)
  np.testing.assert_allclose(value, expected, rtol=1e-13)


def test_a_scale_that_underflows_is_none():
  objective = LogMean(Gaussian(1000.0))
  assert objective.scale(6, 4)[0] == -math.inf
  with pytest.raises(NotImplementedError, match=r"no scale .*: the best have -inf"):
    RelativeExcess(objective)(normal(6, 4))


def test_a_layer_without_a_scale_is_named_with_a_rule_that_helps():
  kernels = {"conv(1)": normal(3, 5), "dense": normal(8, 5)}
  params = {name: {"kernel": jnp.asarray(w)} for name, w in kernels.items()}
  excess = RelativeExcess(Riesz(2.0))  # Infinite for random directions in 3 dimensions.
  with pytest.raises(NotImplementedError, match=r"'conv\(1\)/kernel'.*d = 3") as error:
    network_energy(params, excess)
  (rule,) = re.findall(r"LayerRule\(.*\)", str(error.value))
  rules = [eval(rule, {"LayerRule": LayerRule})]
  value = network_energy(params, excess, rules=rules)
  expected = relative_excess(kernels["dense"].T, Riesz(2.0), half_space=True)
  assert float(value) == pytest.approx(float(expected), rel=1e-12)


# --- Projected.


def draws(key, num, d, dim):
  """As documented: of one half of the key."""
  own, rest = jax.random.split(key)
  return np.asarray(jax.random.normal(own, (num, d, dim), float)), rest


@pytest.mark.parametrize("half_space, dim", [(False, 3), (True, 6)])
def test_projected_is_the_mean_over_the_documented_draws(half_space, dim):
  w, projected = normal(6, 4), Projected(Riesz(2.0), dim, num_projections=5)
  energies = [
    np.mean(np.square(distances(units_of(units_of(w) @ p, half_space))) ** -1.0)
    for p in draws(KEY, 5, 4, dim)[0]
  ]
  keys = jnp.stack([KEY, jax.random.key(8)])
  values = [projected(w, half_space=half_space, key=key) for key in keys]
  assert float(values[0]) == pytest.approx(np.mean(energies), rel=1e-12)
  assert abs(float(values[0] - values[1])) > 1e-3
  each = jax.vmap(lambda key: projected(w, half_space=half_space, key=key))(keys)
  np.testing.assert_allclose(each, values, rtol=1e-12)


def test_projected_hands_the_rest_of_its_key_on():
  w, twice = normal(6, 4), Projected(Projected(Riesz(2.0), 2), 3)
  (first,), rest = draws(KEY, 1, 4, 3)
  (second,), _ = draws(rest, 1, 3, 2)
  u = units_of(units_of(units_of(w) @ first) @ second)
  expected = np.mean(np.square(distances(u)) ** -1.0)
  assert float(twice(w, key=KEY)) == pytest.approx(expected, rel=1e-11)


def test_one_projection_has_the_expectation_of_many():
  """Value and gradient, up to the spread of means over 1000 keys."""
  w, keys = normal(4, 6), jax.random.split(KEY, 1000)

  def sample(num):
    projected = Projected(Gaussian(1.0), 4, num_projections=num)
    one = jax.value_and_grad(lambda w, key: projected(w, key=key))
    return jax.jit(jax.vmap(one, (None, 0)))(jnp.asarray(w), keys)

  for one, many in zip(sample(1), sample(20)):
    error = np.hypot(np.std(one, 0), np.std(many, 0)) / math.sqrt(1000)
    assert (np.abs(one.mean(0) - many.mean(0)) < 4 * error).all()
    assert (np.std(many, 0) < 0.4 * np.std(one, 0)).all()  # 20**-0.5 = 0.22.


def test_excess_in_the_projected_space():
  """Relative units are those of the space that is projected to."""
  projected = Projected(RelativeExcess(Riesz(1.0)), 5, num_projections=10)
  values = of_random_sets(projected, 8, 500, True, 100, key=KEY)
  assert abs(values.mean() - 1) < 0.1
  with pytest.raises(NotImplementedError, match="no scale is known for Projected"):
    RelativeExcess(Projected(Riesz(1.0), 5))(normal(8, 20), key=KEY)


# --- Separation, and scales.


def tetrahedron():
  corners = itertools.product((-1.0, 1.0), repeat=3)
  return np.array([x for x in corners if math.prod(x) > 0])


DEGREES = {  # Of the best packings on the sphere (Tammes).
  "4": (
    np.array([x for x in itertools.product((-1.0, 1.0), repeat=3) if np.prod(x) > 0]),
    109.4712206,
  ),
  "6": (cross_polytope(3), 90.0),
  "12": (icosahedron(), 63.4349488),
  "24": (snub_cube(), 43.6907671),
  "simplex": (simplex(6), math.degrees(math.acos(-1 / 6))),
  "cross-polytope": (cross_polytope(5), 90.0),
}


@pytest.mark.parametrize("name", DEGREES)
def test_best_packings_have_their_angle_and_no_move_betters_it(name):
  points, degrees = DEGREES[name]
  moves = 0.02 * normal(10, *points.shape)
  sets = np.concatenate([points[None], points + moves])
  for objective in (Separation(), Separation("min")):
    values = np.asarray(objective(sets))
    assert np.degrees(-values[0]) == pytest.approx(degrees, abs=1e-7)
    assert (values[1:] > values[0]).all()


def test_lines_of_the_icosahedron():
  for objective in (Separation(), Separation("min")):
    angle = -objective(one_of_each_line(icosahedron()), half_space=True)
    assert np.degrees(angle) == pytest.approx(63.4349488, abs=1e-7)


@every_space
def test_uniformity_of_a_narrow_gaussian_is_the_smallest_distance(half_space):
  w = normal(8, 3)
  smallest = min(distances(units_of(w, half_space))) ** 2
  for t in (1e2, 1e4, 1e6):
    value = LogMean(Gaussian(t))(w, half_space=half_space) / t
    # Of at most 120 pairs, one of which is the closest.
    assert -smallest - math.log(120) / t <= value <= -smallest + 1e-9
  coldest = LogMean(Gaussian(1e30))(w.astype(np.float32), half_space=half_space)
  assert float(coldest) / 1e30 == pytest.approx(-smallest, rel=1e-5)


WITH_A_SCALE = [
  Separation(),
  Separation("min"),
  KoLeo(),
  LogMean(Riesz(3.0)),
  LogMean(Gaussian(2.0)),
  Orthonormality(),
]


@every_space
@pytest.mark.parametrize("objective", WITH_A_SCALE[:4], ids=str)
def test_no_descent_beats_the_bound(objective, half_space):
  def step(w, rate):
    gradient = jax.grad(lambda w: objective(w, half_space=half_space).sum())(w)
    w = w - rate * gradient
    w = w / jnp.linalg.norm(w, axis=-1, keepdims=True)
    return w, objective(w, half_space=half_space)

  n, d = 7, 3
  start = units_of(normal(8 * n, d)).reshape(8, n, d)
  rates = 0.3 * 0.97 ** np.arange(150)
  _, values = jax.jit(lambda w: jax.lax.scan(step, w, rates))(start)
  best, random = objective.scale(n, d, half_space=half_space)
  assert best - 1e-9 <= float(jnp.min(values)) < best + 0.6 * (random - best)


@every_space
@pytest.mark.parametrize("objective", WITH_A_SCALE, ids=str)
def test_simplices_and_orthogonal_lines_attain_the_bound(objective, half_space):
  orthogonal = half_space or objective == Orthonormality()
  points = np.eye(4, 5) if orthogonal else simplex(4)
  best, random = objective.scale(*points.shape, half_space=half_space)
  value = float(objective(points, half_space=half_space))
  assert value == pytest.approx(best, abs=1e-9)
  assert best < random


# --- The others.


@every_space
def test_koleo_of_coincident_neurons_is_softened(half_space):
  """They exert no force; to others, they are neighbors as any."""
  w = normal(3, 4, dtype=np.float32)
  w[1] = -w[0] if half_space else 2 * w[0]
  value, gradient = jax.value_and_grad(KoLeo())(jnp.asarray(w), half_space=half_space)
  theta = nearest_angles(units_of(w, half_space))
  squared = np.maximum(2 - 2 * np.cos(theta), 8 * 2.0**-23)
  assert float(value) == pytest.approx(-0.5 * np.mean(np.log(squared)), rel=1e-4)
  moved = np.asarray(gradient).any(1)
  assert moved[2] and moved[:2].sum() == 1  # By the third, and the one next to it.
  value, gradient = jax.value_and_grad(KoLeo())(jnp.asarray(w[:2]))
  if not half_space:
    assert np.isfinite(value) and not gradient.any()


@every_space
def test_the_log_determinant_of_equal_neurons(half_space):
  """500 of them in float32, whose kernel has rank one: finite, by the ridge."""
  w = jnp.ones((500, 3), jnp.float32)
  # A smaller ridge, which would not, is none.
  objective = LogDet() if half_space else LogDet(ridge=1e-30)
  value, gradient = jax.value_and_grad(objective)(w, half_space=half_space)
  expected = log_det(units_of(w[:20], half_space), 1.0, 8 * 500 * 2.0**-23)
  assert np.isfinite(gradient).all()
  assert 0.9 * expected < float(value) < 1.1 * expected


def test_a_small_ridge_holds_for_sets_that_can_be_factored_with_it():
  """In float32: of neurons, that of the authors; of their copies, the default."""
  w = normal(40, 4)
  sets = np.stack([w, np.repeat(w[:1], 40, axis=0)])
  values = LogDet(ridge=1e-6)(sets.astype(np.float32))
  asked, safe = (log_det(units_of(w), 1.0, x) for x in (1e-6, 8 * 40 * 2.0**-23))
  assert safe < 0.9995 * asked
  assert float(values[0]) == pytest.approx(asked, rel=2e-5)
  copies = log_det(units_of(sets[1]), 1.0, 8 * 40 * 2.0**-23)
  assert np.isfinite(values[1]) and float(values[1]) >= 0.9 * copies


@every_space
def test_the_log_determinant_is_least_for_neurons_far_apart(half_space):
  """Hadamard's bound, of the blocks that cannot move apart; steep kernels attain it."""
  for t, ridge in ((0.5, 0.1), (2.0, 1e-3), (20.0, 1e-3)):
    block = (1 + ridge) ** 2 - math.exp(-8 * t) if half_space else (1 + ridge) ** 2
    bound = -0.5 * math.log(block)
    objective = LogDet(t, ridge)
    values = objective(normal(50, 4, 6), half_space=half_space)
    assert (np.asarray(values) > bound - 1e-12).all()
    best = float(objective(np.eye(4, 6), half_space=half_space))
    assert best > bound - 1e-12
  assert best == pytest.approx(bound, abs=1e-9)


def test_tight_frames_attain_the_welch_bound():
  frames = [cross_polytope(4), icosahedron(), np.tile(np.eye(3), (4, 1))]
  for frame in frames:
    n, d = frame.shape
    welch = (n - d) / (d * (n - 1))
    assert float(Orthonormality()(frame)) == pytest.approx(welch, rel=1e-12)
    assert Orthonormality().scale(n, d)[0] == pytest.approx(welch, rel=1e-12)
  assert float(Orthonormality()(3 * np.eye(4, 6))) == 0.0


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
@pytest.mark.parametrize("t", (2.0, 50.0, 200.0))
def test_uniformity_of_simplices_and_orthogonal_neurons(t, dtype):
  """Far below the range of floats, and of what orthogonal pairs have."""
  sets = jnp.asarray(np.stack([simplex(4), np.eye(5)]), dtype)
  values, pullback = jax.vjp(LogMean(Gaussian(t)), sets)
  rel = 4e-6 if dtype == np.float32 else 1e-12
  np.testing.assert_allclose(values, [-2.5 * t, -2.0 * t], rtol=rel)
  assert np.isfinite(pullback(jnp.ones_like(values))[0]).all()


def test_a_logarithm_needs_positive_energies():
  with pytest.raises(ValueError, match=r"positive.*Riesz\(s=0\.0"):
    LogMean(Riesz(0.0))


# --- Rows that are zero.


@every_space
@pytest.mark.parametrize(
  "objective",
  [Separation(), Separation("min"), KoLeo(), LogDet(), Orthonormality()],
  ids=str,
)
def test_a_zero_row_is_orthogonal_to_all(objective, half_space):
  w = np.pad(normal(4, 3), ((0, 0), (0, 1)))
  w[1] = 0.0
  apart = w.copy()
  apart[1, 3] = 1.0

  def value_and_grad(w):
    return jax.value_and_grad(objective)(jnp.asarray(w), half_space=half_space)

  (value, gradient), (expected, other) = value_and_grad(w), value_and_grad(apart)
  assert float(value) == pytest.approx(float(expected), rel=1e-12)
  rest = [0, 2, 3]
  np.testing.assert_allclose(
    gradient[rest, :3], other[rest, :3], rtol=1e-10, atol=1e-14
  )
  assert not gradient[1].any()


@every_space
@pytest.mark.parametrize("objective", [LogMean(Gaussian(2.0)), LogMean(Riesz(1.0))])
def test_a_zero_row_in_a_logarithm(objective, half_space):
  """Orthogonal to its own antipode, too, as in the mean energy."""
  w = normal(4, 3)
  w[1] = 0.0
  u = units_of(w, half_space)
  r = [2 - 2 * np.dot(x, y) for x, y in itertools.combinations(u, 2)]
  if objective == LogMean(Gaussian(2.0)):
    expected = log_mean_exp([-2 * x for x in r])
  else:
    expected = log_mean_exp([-0.5 * math.log(x) for x in r])
  value, gradient = jax.value_and_grad(objective)(jnp.asarray(w), half_space=half_space)
  assert float(value) == pytest.approx(expected, rel=1e-11)
  assert not gradient[1].any()
