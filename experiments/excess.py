"""Redundancy of layers: one measure, whatever the regularizer is."""

import functools
from typing import Any

import jax
import numpy as np

from experiments.models import OUTPUT
from experiments.runs.results import from_json
from mhe_jax import LayerRule, Riesz, layer_excess


@functools.partial(jax.jit, static_argnames="output")
def excess(params: Any, output: str = OUTPUT) -> dict[str, jax.Array]:
  """Relative excess of each layer, s = 2; in half-space, but of the output layer.

  Args:
    params: of a network.
    output: path of the output layer's kernel.
  """
  rules = (LayerRule(output, role="output"),)
  return layer_excess(params, Riesz(2.0), rules=rules)


def hidden_excess(excess: dict[str, float | None], output: str = OUTPUT) -> float:
  """Median over the hidden layers, of a JSON: one may be far off."""
  hidden = [from_json(v) for layer, v in excess.items() if layer != output]
  return float(np.median(hidden))
