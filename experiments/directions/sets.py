"""Sets of directions: of least energy, and what else is used."""

import functools

import jax
import numpy as np

from mhe_jax import Riesz, minimize_energy

ENERGY = "energy"
SPIRALS = ("Fibonacci", "half Fibonacci")
RIVALS = ("independent", "orthogonal blocks", "tight frame", *SPIRALS)


def forms_of(d: int) -> tuple[str, ...]:
  """What there is in d dimensions: Fibonacci's spirals in three alone."""
  return (ENERGY, *(form for form in RIVALS if form not in SPIRALS or d == 3))


@functools.cache  # Several tasks take the same sets.
def directions(form: str, n: int, d: int, seed: int) -> np.ndarray:
  """Unit vectors ``[n, d]``, float64, turned at random.

  Every task here takes w and -w for the same, so that lines are spread.

  Args:
    form: ``"energy"`` or one of RIVALS.
    n: vectors.
    d: dimensions.
    seed: of all that is random in it.
  """
  rng = np.random.default_rng([seed, n, d])
  match form:
    case "energy":
      key = jax.random.key(seed)
      units, _ = minimize_energy(key, n, d, Riesz(1.0), half_space=True)
      return _unit(np.asarray(units, np.float64))
    case "independent":
      return _unit(rng.standard_normal((n, d)))
    case "orthogonal blocks":
      return orthogonal_blocks(n, d, rng)
    case "tight frame":
      return tight_frame(n, d, rng)
    case "Fibonacci" | "half Fibonacci":
      turn = orthogonal_blocks(3, 3, rng)
      return fibonacci(n, half=form == "half Fibonacci") @ turn
  raise ValueError(f"form must be one of {(ENERGY, *RIVALS)}, got {form!r}.")


def orthogonal_blocks(n: int, d: int, rng: np.random.Generator) -> np.ndarray:
  """Random orthogonal matrices one below the other, the last one cut off."""
  blocks, triangles = np.linalg.qr(rng.standard_normal((-(-n // d), d, d)))
  # Uniform among all orthogonal matrices once the triangle's diagonal is positive.
  signs = np.sign(np.diagonal(triangles, axis1=-2, axis2=-1))
  return (blocks * signs[:, None]).reshape(-1, d)[:n]


def tight_frame(n: int, d: int, rng: np.random.Generator) -> np.ndarray:
  """Independent vectors, moved to the least value of ``Orthonormality``; n >= d.

  In turns the nearest matrix with equal singular values, and the nearest of unit rows:
  Tropp et al., Designing structured tight frames via an alternating projection method,
  IEEE Transactions on Information Theory 51 (1), 2005.
  """
  units = _unit(rng.standard_normal((n, d)))
  for _ in range(200):
    left, _, right = np.linalg.svd(units, full_matrices=False)
    units = _unit(left @ right)
  return units


def fibonacci(n: int, *, half: bool = False) -> np.ndarray:
  """A spiral from pole to pole in three dimensions, or to the equator.

  González, Measurement of areas on a sphere using Fibonacci and latitude-longitude
  lattices, Mathematical Geosciences 42, 2010.
  """
  height = 1.0 - (1.0 if half else 2.0) * (np.arange(n) + 0.5) / n
  angle = np.pi * (3.0 - 5.0**0.5) * np.arange(n)
  radius = np.sqrt(1.0 - height**2)
  return np.stack([radius * np.cos(angle), radius * np.sin(angle), height], -1)


def _unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)
