"""Float arrays: their dtypes, and those that are sharded over explicit mesh axes."""

import jax
import jax.numpy as jnp


def as_float_array(name: str, x: jax.typing.ArrayLike) -> jax.Array:
  """``x`` as a JAX array; a TypeError names it unless it is real and floating."""
  x = replicate_explicit(jnp.asarray(x))
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise TypeError(f"{name} must be a real floating-point array, got dtype {x.dtype}.")
  return x


def replicate_explicit(x: jax.Array) -> jax.Array:
  """``x`` gathered on every device, if it is sharded over explicit mesh axes.

  Cosines and reshapes of such arrays are sharding errors, since JAX decides nothing
  for the user there. Under automatic axes, the compiler decides.
  """
  sharding = jax.typeof(x).sharding
  if all(axes is None or axes is jax.P.UNCONSTRAINED for axes in sharding.spec):
    return x
  return jax.sharding.reshard(x, jax.sharding.NamedSharding(sharding.mesh, jax.P()))


def compute_dtype(*dtypes: jax.typing.DTypeLike) -> jnp.dtype:
  """float64 if one of them is; float32 for float32 and everything smaller.

  Without x64, float64 arrays of NumPy are float32 to JAX, which warns of an array
  that is asked to be float64.
  """
  # Not jnp.promote_types, which is an error under strict dtype promotion.
  double = any(dtype == jnp.float64 for dtype in dtypes)
  dtype = jnp.dtype(jnp.float64 if double else jnp.float32)
  return jax.dtypes.canonicalize_dtype(dtype)
