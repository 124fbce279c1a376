"""Descent of the relative excess alone: what a step does to a collapsed layer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mhe_jax import RelativeExcess, Riesz, relative_excess

WEIGHT, RATE, STEPS = 0.1, 0.1, 150


def start(n, d, spread):
  """Neurons as initialized by He et al., or copies of one with some noise."""
  own = np.random.default_rng(0).normal(size=(n, d)) * np.sqrt(2 / d)
  one = np.random.default_rng(1).normal(size=(1, d)) * np.sqrt(2 / d)
  return jnp.asarray(own if spread is None else one + spread * own, jnp.float32)


@functools.partial(jax.jit, static_argnums=0)
def descend(objective, w):
  """With momentum: the neurons at the end, and the largest norm on the way."""
  tx = optax.sgd(RATE, momentum=0.9)

  def step(carry, _):
    w, state = carry
    grad = jax.grad(lambda w: WEIGHT * objective(w, half_space=True))(w)
    updates, state = tx.update(grad, state, w)
    w = w + updates
    return (w, state), jnp.max(jnp.linalg.norm(w, axis=1))

  (w, _), norms = jax.lax.scan(step, (w, tx.init(w)), length=STEPS)
  return w, jnp.max(norms)


def growth(objective, w):
  end, norm = descend(objective, w)
  before, after = (relative_excess(x, Riesz(2.0), half_space=True) for x in (w, end))
  return norm / jnp.max(jnp.linalg.norm(w, axis=1)), before, after


@pytest.mark.parametrize(("n", "d"), [(8, 9), (8, 72), (32, 128)], ids=str)
@pytest.mark.parametrize("spread", [None, 1.0, 0.1, 0.01])
def test_the_default_spreads_neurons_and_leaves_their_norms(n, d, spread):
  w = start(n, d, spread)
  norm, before, after = growth(RelativeExcess(Riesz(2.0), log=True), w)
  assert after < 0.2 * before
  # At 0.01 rad a step is larger than the distance. Without the logarithm: below.
  assert norm < (5.0 if spread == 0.01 else 1.5)


def test_without_the_logarithm_a_collapsed_layer_is_thrown_apart():
  norm, before, _ = growth(RelativeExcess(Riesz(2.0)), start(8, 72, 0.1))
  assert before > 1000
  assert norm > 100


def test_stiff_layers_stay_finite():
  """Two neurons of many weights: above the limit of stability, norms are the brake."""
  norm, _, after = growth(RelativeExcess(Riesz(2.0), log=True), start(2, 512, 0.1))
  assert norm < 4
  assert after < 0.1


def test_the_curvature_that_the_docstring_says():
  n, d, radius = 6, 24, 1.5
  w = radius * jnp.asarray(
    np.linalg.qr(np.random.default_rng(2).normal(size=(d, n)))[0].T
  )
  for s in (0.0, 2.0):
    for log in (False, True):
      objective = RelativeExcess(Riesz(s), log)
      hessian = jax.hessian(lambda w, f=objective: f(w, half_space=True))(w)
      largest = jnp.linalg.eigvalsh(hessian.reshape(n * d, n * d)).max()
      np.testing.assert_allclose(largest, 8 * d / (n * (n - 1) * radius**2), rtol=0.15)
