"""One battery over all objectives, of pair energies and of others."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from objectives import KEY, OBJECTIVES, RANDOM, SAMPLED, SEEKING, every_objective
from sets import every_space, normal
from two_layers import (
  assert_close,
)

W = normal(6, 4) * [[1], [2], [0.1], [9], [1], [1]]


def function_of(name, half_space):
  """Of neurons alone."""
  return lambda w: OBJECTIVES[name](w, half_space=half_space, key=KEY)


@every_space
@every_objective
def test_derivatives_and_invariances(name, half_space):
  """What is compiled once is compared with finite differences of one batch."""
  f, rng = function_of(name, half_space), np.random.default_rng(3)
  directions = rng.normal(size=(2, *W.shape))

  @jax.jit
  def derivatives(w):
    """Forward over reverse: the tangent of the value is of forward mode alone."""
    moved = lambda v: jax.jvp(jax.value_and_grad(f), (w,), (v,))  # noqa: E731
    return jax.vmap(moved)(directions)

  (values, gradients), (slopes, turns) = derivatives(jnp.asarray(W))
  value, gradient = float(values[0]), np.asarray(gradients[0])
  chex.assert_type([values, gradients, slopes, turns], jnp.float64)
  if half_space and name == "mean direction":  # Which is 0.
    assert not values.any() and not gradients.any()
    return
  expected = [np.vdot(gradient, v) for v in directions]
  np.testing.assert_allclose(slopes, expected, rtol=1e-9, atol=1e-12)
  # Symmetric: <v, H u> = <u, H v>.
  there, back = np.vdot(directions[1], turns[0]), np.vdot(directions[0], turns[1])
  # The gradient of a field is that of no function.
  assert name == "sampled" or there == pytest.approx(back, rel=1e-8, abs=1e-10)
  # It is along no row; its size falls as 1 / norm, so that H w = -g.
  norms = np.linalg.norm(W, axis=1, keepdims=True)
  radial = (W * gradient).sum(1) / norms[:, 0] / np.linalg.norm(gradient)
  np.testing.assert_allclose(radial, 0.0, atol=1e-13)
  along = [np.vdot(W, turn) for turn in turns]
  np.testing.assert_allclose(along, -np.array(expected), rtol=1e-8, atol=1e-10)

  # One after the other, each weight in proportion to the norm of its row.
  steps = 1e-5 * norms * np.ones_like(W)
  moves = np.diag(steps.ravel()).reshape(-1, *W.shape)
  rotation, _ = np.linalg.qr(rng.normal(size=(4, 4)))
  same = {
    "itself": W,
    "permuted": W if name in SAMPLED else W[rng.permutation(6)],
    "scaled": W * np.exp(rng.uniform(-9, 9, size=(6, 1))),
    "rotated": W if name in (*RANDOM, "grouped") else W @ rotation,
    "reversed": W * (rng.choice([-1.0, 1.0], size=(6, 1)) if half_space else 1.0),
  }
  batch = np.concatenate([W + moves, W - moves, list(same.values())])
  ahead, behind, others = np.split(np.asarray(jax.jit(f)(batch)), [W.size, 2 * W.size])
  differences = (ahead - behind) / (2 * steps.ravel())
  if name != "sampled" and name not in SEEKING:
    np.testing.assert_allclose(gradient.ravel(), differences, rtol=1e-5, atol=1e-8)
  for kind, other in zip(same, others):
    assert other == pytest.approx(value, rel=1e-9, abs=1e-9), kind


# --- Numbers.

A, B, C, D = normal(4, 4)
SETS = {
  "a zero row": [A, 0 * A, B, C],
  "all but one row zero": [0 * A, B, 0 * A, 0 * A],
  "zero": [0 * A] * 4,
  "equal rows": [A, A, B, A],
  "all rows equal": [A] * 4,
  "collinear rows": [A, 3 * A, A / 7, B],
  "antipodal rows": [A, -A, B, -3 * B],
  "orthogonal rows": [*np.eye(4)],
  "equally far rows": [*np.eye(4)[:3], -np.eye(4)[0]],
  "small and large norms": [1e-30 * A, 1e30 * B, C, 1e-30 * D],
  "small norms": [1e-30 * A, 1e-30 * B, 1e-30 * C, 1e-30 * D],
  "equal, small and large": [1e-30 * A, 1e-30 * A, 1e30 * A, -1e-30 * A],
  "close": [A, A + B / 500, B / 500 - A, C],
}
DAMAGED = {
  "NaN": [A, B, np.nan * C, D],
  "infinity": [A, B, C, [np.inf, 0, 0, 0]],
}


@every_objective
@pytest.mark.parametrize("dtype, half_space", [("float32", False), ("bfloat16", True)])
def test_degenerate_sets_are_finite_and_damaged_ones_nan(name, dtype, half_space):
  f = function_of(name, half_space)
  sets = list((SETS | DAMAGED).values())
  with np.errstate(invalid="ignore"):
    w = np.array(sets).astype(jnp.dtype(dtype))

  @jax.jit
  def values_and_gradient(w):
    values, pullback = jax.vjp(f, w)
    return values, *pullback(jnp.ones_like(values))

  values, gradient = values_and_gradient(w)
  chex.assert_type([values, gradient], [jnp.float32, jnp.dtype(dtype)])
  for kind, value, g in zip(SETS, values, gradient.astype(float)):
    assert np.isfinite(value) and np.isfinite(g).all(), kind
  assert np.isnan(values[len(SETS) :]).all()
  if name in RANDOM:  # Float64 draws other numbers.
    return
  regular = list(SETS).index("small and large norms")
  exact = jax.jit(f)(w[regular].astype(float))
  assert float(values[regular]) == pytest.approx(float(exact), rel=1e-4, abs=1e-5)


@every_objective
def test_few_neurons_and_few_dimensions(name):
  f = function_of(name, True)
  shapes = [(0, 3), (1, 3), (1, 0)]
  # On a line, and without dimensions, nothing is random.
  shapes += [] if "excess" in name else [(3, 1), (2, 0)]
  full = function_of(name, False)
  alone = np.array([[[1.0, 2.0, 3.0]], [[np.nan] * 3]])

  @jax.jit
  def evaluate(sets, alone):
    values, pullback = jax.vjp(full, alone)
    gradients = pullback(jnp.ones_like(values))[0]
    return [jax.value_and_grad(f)(w) for w in sets], (values, gradients)

  sets = [np.ones(shape, np.float32) for shape in shapes]
  results, (values, gradients) = evaluate(sets, alone)
  for shape, (value, gradient) in zip(shapes, results):
    assert np.isfinite(value) and np.isfinite(gradient).all(), shape
  ridge = (
    getattr(OBJECTIVES[name], "ridge", None) or 0.0
  )  # All that is left of log det.
  assert float(values[0]) == pytest.approx(0.0, abs=1e-12 + ridge)
  assert not gradients[0].any() and np.isnan(values[1])


# --- Arrays.


@pytest.mark.parametrize(
  "axis_type, spec, half_space",
  [
    ("Auto", jax.P("x"), True),
    ("Auto", jax.P(None, "x"), False),
    ("Explicit", jax.P("x"), False),
    ("Explicit", jax.P(None, "x"), True),
  ],
  ids=("auto rows", "auto columns", "explicit rows", "explicit columns"),
)
def test_sharded_neurons(axis_type, spec, half_space):
  names = ["KoLeo", "projected"]
  if axis_type == "Auto":  # Explicit axes are replicated, whatever the objective.
    names += ["log-determinant", "orthonormality", "uniformity"]
  w = jnp.asarray(normal(8, 8))

  @jax.jit
  def values_and_gradients(w):
    return [jax.value_and_grad(function_of(name, half_space))(w) for name in names]

  mesh = jax.make_mesh((8,), ("x",), axis_types=(getattr(AxisType, axis_type),))
  with jax.set_mesh(mesh):
    actual = values_and_gradients(jax.device_put(w, NamedSharding(mesh, spec)))
  assert_close(jax.device_get(actual), values_and_gradients(w), 1e-10)
