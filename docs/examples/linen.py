"""Flax linen: a convolutional network, its rules, and a TrainState."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.training.train_state import TrainState

from mhe_jax import describe, layer_rules, spread


class CNN(nn.Module):
  """Two convolutions and a classifier."""

  @nn.compact
  def __call__(self, images):
    x = images
    for width in (8, 16):
      x = nn.relu(nn.Conv(width, (3, 3), strides=2)(x))
    return nn.Dense(10, name="head")(x.mean((1, 2)))


keys = jax.random.split(jax.random.key(0), 4)
patterns = jax.random.normal(keys[0], (10, 8, 8, 1))
labels = jax.random.randint(keys[1], (128,), 0, 10)
images = patterns[labels] + jax.random.normal(keys[2], (128, 8, 8, 1))
model = CNN()
params = model.init(keys[3], images)["params"]

rules = layer_rules(model, images)
state = TrainState.create(
  apply_fn=model.apply, params=params, tx=spread(optax.adam(1e-2), rules=rules)
)


@jax.jit
def step(state):
  def loss(params):
    logits = jnp.asarray(state.apply_fn({"params": params}, images))
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

  value, gradient = jax.value_and_grad(loss)(state.params)
  return state.apply_gradients(grads=gradient), value


for _ in range(60):
  state, value = step(state)
print(f"loss {value:.3f}")
print(describe(state.params, rules=rules))
