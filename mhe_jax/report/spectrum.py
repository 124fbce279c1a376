"""Products of unit rows in float64, on the host: of the smaller side, in chunks."""

from collections.abc import Iterator

import numpy as np

# Eigenvalues of a matrix of this side take a minute on two cores; of the next power of
# two, eight.
LARGEST_SIDE = 8192
# Up to here singular values are taken one by one, to all their digits.
SMALL_SIDE = 1024
_CHUNK = 2**24


def unit_rows(w: np.ndarray) -> np.ndarray:
  """Rows of norm 1 in float64; rows of zeros stay."""
  w = w.astype(np.float64)
  largest = np.max(np.abs(w), axis=1, keepdims=True, initial=0.0)
  w /= np.where(largest > 0, largest, 1.0)  # Squares of 1e30 are out of range for none.
  norms = np.linalg.norm(w, axis=1, keepdims=True)
  return np.divide(w, np.where(norms > 0, norms, 1.0), out=w)


def chunks_of_units(*matrices: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
  """Unit rows of matrices of one shape, some of the rows at once."""
  n, d = matrices[0].shape
  at_once = max(1, _CHUNK // max(1, d))
  for start in range(0, n, at_once):
    yield tuple(unit_rows(w[start : start + at_once]) for w in matrices)


def gram(w: np.ndarray) -> np.ndarray:
  """Of unit rows U ``[n, d]``: U^T U, or U U^T if that is smaller.

  Both have the same eigenvalues, but for zeros, and the same sum of squares, that of
  all squared cosines.
  """
  n, d = w.shape
  if n <= d:
    u = unit_rows(w)
    return u @ u.T
  total = np.zeros((d, d))
  for (u,) in chunks_of_units(w):
    total += u.T @ u
  return total


def singular_values(of_gram: np.ndarray) -> np.ndarray | None:
  """Singular values of unit rows, from their :func:`gram`; None if it is too large.

  Those whose squares are below the rounding of the largest are zero.
  """
  side = len(of_gram)
  if side > LARGEST_SIDE:
    return None
  eigenvalues = np.linalg.eigvalsh(of_gram)
  noise = side * np.finfo(np.float64).eps * eigenvalues[-1]
  return np.sqrt(np.where(eigenvalues > noise, eigenvalues, 0.0))


def square_root(of_gram: np.ndarray) -> np.ndarray:
  """The symmetric square root of a matrix without negative eigenvalues."""
  values, vectors = np.linalg.eigh(of_gram)
  return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def nuclear_norm(m: np.ndarray) -> float:
  """The sum of the singular values of a square matrix.

  Of large ones by the eigenvalues of M^T M, which take a fifth of the time: a singular
  value less than 1e-8 of the largest is then lost.
  """
  if len(m) <= SMALL_SIDE:
    return float(np.sum(np.linalg.svd(m, compute_uv=False)))
  eigenvalues = np.linalg.eigvalsh(m.T @ m)
  return float(np.sum(np.sqrt(np.maximum(eigenvalues, 0.0))))
