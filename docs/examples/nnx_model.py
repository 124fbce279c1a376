"""Flax nnx: the optimizer of a module, with spread around it."""

import jax
import optax
from flax import nnx

from mhe_jax import describe, layer_rules, spread


class MLP(nnx.Module):
  """Two hidden layers and a classifier."""

  def __init__(self, rngs):
    self.first = nnx.Linear(32, 64, rngs=rngs)
    self.second = nnx.Linear(64, 64, rngs=rngs)
    self.head = nnx.Linear(64, 10, rngs=rngs)

  def __call__(self, x):
    return self.head(nnx.relu(self.second(nnx.relu(self.first(x)))))


keys = jax.random.split(jax.random.key(0), 3)
centers = jax.random.normal(keys[0], (10, 32))
labels = jax.random.randint(keys[1], (512,), 0, 10)
inputs = centers[labels] + jax.random.normal(keys[2], (512, 32))


def loss(model, inputs, labels):
  logits = model(inputs)
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


model = MLP(nnx.Rngs(0))
rules = layer_rules(loss, model, inputs, labels)
tx = spread(optax.adamw(3e-3), rules=rules)
optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)


@nnx.jit
def step(model, optimizer):
  value, gradient = nnx.value_and_grad(loss)(model, inputs, labels)
  optimizer.update(model, gradient)
  return value


for _ in range(100):
  value = step(model, optimizer)
print(f"loss {value:.3f}")
print(describe(model, rules=rules))
