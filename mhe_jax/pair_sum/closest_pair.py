"""The closest pair of rows, in float64 on the host, in O(n d) memory."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from mhe_jax.arrays import compute_dtype
from mhe_jax.pair_sum import neighbors
from mhe_jax.pair_sum.mask import Mask
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
      _largest_cosines(rows, is_row, half_space=half_space, block_size=block_size)
    )
    # A unit vector is off by (d / 2 + 8) roundings, half an eps each, the product of
    # two by twice that and d more; and two such products are compared.
    slack = (2 * rows.shape[1] + 16) * float(jnp.finfo(jnp.float32).eps)
    is_row = largest >= np.max(largest) - slack
  return _smallest_angle(w[is_row].astype(np.float64), half_space)


@functools.partial(jax.jit, static_argnames=("half_space", "block_size"))
def _largest_cosines(rows, where, *, half_space, block_size):
  units = normalize(rows).astype(jnp.float32)
  return neighbors.largest_cosines(
    units, Mask(jnp.asarray(where)), half_space=half_space, block_size=block_size
  )


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
