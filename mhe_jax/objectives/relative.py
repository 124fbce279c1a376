"""An objective on a scale from the best to random neurons."""

import math

import jax
import jax.numpy as jnp

from mhe_jax.checks import check_count
from mhe_jax.objectives.base import Objective


class NoScaleError(NotImplementedError):
  """Random directions have infinite energy, or the same as the best."""


def excess_of(
  values: jax.Array, n: int, d: int, objective: Objective, half_space: bool
) -> jax.Array:
  """The relative excess of an objective's values, of n neurons in d dimensions.

  Raises:
    ValueError: fewer than two neurons.
    NoScaleError: there is no scale for it. Not NaN, which a caller could not average
      under ``jax_debug_nans``.
    NotImplementedError: for an objective without a known scale.
  """
  check_count("n", n, 2)
  check_count("d", d, 1)
  best, random = objective.scale(n, d, half_space=half_space)
  if not (math.isfinite(random - best) and random > best):
    raise NoScaleError(f"no scale for {objective} with n = {n}, d = {d}.")
  return (values - best) / (random - best)


def excess_or_nan(
  values: jax.Array, n: int, d: int, objective: Objective, half_space: bool
) -> jax.Array:
  """The relative excess, NaN where there is no scale for it."""
  try:
    return excess_of(values, n, d, objective, half_space)
  except NoScaleError:
    with jax.debug_nans(False):  # Even a constant is checked.
      return jnp.full_like(values, jnp.nan)
