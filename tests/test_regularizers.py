"""What regularizers add to the gradients."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import models
from experiments.classification.arms import BASELINE
from experiments.errors import InputError
from experiments.regularizers import Regularizer, authors_energy
from mhe_jax import (
  Orthonormality,
  RelativeExcess,
  Riesz,
  hyperspherical_energy,
  network_energy,
  spread,
)


def params_of_a_network():
  keys = jax.random.split(jax.random.key(1), 2)
  return {
    "features": {"kernel": jax.random.normal(keys[0], (7, 5))},
    "score": {"kernel": jax.random.normal(keys[1], (5, 4)), "bias": jnp.zeros(4)},
  }


def added(regularizer):
  """What it adds to zero gradients."""
  params = params_of_a_network()
  tx = regularizer.around(optax.identity())
  zeros = jax.tree.map(jnp.zeros_like, params)
  updates, _ = tx.update(zeros, tx.init(params), params)
  return updates


def test_none_adds_nothing():
  assert all(not x.any() for x in jax.tree.leaves(added(BASELINE)))


@pytest.mark.parametrize("kind", ["mhe", "authors", "orthonormal"])
@pytest.mark.parametrize("layers", ["hidden", "output", "both"])
def test_only_the_chosen_layers_are_regularized(kind, layers):
  updates = added(Regularizer(kind, layers=layers))
  assert bool(updates["features"]["kernel"].any()) == (layers != "output")
  assert bool(updates["score"]["kernel"].any()) == (layers != "hidden")


def test_mhe_is_the_gradient_of_the_network_energy():
  regularizer = Regularizer("mhe", 1.0, "geodesic", weight=3.0)

  def energy(params):
    return 3.0 * network_energy(
      params, Riesz(1.0, "geodesic"), rules=models.OUTPUT_RULES
    )

  expected = jax.grad(energy)(params_of_a_network())
  for x, y in zip(jax.tree.leaves(added(regularizer)), jax.tree.leaves(expected)):
    np.testing.assert_allclose(x, y, rtol=1e-12)


@pytest.mark.parametrize("kind", ["mhe", "orthonormal"])
def test_relative_units_are_those_of_the_package(kind):
  regularizer = Regularizer(kind, relative=True, weight=3.0)
  objective = Orthonormality() if kind == "orthonormal" else Riesz(2.0)

  def energy(params):
    relative = RelativeExcess(objective, log=True)
    return 3.0 * network_energy(params, relative, rules=models.OUTPUT_RULES)

  expected = jax.grad(energy)(params_of_a_network())
  for x, y in zip(jax.tree.leaves(added(regularizer)), jax.tree.leaves(expected)):
    np.testing.assert_allclose(x, y, rtol=1e-12)


@pytest.mark.parametrize("half_space", [False, True])
def test_the_authors_energy_is_the_papers_up_to_its_constants(half_space, key):
  w = 10.0 * jax.random.normal(key, (6, 9))
  for s, factor in ((0.0, 2.0), (1.0, 1.0), (2.0, 1.0)):  # -log d^2 is twice -log d.
    ours = hyperspherical_energy(w, Riesz(s), half_space=half_space)
    theirs = authors_energy(w, s, "chordal", half_space=half_space)
    np.testing.assert_allclose(theirs, factor * ours, rtol=1e-5)
  for s in (1.0, 2.0):  # Angles in units of pi.
    ours = hyperspherical_energy(w, Riesz(s, "geodesic"), half_space=half_space)
    theirs = authors_energy(w, s, "geodesic", half_space=half_space)
    np.testing.assert_allclose(theirs, np.pi**s * ours, rtol=2e-3)


@pytest.mark.parametrize("half_space", [False, True])
@pytest.mark.parametrize("metric", ["chordal", "geodesic"])
@pytest.mark.parametrize("s", [0.0, 1.0, 2.0])
def test_the_authors_constants_are_there(s, metric, half_space, key):
  """Pair by pair in NumPy, on rows so small and close that each epsilon counts."""
  w = np.asarray(0.01 * (1.0 + 0.01 * jax.random.normal(key, (5, 7))))
  rows = np.concatenate([w, -w]) if half_space else w
  total, count = 0.0, 0
  for i, x in enumerate(rows):
    for y in rows[:i]:
      cosine = x @ y / math.sqrt((x @ x + 1e-4) * (y @ y + 1e-4))
      if metric == "geodesic":
        z = math.acos(cosine) / math.pi + 1e-4
        total += -math.log(z) if s == 0 else z**-s
      else:
        squared = 2.0 - 2.0 * cosine
        total += -math.log(squared) if s == 0 else squared ** (-s / 2)
      count += 1
  energy = authors_energy(jnp.asarray(w), s, metric, half_space=half_space)
  np.testing.assert_allclose(energy, total / count, rtol=1e-9)


@pytest.mark.parametrize(
  ("s", "metric", "hidden", "output"),
  [
    (0.0, "chordal", 1.0, 10.0),
    (1.0, "chordal", 1.0, 10.0),
    (2.0, "chordal", 1.0, 10.0),
    (0.0, "geodesic", 1.0, 10.0),
    (1.0, "geodesic", 0.1, 1.0),
    (2.0, "geodesic", 0.1, 1.0),
  ],
)
def test_the_authors_multipliers(s, metric, hidden, output):
  params = params_of_a_network()
  updates = added(Regularizer("authors", s, metric))
  for name, factor, half_space in (
    ("features", hidden, True), ("score", output, False),
  ):  # fmt: skip
    gradient = jax.grad(
      lambda w, half_space=half_space: authors_energy(
        w.T, s, metric, half_space=half_space
      )
    )(params[name]["kernel"])
    np.testing.assert_allclose(updates[name]["kernel"], factor * gradient, rtol=1e-10)


@pytest.mark.parametrize("kind", ["mhe", "authors", "orthonormal"])
def test_a_single_neuron_is_left_alone(kind):
  params = params_of_a_network() | {"features": {"kernel": jnp.ones((4, 1))}}
  tx = Regularizer(kind).around(optax.identity())
  zeros = jax.tree.map(jnp.zeros_like, params)
  updates, _ = tx.update(zeros, tx.init(params), params)
  assert not updates["features"]["kernel"].any()
  assert bool(updates["score"]["kernel"].any())


@pytest.mark.parametrize("kind", ["mhe", "orthonormal"])
def test_around_an_optimizer(kind):
  """By half of what the optimizer turns, as `spread` alone."""
  params = params_of_a_network()
  grads = jax.tree.map(jnp.ones_like, params)
  objective = Riesz(2.0) if kind == "mhe" else Orthonormality()
  tx = Regularizer(kind, weight=0.5, form="spread").around(optax.sgd(0.1))
  alone = spread(optax.sgd(0.1), 0.5, objective, rules=models.OUTPUT_RULES)
  found, expected = (t.update(grads, t.init(params), params)[0] for t in (tx, alone))
  jax.tree.map(np.testing.assert_array_equal, found, expected)
  assert not np.array_equal(found["score"]["kernel"], -0.1 * np.ones((5, 4)))


def test_around_an_optimizer_energies_are_relative():
  with pytest.raises(InputError, match="'spread' is relative"):
    Regularizer("mhe", relative=True, form="spread")
  with pytest.raises(InputError, match="'authors' has no form"):
    Regularizer("authors", form="spread")
