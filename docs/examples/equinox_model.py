"""Equinox: the arrays of a module are its parameters."""

import equinox as eqx
import jax
import optax

from mhe_jax import describe, layer_rules, spread

keys = jax.random.split(jax.random.key(0), 4)
centers = jax.random.normal(keys[0], (10, 32))
labels = jax.random.randint(keys[1], (512,), 0, 10)
inputs = centers[labels] + jax.random.normal(keys[2], (512, 32))
model = eqx.nn.MLP(32, 10, width_size=64, depth=2, key=keys[3])
params, static = eqx.partition(model, eqx.is_inexact_array)


def loss(params, inputs, labels):
  logits = jax.vmap(eqx.combine(params, static))(inputs)
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


rules = layer_rules(loss, params, inputs, labels)
tx = spread(optax.adam(3e-3), rules=rules)
state = tx.init(params)


@eqx.filter_jit
def step(params, state):
  value, gradient = jax.value_and_grad(loss)(params, inputs, labels)
  updates, state = tx.update(gradient, state, params)
  return eqx.apply_updates(params, updates), state, value


for _ in range(100):
  params, state, value = step(params, state)
print(f"loss {value:.3f}")
print(describe(params, rules=rules))
