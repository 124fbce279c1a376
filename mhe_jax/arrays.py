"""Float arrays: their dtypes, and those that are sharded over explicit mesh axes."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def as_float_array(
  name: str, x: jax.typing.ArrayLike, *, whole: bool = True
) -> jax.Array:
  """``x`` as a JAX array; a TypeError names it unless it is real and floating.

  Args:
    name: of the argument.
    x: the array.
    whole: see :func:`replicate_explicit`; if not, it stays sharded as it is.
  """
  x = jnp.asarray(x)
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise TypeError(f"{name} must be a real floating-point array, got dtype {x.dtype}.")
  return replicate_explicit(x) if whole else x


def as_rows(rows: jax.typing.ArrayLike) -> jax.Array:
  """Numbers of rows as a JAX array ``[m]`` of 32 bits or more.

  Raises:
    TypeError: they are not integers.
    ValueError: they are not ``[m]`` with m > 0.
  """
  rows = replicate_explicit(jnp.asarray(rows))
  if not jnp.issubdtype(rows.dtype, jnp.integer):
    raise TypeError(f"rows must be integer, got dtype {rows.dtype}.")
  if rows.ndim != 1 or rows.shape[0] == 0:
    raise ValueError(f"rows must have shape [m] with m > 0, got {rows.shape}.")
  # In int8, neuron 256 would be neuron 0.
  return rows.astype(jnp.int32) if rows.dtype.itemsize < 4 else rows


def is_explicit(x: jax.Array) -> bool:
  """Whether it is sharded over explicit mesh axes: its type says how."""
  spec = jax.typeof(x).sharding.spec
  return not all(axes is None or axes is jax.P.UNCONSTRAINED for axes in spec)


def replicate_explicit(x: jax.Array, axes: Sequence[int] | None = None) -> jax.Array:
  """``x`` gathered on every device, if it is sharded over explicit mesh axes.

  Cosines and reshapes of such arrays are sharding errors, since JAX decides nothing
  for the user there. Under automatic axes, the compiler decides.

  Args:
    x: the array.
    axes: along which it is gathered, not negative; by default, all.
  """
  if not is_explicit(x):
    return x
  sharding = jax.typeof(x).sharding
  spec = (*sharding.spec, *[None] * (x.ndim - len(sharding.spec)))
  if axes is None:
    axes = range(x.ndim)
  spec = jax.P(*(None if i in axes else names for i, names in enumerate(spec)))
  return jax.sharding.reshard(x, jax.sharding.NamedSharding(sharding.mesh, spec))


def compute_dtype(*dtypes: jax.typing.DTypeLike) -> jnp.dtype:
  """float64 if one of them is; float32 for float32 and everything smaller.

  Without x64, float64 arrays of NumPy are float32 to JAX, which warns of an array
  that is asked to be float64.
  """
  # Not jnp.promote_types, which is an error under strict dtype promotion.
  double = any(dtype == jnp.float64 for dtype in dtypes)
  dtype = jnp.dtype(jnp.float64 if double else jnp.float32)
  return jax.dtypes.canonicalize_dtype(dtype)
