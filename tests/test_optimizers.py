"""The energy in a whole optimizer: what it costs, and how it is read and steered."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from two_layers import (
  OPTIONS,
  SGD,
  WEIGHT,
  alone,
  assert_identical,
  coupled,
  make_params,
)

from mhe_jax import LayerRule, network_energy

# --- Cost.


def wide_params():
  rng = np.random.default_rng(0)
  shapes = {"body": (64, 48), "head": (48, 32)}
  return {
    name: {"kernel": jnp.asarray(rng.normal(size=shape))}
    for name, shape in shapes.items()
  }


def flops(function, *args):
  return jax.jit(function).lower(*args).compile().cost_analysis()["flops"]


def flops_of_update(tx, updates=None):
  params = wide_params()
  return flops(tx.update, updates or params, tx.init(params), params)


def flops_of_energy(**options):
  return flops(functools.partial(network_energy, **(OPTIONS | options)), wide_params())


@pytest.mark.parametrize("weight", [0, 0.0, np.float32(0.0)], ids=repr)
def test_monitoring_costs_the_energy_alone(weight):
  value = flops_of_energy()
  assert value <= flops_of_update(alone(weight)) <= value + 10
  assert flops_of_update(alone(WEIGHT)) > 2 * value


ZERO_ROLES = [
  {"hidden_weight": 0.0},
  {"output_weight": 0.0},
  {"rules": (LayerRule("head/kernel", role="output"), LayerRule(".*", weight=0.0))},
]


@pytest.mark.parametrize("options", ZERO_ROLES, ids=lambda x: next(iter(x)))
def test_a_layer_of_weight_zero_costs_nothing(options):
  """As much as where the layer is skipped; what is added to is not even copied."""
  skipped = "head/kernel" if "output_weight" in options else "body/kernel"
  rules = (LayerRule(skipped, role="skip"), *OPTIONS["rules"])
  rules = rules[:1] if "output_weight" in options else rules
  without = flops_of_update(alone(WEIGHT, rules=rules))
  assert without <= flops_of_update(alone(WEIGHT, **options)) <= without + 10


def test_a_frozen_layer_costs_its_energy_alone():
  updates = wide_params() | {"body": {"kernel": None}}
  body = flops_of_energy(output_weight=0.0)
  head = flops_of_update(alone(WEIGHT, hidden_weight=0.0))
  cost = flops_of_update(alone(WEIGHT), updates)
  assert body + head - 10 <= cost <= body + head + 10


@pytest.mark.parametrize("optimizer", [SGD, optax.identity()], ids=["sgd", "none"])
def test_a_monitored_nan_is_told_but_not_passed_on(optimizer):
  params, updates = make_params(), make_params(2)
  params["body"]["kernel"] = jnp.full_like(params["body"]["kernel"], np.nan)
  tx = coupled(optimizer, 0.0)
  actual, state = tx.update(updates, tx.init(params), params)
  assert np.isnan(optax.tree.get(state, "energy"))
  assert_identical(actual, optimizer.update(updates, optimizer.init(params))[0])


@pytest.mark.parametrize("options", ZERO_ROLES, ids=lambda x: next(iter(x)))
def test_a_nan_in_a_layer_of_weight_zero_does_not_count(options):
  params, updates = make_params(), make_params(2)
  tx = alone(WEIGHT, **options)
  expected, expected_state = tx.update(updates, tx.init(params), params)
  name = "head" if "output_weight" in options else "body"
  params[name]["kernel"] = jnp.full_like(params[name]["kernel"], np.nan)
  actual, state = tx.update(updates, tx.init(params), params)
  assert_identical(actual, expected)
  assert_identical(state, expected_state)
  assert_identical(actual[name], updates[name])
