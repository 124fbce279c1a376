"""Muon with the axes of rules is Muon with axes by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers, muon
from sets import normal32

from mhe_jax import LayerRule, layer_rules, muon_dimension_numbers

pytestmark = pytest.mark.usefixtures("as_users")


def apply(params, x):
  x = jnp.einsum("bf,fhd->bhd", x, params["query"])
  x = jnp.einsum("bhd,ohd->bo", x, params["out"])
  x, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params["blocks"])
  return x @ params["head"] + params["bias"][None]


PARAMS = {
  "query": normal32(6, 2, 4),
  "out": normal32(6, 2, 4, seed=1),
  "blocks": normal32(3, 6, 6, seed=2),
  "head": normal32(6, 5, seed=3),
  "bias": normal32(5, seed=4),
}
BY_HAND = {
  "query": MuonDimensionNumbers((0,), (1, 2)),
  "out": MuonDimensionNumbers((1, 2), (0,)),
  "blocks": MuonDimensionNumbers((1,), (2,)),
  "head": None,
  "bias": None,
}


def steps(numbers):
  tx = muon(0.1, muon_weight_dimension_numbers=numbers)
  params, state = PARAMS, tx.init(PARAMS)
  grads = jax.grad(lambda p: jnp.mean(apply(p, normal32(7, 6)) ** 2))
  for _ in range(2):
    updates, state = tx.update(grads(params), state, params)
    params = optax.apply_updates(params, updates)
  return params


def test_muon_with_rules_is_muon_with_numbers_by_hand():
  rules = layer_rules(apply, PARAMS, normal32(7, 6))
  numbers = muon_dimension_numbers(rules)
  assert numbers(PARAMS) == BY_HAND
  jax.tree.map(np.testing.assert_array_equal, steps(numbers), steps(BY_HAND))


def test_what_is_excluded_goes_to_adam():
  rules = layer_rules(apply, PARAMS, normal32(7, 6))
  numbers = muon_dimension_numbers(rules, exclude="que.*|out")
  assert numbers(PARAMS) == BY_HAND | {"query": None, "out": None}


def test_arguments():
  with pytest.raises(TypeError, match="rules must be"):
    muon_dimension_numbers("kernel")
  with pytest.raises(ValueError, match=r"exclude '\(' is no regular"):
    muon_dimension_numbers([LayerRule(".*")], exclude="(")
