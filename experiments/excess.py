"""Redundancy of layers and features: one measure, whatever the regularizer is."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from experiments.models import OUTPUT
from experiments.runs.results import from_json
from mhe_jax import (
  LayerRule,
  Riesz,
  energy_lower_bound,
  layer_excess,
  neuron_matrices,
  uniform_energy,
)


@functools.partial(jax.jit, static_argnames="output")
def excess(params: Any, output: str = OUTPUT) -> dict[str, jax.Array]:
  """Relative excess of each layer, s = 2; in half-space, but of the output layer.

  Args:
    params: of a network.
    output: path of the output layer's kernel.
  """
  rules = (LayerRule(output, role="output"),)
  return layer_excess(params, Riesz(2.0), rules=rules)


@jax.jit
def norms(params: Any) -> dict[str, jax.Array]:
  """Root mean square norm of the neurons of each layer, which sets its actual rate.

  Where a normalization follows, only directions count, and a step turns them by the
  learning rate over the squared norm.
  """
  rows = {k: jnp.sum(w**2, 1) for k, w in neuron_matrices(params).items()}
  return {k: jnp.sqrt(squared.mean()) for k, squared in rows.items()}


def effective_rank(features: np.ndarray) -> float:
  """How many directions the features use: exp of the entropy of their spectrum.

  Args:
    features: ``[samples, d]``; their mean is taken away.

  Returns:
    1 to d; NaN of features that are not finite, or all the same.

  References:
    Roy and Vetterli, The effective rank, EUSIPCO 2007, definition 1.
  """
  centered = np.asarray(features, np.float64)
  centered = centered - centered.mean(0)
  if not np.isfinite(centered).all():
    return math.nan
  values = np.linalg.svd(centered, compute_uv=False)
  return float(np.exp(scipy.stats.entropy(values))) if values.any() else math.nan


def hidden_excess(excess: dict[str, float | None], output: str = OUTPUT) -> float:
  """Median over the hidden layers, of a JSON: one may be far off."""
  hidden = [from_json(v) for layer, v in excess.items() if layer != output]
  return float(np.median(hidden))


def full_space_floor(n: int, d: int) -> float:
  """Excess, as measured of hidden layers, where the energy in full space is least.

  That is the regular simplex, whose half-space energy is not the least. An energy in
  full space thus cannot take the excess of a layer below this.

  Args:
    n: neurons, 2 to d + 1; the best two are opposite, whose excess is infinite.
    d: their dimension.
  """
  if not 2 <= n <= d + 1:
    raise ValueError(f"n must be 2 to d + 1 = {d + 1} for a simplex, got {n}.")
  if n == 2:
    return math.inf
  t = -1.0 / (n - 1)  # Cosine of any two.
  pairs = n * (n - 1) * (1.0 / (2.0 - 2.0 * t) + 1.0 / (2.0 + 2.0 * t)) + n / 4.0
  energy = pairs / (n * (2 * n - 1))
  bound = energy_lower_bound(n, d, Riesz(2.0), half_space=True)
  random = uniform_energy(d, Riesz(2.0), half_space=True, n=n)
  return (energy - bound) / (random - bound)
