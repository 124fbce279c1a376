"""One of two processes that share four devices: ``python one_of_two_hosts.py 0 PORT``.

Prints JSON of what it computes of neurons of which it has half.
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from mhe_jax import Riesz, hyperspherical_energy, sampled_energy


def main(rank, port):
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  jax.config.update("jax_num_cpu_devices", 2)
  jax.distributed.initialize(f"127.0.0.1:{port}", 2, rank)
  w = np.random.default_rng(0).normal(size=(512, 8)).astype(np.float32)
  mesh = jax.make_mesh((4,), ("x",), (AxisType.Auto,))
  rows = NamedSharding(mesh, P("x"))
  sharded = jax.make_array_from_callback(w.shape, rows, lambda index: w[index])

  def energy(w, **options):
    return hyperspherical_energy(w, Riesz(2.0), **options)

  by_name = jax.shard_map(
    lambda w: energy(w, axis_name="x"), mesh=mesh, in_specs=P("x"), out_specs=P()
  )
  value, gradient = jax.jit(jax.value_and_grad(energy))(sharded)
  expected = jax.grad(energy)(jnp.asarray(w))
  errors = [
    np.abs(shard.data - expected[shard.index]).max()
    for shard in gradient.addressable_shards
  ]
  sample = jax.jit(lambda w, key: sampled_energy(key, w, Riesz(2.0), num_samples=64))
  result = {
    "processes": jax.process_count(),
    "shards": [shard.data.shape for shard in gradient.addressable_shards],
    "exact": float(energy(w)),
    "by the compiler": float(value),
    "by name": float(jax.jit(by_name)(sharded)),
    "sampled": float(sample(sharded, jax.random.key(0))),
    "gradient's error": float(max(errors) / np.abs(expected).max()),
  }
  print(json.dumps(result), flush=True)


if __name__ == "__main__":
  main(int(sys.argv[1]), sys.argv[2])
