"""Measurements of :mod:`experiments.benchmarks.sampled` in processes of their own.

One for the peak of its memory, another for its fake devices. Each prints a JSON line.
"""

import functools
import json
import os
import sys

NUM_DEVICES = 8


def ring(n: int, d: int) -> dict:
  """Of neurons on eight devices: errors, memory of each, and multiplications."""
  os.environ["JAX_PLATFORMS"] = "cpu"
  os.environ["JAX_NUM_CPU_DEVICES"] = str(NUM_DEVICES)  # Before JAX starts.
  import jax  # noqa: PLC0415
  import jax.numpy as jnp  # noqa: PLC0415
  import numpy as np  # noqa: PLC0415

  from experiments.benchmarks.energy import neurons  # noqa: PLC0415
  from experiments.benchmarks.products import products_of  # noqa: PLC0415
  from mhe_jax import Riesz, hyperspherical_energy  # noqa: PLC0415

  mesh = jax.make_mesh((NUM_DEVICES,), ("x",), (jax.sharding.AxisType.Auto,))
  rows = jax.NamedSharding(mesh, jax.P("x"))
  energy = functools.partial(hyperspherical_energy, potential=Riesz(2.0))
  w = jnp.asarray(neurons(n, d))
  sharded = jax.device_put(w, rows)
  one = jax.jit(jax.value_and_grad(energy)).lower(w).compile()
  # Of its type inside jit: the compiler divides it.
  many = jax.jit(jax.value_and_grad(energy)).lower(sharded).compile()
  (value, gradient), (expected, of_one) = many(sharded), one(w)
  gradient, of_one = np.asarray(gradient), np.asarray(of_one)
  by_name = jax.shard_map(
    functools.partial(jax.value_and_grad(energy), axis_name="x"),
    mesh=mesh,
    in_specs=jax.P("x"),
    out_specs=(jax.P(), jax.P("x")),
  )
  return {
    "shape": [n, d],
    "devices": NUM_DEVICES,
    "error_of_value": float(abs(value - expected) / abs(expected)),
    "error_of_gradient": float(
      np.linalg.norm(gradient - of_one) / np.linalg.norm(of_one)
    ),
    "mib": {"one": _mib(one), "each": _mib(many)},
    "products": {
      "one": products_of(jax.value_and_grad(energy), w),
      "each": products_of(by_name, w),
      "least": 3 * n * (n - 1) // 2 * d // NUM_DEVICES,
    },
    "all_gathers": (many.as_text() or "").count(" all-gather("),
  }


def _mib(program):
  memory = program.memory_analysis()
  size = (
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    + memory.temp_size_in_bytes
  )
  return round(size / 2**20, 2)


def million(*arguments: int) -> dict:
  """Seconds and memory of a great many neurons."""
  from experiments.benchmarks import sampled  # noqa: PLC0415
  from experiments.benchmarks.huge import peak_mib  # noqa: PLC0415

  return sampled.million(*arguments) | {"peak_mib": peak_mib()}


if __name__ == "__main__":
  measure = {"ring": ring, "million": million}[sys.argv[1]]
  print(json.dumps(measure(*map(int, sys.argv[2:]))))
