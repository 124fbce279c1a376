"""A network of two layers and its energy, written out pair by pair.

Differentiated by JAX in float64, it is the judge of the optax transformations.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mhe_jax import (
  LayerRule,
  Riesz,
  add_hyperspherical_energy,
  with_decoupled_hyperspherical_energy,
  with_hyperspherical_energy,
)

WEIGHT, RATE = 0.3, 0.1
OUTPUT_WEIGHT = 0.5
OPTIONS = {
  "potential": Riesz(2.0),
  "output_weight": OUTPUT_WEIGHT,
  "rules": (LayerRule("head/kernel", role="output"),),
}


def make_params(seed=0, dtypes=("float64", "float64")):
  rng = np.random.default_rng(seed)

  def layer(d, n, dtype):
    return {
      "kernel": jnp.asarray(rng.normal(size=(d, n)), dtype),
      "bias": jnp.asarray(rng.normal(size=n), dtype),
    }

  return {"body": layer(4, 6, dtypes[0]), "head": layer(6, 3, dtypes[1])}


TARGET = make_params(1)


def data_gradient(params):
  """Of half the squared distance to a target."""
  return jax.tree.map(jnp.subtract, params, TARGET)


def mean_pair_energy(kernel, half_space):
  units = kernel.T / jnp.linalg.norm(kernel.T, axis=-1, keepdims=True)
  if half_space:
    units = jnp.concatenate([units, -units])
  i, j = np.triu_indices(len(units), 1)
  return jnp.mean(1 / jnp.sum((units[i] - units[j]) ** 2, -1))


@jax.jit
def energy(params, hidden_weight=1.0, output_weight=OUTPUT_WEIGHT):
  hidden = mean_pair_energy(params["body"]["kernel"], half_space=True)
  output = mean_pair_energy(params["head"]["kernel"], half_space=False)
  return hidden_weight * hidden + output_weight * output


gradient = jax.jit(jax.grad(energy))
body_energy = functools.partial(energy, output_weight=0.0)


def in_float64(tree):
  return jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), tree)


def add(*trees):
  return jax.tree.map(lambda *x: sum(x), *trees)


def scale(factor, tree):
  return jax.tree.map(lambda x: factor * x, tree)


def assert_close(actual, expected, tolerance=1e-12):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance),
    actual,
    expected,
  )


def assert_identical(actual, expected):
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


# --- The transformations, and what SGD makes of gradients.


def schedule(step):
  return 0.5 * 0.9 ** jnp.asarray(step, jnp.float64)


alone = functools.partial(add_hyperspherical_energy, **OPTIONS)
coupled = functools.partial(with_hyperspherical_energy, **OPTIONS)
decoupled = functools.partial(with_decoupled_hyperspherical_energy, **OPTIONS)
SGD = optax.sgd(RATE)


def sgd(*terms):
  return scale(-RATE, add(*terms))
