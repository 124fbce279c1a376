"""The closest pair of rows, in O(n d) memory."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from mhe_jax.arrays import compute_dtype
from mhe_jax.pair_sum.mask import Mask, keep
from mhe_jax.sphere import normalize


def has_direction(rows: jax.Array) -> np.ndarray:
  """Which rows, of ``[*batch, n, d]``, are not zero as :func:`normalize` sees it."""
  w = np.asarray(rows).astype(compute_dtype(rows.dtype), copy=False)
  # Not >=: NaN is no direction, but not zero.
  return ~(np.max(np.abs(w), -1, initial=0.0) < jnp.finfo(w.dtype).tiny)


def smallest_angle(
  rows: jax.Array, *, half_space: bool, block_size: int = 1024
) -> float:
  """The angle between the two closest rows that are not zero, in radians.

  The device sifts in float32, tile by tile: only rows whose largest cosine is within
  rounding of the largest of all go to the host. Both rows of the closest pair are among
  them, by a bound on the rounding that holds for any rows. The host compares these in
  float64, whose cosines tell angles of about 1e-8 apart (those of float32 are blind
  below 1e-3), and takes the angle from the difference of the two rows.

  A set in general position leaves the host a handful of rows. One whose rows are all
  equally close, as of an orthogonal matrix, leaves it all of them: O(n^2 d) time, but
  not more memory.

  Args:
    rows: ``[n, d]``, any real float dtype.
    half_space: the angle between lines, at most pi / 2.
    block_size: rows of a tile; so few need no sifting.

  Returns:
    The angle; infinity if fewer than two rows are not zero; NaN if one has NaN or
    infinity.
  """
  w, is_row = np.asarray(rows), has_direction(rows)
  if not np.isfinite(w).all():
    return math.nan
  if np.sum(is_row) < 2:
    return math.inf
  if np.sum(is_row) > block_size:
    largest = np.asarray(
      largest_cosines(rows, is_row, half_space=half_space, block_size=block_size)
    )
    # A unit vector is off by (d / 2 + 8) roundings, half an eps each, the product of
    # two by twice that and d more; and two such products are compared.
    slack = (2 * rows.shape[1] + 16) * float(jnp.finfo(jnp.float32).eps)
    is_row = largest >= np.max(largest) - slack
  return _smallest_angle(w[is_row].astype(np.float64), half_space)


@functools.partial(jax.jit, static_argnames=("half_space", "block_size"))
def largest_cosines(
  rows: jax.Array, where: jax.typing.ArrayLike, *, half_space: bool, block_size: int
) -> jax.Array:
  """Of each row the largest cosine with another, in float32.

  Args:
    rows: ``[n, d]``, any real float dtype.
    where: booleans ``[n]``, the rows that count.
    half_space: the largest magnitude of a cosine.
    block_size: most rows of a tile.

  Returns:
    Cosines ``[n]``; minus infinity for rows that do not count, or have no other.
  """
  n = rows.shape[0]
  num_blocks = max(1, math.ceil(n / block_size))
  size = math.ceil(n / num_blocks)
  padding = (0, num_blocks * size - n)
  units = jnp.pad(normalize(rows).astype(jnp.float32), (padding, (0, 0)))
  # Labelled by its number, a row makes no pair with itself.
  mask = Mask(
    jnp.pad(jnp.asarray(where), padding), jnp.arange(len(units), dtype=jnp.int32)
  )
  pairs = jnp.asarray(np.triu_indices(num_blocks), jnp.int32)

  def in_block(x, block):
    return jax.lax.dynamic_slice_in_dim(x, block * size, size)

  def raise_to(largest, block, x):
    x = jnp.maximum(x, in_block(largest, block))
    return jax.lax.dynamic_update_slice_in_dim(largest, x, block * size, 0)

  def add(step, largest):
    i, j = pairs[0, step], pairs[1, step]
    of_u, of_v = (Mask(*(in_block(x, block) for x in mask)) for block in (i, j))
    # HIGHEST: see pair_sum/dense.py.
    cosines = jnp.matmul(
      in_block(units, i), in_block(units, j).T, precision=jax.lax.Precision.HIGHEST
    )
    cosines = jnp.abs(cosines) if half_space else cosines
    cosines = keep(cosines, of_u.pairs(of_v), -np.inf)
    return raise_to(raise_to(largest, i, cosines.max(1)), j, cosines.max(0))

  largest = jnp.full_like(units, -jnp.inf, shape=len(units))
  return jax.lax.fori_loop(0, pairs.shape[1], add, largest)[:n]


def _smallest_angle(w, half_space):
  """Of float64 rows, none of them zero, on the host; O(n) memory beyond theirs."""
  w = w / np.abs(w).max(1, keepdims=True)  # Norms of 1e-200 would underflow.
  units = w / np.linalg.norm(w, axis=1, keepdims=True)
  chunk_size = 2**22 // len(units) + 1
  smallest = math.inf
  for start in range(0, len(units) - 1, chunk_size):
    chunk, later = units[start : start + chunk_size], units[start:]
    cosines = chunk @ later.T
    if half_space:
      np.abs(cosines, out=cosines)
    np.fill_diagonal(cosines, -np.inf)
    nearest = later[np.argmax(cosines, 1)]
    to_nearest = np.linalg.norm(chunk - nearest, axis=1)
    to_antipode = np.linalg.norm(chunk + nearest, axis=1)
    if half_space:
      to_nearest, to_antipode = np.sort([to_nearest, to_antipode], axis=0)
    smallest = min(smallest, np.min(2.0 * np.arctan2(to_nearest, to_antipode)))
    if smallest == 0.0:
      break
  return float(smallest)
