"""A plain dict of arrays: rules from the loss, spread around the optimizer."""

import jax
import jax.numpy as jnp
import optax

from mhe_jax import describe, layer_rules, spread

keys = jax.random.split(jax.random.key(0), 5)
centers = jax.random.normal(keys[0], (10, 32))
labels = jax.random.randint(keys[1], (512,), 0, 10)
inputs = centers[labels] + jax.random.normal(keys[2], (512, 32))
params = {
  "hidden": jax.random.normal(keys[3], (32, 64)) / 32**0.5,
  "bias": jnp.zeros(64),
  "head": jnp.zeros((64, 10)),
}


def loss(params, inputs, labels):
  hidden = jax.nn.relu(inputs @ params["hidden"] + params["bias"])
  logits = hidden @ params["head"]
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


rules = layer_rules(loss, params, inputs, labels)
tx = spread(optax.adam(1e-2), rules=rules)
state = tx.init(params)


@jax.jit
def step(params, state):
  value, gradient = jax.value_and_grad(loss)(params, inputs, labels)
  updates, state = tx.update(gradient, state, params)
  return optax.apply_updates(params, updates), state, value


for count in range(200):
  params, state, value = step(params, state)
  if count % 50 == 0:
    excess = optax.tree.get(state, "SpreadState").excess
    print(count, f"loss {value:.3f}", {k: f"{x:.2f}" for k, x in excess.items()})
print(describe(params, rules=rules))
