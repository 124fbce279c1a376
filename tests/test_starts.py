"""Where layers start near zero, what would take them over is told once."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mhe_jax import (
  add_hyperspherical_energy,
  with_decoupled_hyperspherical_energy,
  with_hyperspherical_energy,
)


def of_blocks(last, name):
  """Parameters of a network whose last layer is so many times smaller."""
  keys = jax.random.split(jax.random.key(0), 3)
  body = [jax.random.normal(key, (8, 6)) for key in keys]
  return {
    f"{name}{i}": {"kernel": kernel * (last if i == 2 else 1.0)}
    for i, kernel in enumerate(body)
  }


@pytest.mark.parametrize("last", [0.0, 1e-3])
@pytest.mark.parametrize("form", ["coupled", "decoupled", "chain"])
def test_layers_that_start_near_zero_are_told_once(form, last):
  """`init` warns, names the layer and what has a bound; not again of the same."""
  params = of_blocks(last, f"{form}{last}_")
  tx = {
    "coupled": with_hyperspherical_energy(optax.adam(1e-3), 0.1),
    "decoupled": with_decoupled_hyperspherical_energy(optax.identity(), 1e-3, 0.1),
    "chain": optax.chain(add_hyperspherical_energy(0.1), optax.sgd(0.1)),
  }[form]
  with pytest.warns(UserWarning, match=rf"{form}{last}_2/kernel.*spread"):
    state = tx.init(params)
  tx.init(params)  # A warning is an error here.
  jax.tree.map(np.testing.assert_array_equal, state, jax.jit(tx.init)(params))


def test_nothing_is_said_where_starts_are_alike_or_unknown():
  """Usual starts, all zeros, traced and abstract ones, and what is only monitored."""
  tx = with_hyperspherical_energy(optax.adam(1e-3), 0.1)
  tx.init(of_blocks(0.1, "alike"))
  tx.init(jax.tree.map(jnp.zeros_like, of_blocks(1.0, "zeros")))
  zero = of_blocks(0.0, "unknown")
  jax.jit(tx.init)(zero)
  jax.eval_shape(tx.init, zero)
  jax.vmap(tx.init)(jax.tree.map(lambda x: jnp.stack([x, x]), zero))
  with_hyperspherical_energy(optax.adam(1e-3), 0.0).init(zero)
  # Of closed-over parameters, something is known while others are traced.
  with pytest.warns(UserWarning, match="unknown2/kernel"):
    jax.jit(lambda x: (x, tx.init(zero)))(1.0)
