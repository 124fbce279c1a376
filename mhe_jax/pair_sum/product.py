"""Matrix products of unit vectors: the one place that chooses their precision.

The squared distance is 2 - 2 cos, which cancels for close neurons: cosines must be as
accurate as float32 is. The TF32 or single bfloat16 passes that accelerators use by
default are wrong below 3e-2 rad; a distance may even be negative.

``Precision.HIGHEST`` is that accurate everywhere. On a TPU it is six bfloat16 passes.
On an NVIDIA GPU it is the float32 units, a seventh or less of what tensor cores do in
TF32: there a preset can add up products of parts of the numbers, on tensor cores. Three
bfloat16 parts hold the 24 bits of a float32, and the six largest of their nine products
are as accurate (docs/numerics.md has the table). A CPU takes that preset, too, and
computes in float32; so it can be chosen by the backend, when a program is traced, and
the program be placed elsewhere. Three products of TF32 parts are refused there.
"""

import concurrent.futures
import functools

import jax
import jax.numpy as jnp

HIGHEST = jax.lax.Precision.HIGHEST
# The candidate is {"cuda": DotAlgorithmPreset.BF16_BF16_F32_X6}. It stays out until
# experiments.benchmarks.accelerator has measured it: six products of narrow tiles write
# six times as much, which may cost more than tensor cores gain.
PRESETS: dict[str, jax.lax.DotAlgorithmPreset] = {}
"""Of float32 products, by backend; others, and float64, are at HIGHEST precision."""


def product(x: jax.Array, y: jax.Array) -> jax.Array:
  """The matrix product, as :func:`jax.numpy.matmul`, as accurate as its dtype."""
  is_single = x.dtype == y.dtype == jnp.float32
  return jnp.matmul(x, y, precision=of_float32() if is_single else HIGHEST)


@functools.cache
def of_float32() -> jax.lax.Precision | jax.lax.DotAlgorithmPreset:
  """The precision of products of float32, on the default backend."""
  preset = PRESETS.get(backend())
  return preset if preset is not None and compiles(preset) else HIGHEST


def backend() -> str:
  """Name of the default one; GPUs of NVIDIA and of AMD are told apart."""
  name = jax.default_backend()
  if name != "gpu":
    return name
  try:
    return "cuda" if jax.devices("cuda") else "rocm"
  except RuntimeError:
    return "rocm"


def compiles(precision: jax.lax.Precision | jax.lax.DotAlgorithmPreset) -> bool:
  """Whether the compiler takes it for the default device.

  GPUs older than Ampere, for example, have no bfloat16 products.
  """

  def compile_one():
    x = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    jax.jit(functools.partial(jnp.matmul, precision=precision)).lower(x, x).compile()

  # In a thread of its own, which knows nothing of meshes and traces around this call.
  with concurrent.futures.ThreadPoolExecutor(1) as thread:
    try:
      thread.submit(compile_one).result()
    except Exception:  # Of whatever kind a compiler raises.
      return False
  return True
