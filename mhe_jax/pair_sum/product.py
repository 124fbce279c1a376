"""Matrix products of unit vectors: the one place that chooses their precision.

The squared distance is 2 - 2 cos, which cancels for close neurons: cosines must be as
accurate as float32 is. The TF32 or single bfloat16 passes that accelerators use by
default are wrong below 3e-2 rad; a distance may even be negative.

``Precision.HIGHEST`` is that accurate everywhere. On a TPU it is six bfloat16 passes.
On an NVIDIA GPU it is the float32 units, a seventh or less of what tensor cores do in
TF32: there a preset adds up products of parts of the numbers, on tensor cores. Three
bfloat16 parts hold the 24 bits of a float32, and the six largest of their nine products
are as accurate (docs/numerics.md has the table). Three products of TF32 parts are too,
at the same speed on paper, but cannot be lowered where a program is for CPUs as well.
"""

import concurrent.futures
import functools

import jax
import jax.numpy as jnp

PRESETS = {"cuda": jax.lax.DotAlgorithmPreset.BF16_BF16_F32_X6}
"""Of float32 products, by platform; others, and float64, are at HIGHEST precision."""


def product(x: jax.Array, y: jax.Array) -> jax.Array:
  """The matrix product, as :func:`jax.numpy.matmul`, as accurate as its dtype.

  The platform is that which it is lowered for, and need not be the default one.
  """
  presets = {
    platform: functools.partial(jnp.matmul, precision=preset)
    for platform, preset in PRESETS.items()
    if x.dtype == y.dtype == jnp.float32 and compiles(platform, preset)
  }
  if not presets:
    return _highest(x, y)
  return jax.lax.platform_dependent(x, y, default=_highest, **presets)


_highest = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


@functools.cache
def compiles(platform: str, preset: jax.lax.DotAlgorithmPreset) -> bool:
  """Whether the compiler takes a preset, on a device of the platform, if there is one.

  GPUs older than Ampere, for example, have no bfloat16 products. Where there is no
  device, the program is for another machine, and taken to be good.
  """
  try:
    device = jax.devices(platform)[0]
  except RuntimeError:
    return True

  def compile_one():
    x = jax.ShapeDtypeStruct(
      (64, 64), jnp.float32, sharding=jax.sharding.SingleDeviceSharding(device)
    )
    jax.jit(functools.partial(jnp.matmul, precision=preset)).lower(x, x).compile()

  # In a thread of its own, which knows nothing of meshes and traces around this call.
  with concurrent.futures.ThreadPoolExecutor(1) as thread:
    try:
      thread.submit(compile_one).result()
    except Exception:  # Of whatever kind a compiler raises.
      return False
  return True
