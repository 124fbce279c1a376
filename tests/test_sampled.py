"""Estimates from samples: right on average, and exact where they can be."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sets import every_space, normal

from mhe_jax import (
  Potential,
  Riesz,
  Sampled,
  batch_energy,
  hyperspherical_energy,
  neuron_energies,
  sampled_energy,
  sampled_energy_and_error,
)

KEYS = jax.random.split(jax.random.key(11), 1500)
# Of no multiple of the samples, with twins and a cluster.
W = normal(27, 4)
W[1] = W[0] + 0.05 * W[2]
W[20:25] = W[20] + 0.3 * normal(5, 4, seed=1)
CASES = [
  *(("field", p) for p in (Riesz(0.0), Riesz(2.0), Riesz(1.0, "geodesic"))),
  ("minibatch", Riesz(2.0)),
]


@dataclasses.dataclass(frozen=True)
class Quadratic(Potential):
  """A potential that is a quadratic of the cosine: nothing is left to be sampled."""

  def value(self, squared_distance):
    return (squared_distance - 3.0) ** 2

  def slope(self, squared_distance):
    return 2.0 * (squared_distance - 3.0)


def exact(potential, half_space):
  """Value and gradient of all pairs."""
  function = jax.value_and_grad(hyperspherical_energy)
  return function(jnp.asarray(W), potential, half_space=half_space)


@pytest.mark.parametrize(("method", "potential"), CASES, ids=str)
@every_space
def test_values_and_gradients_are_right_on_average(method, potential, half_space):
  @jax.jit
  def estimates(keys):
    def estimate(w, key):
      return sampled_energy_and_error(
        key, w, potential, num_samples=6, half_space=half_space, method=method
      )

    function = jax.value_and_grad(estimate, has_aux=True)
    return jax.lax.map(lambda key: function(jnp.asarray(W), key), keys, batch_size=250)

  (values, errors), gradients = jax.tree.map(np.asarray, estimates(KEYS))
  value, gradient = exact(potential, half_space)
  count = math.sqrt(len(KEYS))
  assert abs(values.mean() - value) < 4.0 * values.std() / count
  deviations = (gradients.mean(0) - np.asarray(gradient)) / (gradients.std(0) / count)
  assert np.abs(deviations).max() < 4.5  # Of 108.
  # The variances that the samples tell are about the true one, or more: see there.
  ratio = np.sqrt((errors**2).mean()) / values.std()
  assert 0.7 < ratio < (1.5 if method == "minibatch" else 3.0)


@every_space
@pytest.mark.parametrize("num_samples", [1, 7])
def test_of_a_quadratic_the_field_is_exact(half_space, num_samples):
  value, gradient = exact(Quadratic(), half_space)

  @jax.jit
  @jax.value_and_grad
  def estimate(w):
    return sampled_energy(
      KEYS[0], w, Quadratic(), num_samples=num_samples, half_space=half_space
    )

  found, pull = estimate(jnp.asarray(W))
  np.testing.assert_allclose(found, value, rtol=1e-12)
  np.testing.assert_allclose(pull, gradient, rtol=1e-9, atol=1e-12)


def test_few_neurons_are_not_sampled():
  for num_samples in (27, 100):
    found = sampled_energy_and_error(KEYS[0], W, num_samples=num_samples)
    assert found[0] == pytest.approx(float(hyperspherical_energy(W)), rel=1e-12)
    assert found[1] == 0.0
  all_pairs, estimated = (Sampled(Riesz(1.0), 8, exact=n) for n in (27, 26))
  assert float(all_pairs(W, key=KEYS[0])) == float(all_pairs(W, key=KEYS[1]))
  assert float(estimated(W, key=KEYS[0])) != float(estimated(W, key=KEYS[1]))
  assert Sampled(Riesz(1.0), 8) == Sampled(Riesz(1.0), 8, exact=32)
  assert Sampled(Riesz(1.0), 8).scale(50, 5) == (
    pytest.approx(Sampled(Riesz(1.0), 9).scale(50, 5))
  )


@pytest.mark.parametrize("method", ("field", "minibatch"))
def test_the_error_is_that_of_the_same_sample(method):
  """Computed once: no product more than for the energy alone."""

  def num_products(estimate, of):
    options = dict(num_samples=6, method=method)
    function = jax.grad(lambda w: of(estimate(KEYS[0], w, Riesz(2.0), **options)))
    return str(jax.make_jaxpr(function)(jnp.asarray(W))).count("dot_general")

  with_error = num_products(sampled_energy_and_error, lambda x: x[0] + x[1])
  assert with_error == num_products(sampled_energy, lambda x: x) > 0
  # A constant: its derivative is none.
  slope = jax.grad(
    lambda w: sampled_energy_and_error(KEYS[0], w, num_samples=6, method=method)[1]
  )(jnp.asarray(W))
  assert not slope.any()


def test_twins_and_clusters_do_not_drown_in_noise():
  """Where the pull of the paper's mini-batch is many times the true one."""
  rng = np.random.default_rng(0)
  w = rng.normal(size=(600, 16))
  w[:40] = 3.0 * w[0] + 0.2 * w[:40]  # A cluster.
  w[40] = w[41] + 1e-3 * w[42]  # Twins.
  expected = np.asarray(jax.grad(hyperspherical_energy)(jnp.asarray(w), Riesz(2.0)))

  def error(method):
    pull = jax.jit(
      jax.grad(
        lambda w, key: sampled_energy(key, w, Riesz(2.0), num_samples=64, method=method)
      )
    )
    pulls = [pull(w, key) - expected for key in KEYS[:8]]
    return np.linalg.norm(pulls) / math.sqrt(8) / np.linalg.norm(expected)

  assert error("field") < 0.1 < 3.0 < error("minibatch")


def test_sets_of_a_batch_draw_the_same_numbers():
  batch = np.stack([W, W[::-1]])
  objective = Sampled(Riesz(1.0), 8)
  values = objective(batch, key=KEYS[0])
  for value, w in zip(values, batch):
    assert float(value) == pytest.approx(float(objective(w, key=KEYS[0])), rel=1e-12)


@every_space
def test_rows_are_the_classes_of_a_batch_with_all_others(half_space):
  def of_rows(w, rows):
    return batch_energy(w, rows, Riesz(2.0), half_space=half_space)

  def by_neuron(w, rows):
    return jnp.mean(neuron_energies(w, Riesz(2.0), half_space=half_space)[rows])

  found, wanted = (jax.jit(jax.value_and_grad(f)) for f in (of_rows, by_neuron))
  for rows in ([3, 0, 3, 3, 17, 26], [5], [5, 5]):
    value, gradient = found(jnp.asarray(W), jnp.array(rows))
    expected, slope = wanted(jnp.asarray(W), jnp.array(rows))
    np.testing.assert_allclose(value, expected, rtol=1e-10)
    np.testing.assert_allclose(gradient, slope, rtol=1e-8, atol=1e-10)


def test_rows_are_those_of_the_paper_formula():
  u = W / np.linalg.norm(W, axis=1, keepdims=True)
  rows = [3, 0, 3, 17]
  total = sum(
    1.0 / np.linalg.norm(u[y] - u[j]) for y in rows for j in range(27) if j != y
  )
  found = batch_energy(W, np.array(rows), Riesz(1.0))
  assert float(found) == pytest.approx(total / (4 * 26), rel=1e-12)


def test_rows_of_small_integers_are_told_apart():
  w = normal(300, 3)
  rows = [0, 3, 3, 127]
  expected = float(neuron_energies(w, Riesz(2.0))[np.array(rows)].mean())
  for dtype in (np.int8, np.uint8, np.uint32, np.int64):
    found = batch_energy(w, np.array(rows, dtype), Riesz(2.0))
    assert float(found) == pytest.approx(expected, rel=1e-10), dtype


@pytest.mark.parametrize("row", [-1, 27])
def test_rows_that_there_are_not_make_nan(row):
  assert math.isnan(batch_energy(W, np.array([0, row])))


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_small_dtypes_are_computed_in_float32(dtype):
  """Of a quadratic, all draws have the value that float64 has."""
  w = jnp.asarray(W, dtype)
  value, gradient = jax.value_and_grad(
    lambda w: sampled_energy(KEYS[0], w, Quadratic(), num_samples=6)
  )(w)
  assert value.dtype == jnp.float32 and gradient.dtype == dtype
  wide = hyperspherical_energy(np.asarray(w, float), Quadratic())
  assert float(value) == pytest.approx(float(wide), rel=1e-5)


@pytest.mark.parametrize(
  ("call", "error", "message"),
  [
    (
      lambda: sampled_energy(KEYS[0], W, num_samples=0),
      ValueError,
      r"num_samples must be a whole number >= 1, got 0",
    ),
    (
      lambda: Sampled(Riesz(1.0), 1, "minibatch"),
      ValueError,
      r"num_samples must be a whole number >= 2, got 1",
    ),
    (lambda: Sampled(Riesz(1.0), 8, exact=7), ValueError, r"exact must be .* >= 8"),
    (lambda: Sampled(Riesz(1.0), 8, "rows"), ValueError, "method must be one of field"),
    (lambda: Sampled(2.0, 8), TypeError, "potential must be"),
    (
      lambda: sampled_energy(None, W, num_samples=4),
      ValueError,
      "key must be a PRNG key",
    ),
    (
      lambda: batch_energy(W, np.array([1.0])),
      TypeError,
      "rows must be integer, got dtype float64",
    ),
    (
      lambda: batch_energy(W, np.array([], int)),
      ValueError,
      r"rows must have shape \[m\] with m > 0, got \(0,\)",
    ),
  ],
)
def test_bad_input_is_named(call, error, message):
  with pytest.raises(error, match=message):
    call()
