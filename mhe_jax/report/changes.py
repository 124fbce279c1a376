"""How the directions of a set differ from those of another: exact, in closed form."""

import dataclasses
import math

import numpy as np

from mhe_jax.report.spectrum import (
  LARGEST_SIDE,
  chunks_of_units,
  nuclear_norm,
  square_root,
  unit_rows,
)


@dataclasses.dataclass(frozen=True)
class Change:
  """From unit rows V to unit rows U of the same shape.

  Attributes:
    cosine_change: root mean square, over all pairs, of the change of their cosine.
    moved: root mean square distance between a neuron before and after; 2 at most.
    moved_unrotated: the same after the one orthogonal map of all neurons that leaves
      the least. 0 says that the layer was turned, and nothing else. NaN if the layer
      is too large for it.
    norm_ratio: Frobenius norm of the matrix over that before.
    weight_change: Frobenius norm of the difference over that before.
  """

  cosine_change: float = math.nan
  moved: float = math.nan
  moved_unrotated: float = math.nan
  norm_ratio: float = math.nan
  weight_change: float = math.nan


def change_of(w: np.ndarray, base: np.ndarray) -> Change:
  r"""Compares two sets ``[n, d]`` of any float dtypes, in float64 and O(n d) memory.

  With D = U - V and S = U + V, the Gram matrices differ by (D S^T + S D^T) / 2, so that
  no small difference of large numbers is taken:

  .. math::
    \lVert U U^T - V V^T \rVert^2
    = \tfrac12 \langle D^T D, S^T S \rangle + \tfrac12 \operatorname{tr} (S^T D)^2

  which costs O(n d^2); for n < d the Gram matrices themselves are the smaller. The
  orthogonal map is that of Procrustes' problem: the least squared distance is
  :math:`\lVert U \rVert^2 + \lVert V \rVert^2 - 2 \lVert U^T V \rVert_*`.

  References:
    Schönemann, A generalized solution of the orthogonal Procrustes problem,
    Psychometrika 31 (1), 1966.
  """
  if not (np.isfinite(w).all() and np.isfinite(base).all()):
    return Change()
  n, d = w.shape
  squared, own, moved, sizes, product = (_tall if n >= d else _wide)(w, base)
  pairs = n * (n - 1)
  unrotated = math.nan
  if product is not None:
    unrotated = math.sqrt(max(0.0, sizes - 2.0 * nuclear_norm(product)) / n)
    # That map may be none at all: what did not move is 0, not its rounding.
    unrotated = min(unrotated, math.sqrt(moved / n))
  of_base = _norm(base)
  return Change(
    cosine_change=math.sqrt(max(0.0, squared - own) / pairs) if pairs else math.nan,
    moved=math.sqrt(moved / n),
    moved_unrotated=unrotated,
    norm_ratio=_norm(w) / of_base if of_base else math.nan,
    weight_change=_norm(w, base) / of_base if of_base else math.nan,
  )


def _tall(w, base):
  d = w.shape[1]
  of_d, of_s, mixed = np.zeros((3, d, d))
  own = moved = sizes = 0.0
  for u, v in chunks_of_units(w, base):
    apart, together = u - v, u + v
    of_d += apart.T @ apart
    of_s += together.T @ together
    mixed += together.T @ apart
    own += float(np.sum(np.sum(apart * together, 1) ** 2))
    moved += float(np.sum(apart * apart))
    sizes += float(np.sum(u * u) + np.sum(v * v))
  squared = 0.5 * float(np.sum(of_d * of_s) + np.sum(mixed * mixed.T))
  product = None
  if d <= LARGEST_SIDE:
    product = (of_s - of_d + mixed.T - mixed) / 4.0  # U^T V.
  return squared, own, moved, sizes, product


def _wide(w, base):
  u, v = unit_rows(w), unit_rows(base)
  apart, together = u - v, u + v
  own = float(np.sum(np.sum(apart * together, 1) ** 2))
  moved = float(np.sum(apart * apart))
  sizes = float(np.sum(u * u) + np.sum(v * v))
  mixed = apart @ together.T
  squared = float(np.sum((mixed + mixed.T) ** 2)) / 4.0
  product = None
  if len(w) <= LARGEST_SIDE:
    # Of the same singular values as U^T V, but n x n.
    product = square_root(u @ u.T) @ square_root(v @ v.T)
  return squared, own, moved, sizes, product


def _norm(w, base=None) -> float:
  """Frobenius norm of a matrix, or of a difference, in float64."""
  total, scale = 0.0, float(np.max(np.abs(w), initial=0.0))
  if base is not None:
    scale = max(scale, float(np.max(np.abs(base), initial=0.0)))
  if scale == 0.0:
    return 0.0
  at_once = max(1, 2**24 // max(1, w.shape[1]))
  for start in range(0, len(w), at_once):
    x = w[start : start + at_once].astype(np.float64)
    if base is not None:
      x -= base[start : start + at_once].astype(np.float64)
    x /= scale
    total += float(np.sum(x * x))
  return scale * math.sqrt(total)
