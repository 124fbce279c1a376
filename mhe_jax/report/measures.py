"""The numbers of one set of neurons: exact up to a size, and sampled above."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mhe_jax.arrays import compute_dtype
from mhe_jax.energy import hyperspherical_energy
from mhe_jax.estimates import sampled_energy_and_error
from mhe_jax.neurons import nearest_neurons
from mhe_jax.potentials.base import Potential
from mhe_jax.report.chance import scale_of, twin_angle
from mhe_jax.report.spectrum import gram, singular_values
from mhe_jax.sphere import has_direction

NUM_SAMPLES = 1024


class Energy(NamedTuple):
  """Mean pair energy and relative excess of a set, with standard errors (0: exact)."""

  energy: float
  energy_error: float
  excess: float
  excess_error: float


@dataclasses.dataclass(frozen=True)
class Geometry:
  """How the directions of a set lie; NaN where there are fewer than two.

  Attributes:
    smallest_angle: in radians.
    closest: the two neurons at it.
    twins: share of the neurons with another within :func:`twin_angle`.
    twin_angle: that angle, in radians.
    mean_squared_cosine: over all pairs.
    effective_rank: of the unit rows.
    zero_neurons: number of neurons without a direction, which are in no pair.
  """

  smallest_angle: float = math.nan
  closest: tuple[int, int] | None = None
  twins: float = math.nan
  twin_angle: float = math.nan
  mean_squared_cosine: float = math.nan
  effective_rank: float = math.nan
  zero_neurons: int = 0


# Between these, squares and reciprocals of norms are in the range of float32.
_SMALL, _LARGE = 2.0**-60, 2.0**60


def as_computed(w: np.ndarray) -> np.ndarray:
  """Directions of a matrix ``[n, d]``, in the dtype of their computations.

  That is float32 for everything smaller. Rows that it cannot hold, or whose smallest
  weights it would lose (float64 without x64, and subnormal numbers, which devices take
  for 0), are scaled by a power of two, which changes no direction and rounds nothing.
  """
  w = np.asarray(w)
  dtype = compute_dtype(w.dtype)
  wide = w if w.dtype.itemsize >= dtype.itemsize else w.astype(dtype)
  largest = np.max(np.abs(wide), axis=1, initial=0.0)
  is_far = ((largest < _SMALL) | (largest > _LARGE)) & np.isfinite(largest)
  is_far &= largest > 0
  if is_far.any():
    exponents = np.frexp(largest)[1]
    wide = np.where(is_far[:, None], np.ldexp(wide, -exponents[:, None]), wide)
  return wide.astype(dtype, copy=False)


def energy_of(
  w: np.ndarray, potential: Potential, *, half_space: bool, exact_up_to: int
) -> Energy:
  """Energy of a set ``[n, d]``: of more than ``exact_up_to`` neurons, an estimate.

  In the energy a neuron without a direction counts as orthogonal to all others. The
  excess is that of the others, or dead neurons would make any layer look diverse.
  """
  n, d = w.shape
  if not np.isfinite(w).all():
    return Energy(math.nan, math.nan, math.nan, math.nan)
  energy, error = _energy_and_error(w, potential, half_space, exact_up_to)
  is_row = has_direction(jnp.asarray(w))
  alive = int(np.sum(is_row))
  if alive < 2:
    return Energy(energy, error, math.nan, math.nan)
  of_alive = energy, error
  if alive < n:
    of_alive = _energy_and_error(w[is_row], potential, half_space, exact_up_to)
  best, random = scale_of(potential, alive, d, half_space)
  excess, excess_error = of_alive[0] - best, of_alive[1]
  return Energy(energy, error, excess / (random - best), excess_error / (random - best))


def _energy_and_error(w, potential, half_space, exact_up_to) -> tuple[float, float]:
  if len(w) <= exact_up_to:
    return float(hyperspherical_energy(w, potential, half_space=half_space)), 0.0
  energy, error = sampled_energy_and_error(
    jax.random.key(0),  # The same rows each time, and of both in a comparison.
    w,
    potential,
    num_samples=min(NUM_SAMPLES, len(w)),
    half_space=half_space,
  )
  return float(energy), float(error)


def geometry_of(w: np.ndarray, *, half_space: bool, exact_up_to: int) -> Geometry:
  """How the directions of a set ``[n, d]`` lie.

  Of more than ``exact_up_to`` neurons, angles are those of a sample of them to all: the
  smallest is of these, and the share of twins has the standard error of a share.
  """
  if not np.isfinite(w).all():
    return Geometry()
  is_row = np.asarray(has_direction(jnp.asarray(w)))
  zero_neurons = int(np.sum(~is_row))
  if np.sum(is_row) < 2:
    return Geometry(zero_neurons=zero_neurons)
  numbers = np.flatnonzero(is_row)
  rows = w[numbers] if zero_neurons else w
  n, d = rows.shape
  asked = None
  if len(w) > exact_up_to:
    rng = np.random.default_rng(0)
    asked = np.sort(rng.choice(n, min(NUM_SAMPLES, n), replace=False))
  found = nearest_neurons(rows, half_space=half_space, rows=asked)
  angles, others = (np.asarray(x)[:, 0] for x in found)
  asked = np.arange(n) if asked is None else asked
  at = int(np.argmin(angles))
  pair = sorted((int(numbers[asked[at]]), int(numbers[others[at]])))
  limit = twin_angle(n, d, half_space=half_space)
  spectrum = gram(rows)
  squares = float(np.sum(spectrum * spectrum))  # Of all cosines, with themselves.
  return Geometry(
    smallest_angle=float(angles[at]),
    closest=(pair[0], pair[1]),
    twins=float(np.mean(angles <= limit)),
    twin_angle=limit,
    mean_squared_cosine=max(0.0, (squares - n) / (n * (n - 1))),
    effective_rank=_effective_rank(spectrum),
    zero_neurons=zero_neurons,
  )


def _effective_rank(spectrum) -> float:
  r"""The exponential of the entropy of the singular values over their sum.

  References:
    Roy and Vetterli, The effective rank: a measure of effective dimensionality,
    European Signal Processing Conference 2007.
  """
  sigma = singular_values(spectrum)
  if sigma is None:
    return math.nan
  p = sigma[sigma > 0] / np.sum(sigma)
  return float(np.exp(-np.sum(p * np.log(p))))
