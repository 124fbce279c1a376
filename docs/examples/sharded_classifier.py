"""100,000 classes whose rows are divided among devices, with their optimizer.

Without accelerators, XLA makes eight devices of the CPU:

  XLA_FLAGS=--xla_force_host_platform_device_count=8 python sharded_classifier.py
"""

import sys

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mhe_jax import LayerRule, RelativeExcess, Riesz, Sampled, spread

NUM_CLASSES = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
WIDTH, BATCH = 64, 256

# The compiler divides the work where axes are Auto, as most trainers have them.
mesh = jax.make_mesh(
  (jax.device_count(),), ("classes",), axis_types=(jax.sharding.AxisType.Auto,)
)
rows = NamedSharding(mesh, P("classes", None))
keys = jax.random.split(jax.random.key(0), 3)
head = jax.random.normal(keys[0], (NUM_CLASSES, WIDTH)) / WIDTH**0.5
params = {"head": jax.device_put(head, rows)}
features = jax.random.normal(keys[1], (BATCH, WIDTH))
labels = jax.random.randint(keys[2], (BATCH,), 0, NUM_CLASSES)


def loss(params):
  logits = features @ params["head"].T
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


# Of so many neurons the energy is estimated, anew in every step.
sampled = RelativeExcess(Sampled(Riesz(2.0), num_samples=256))
rules = [LayerRule("head", role="output")]
tx = spread(optax.adam(1e-2), 0.5, sampled, rules=rules, every=4, key=jax.random.key(1))
state = jax.jit(tx.init)(params)


@jax.jit
def step(params, state):
  value, gradient = jax.value_and_grad(loss)(params)
  updates, state = tx.update(gradient, state, params)
  return optax.apply_updates(params, updates), state, value


for count in range(9):
  params, state, value = step(params, state)
  excess = optax.tree.get(state, "SpreadState").excess["head"]
  print(count, f"loss {value:.3f}, relative excess {excess:.3f}")
print("a device holds", params["head"].addressable_shards[0].data.shape)
assert jnp.isfinite(value)
