"""The energy in a whole optimizer: what it costs, and how it is read and steered."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from two_layers import (
  OPTIONS,
  RATE,
  SGD,
  WEIGHT,
  add,
  alone,
  assert_close,
  assert_identical,
  coupled,
  energy,
  gradient,
  make_params,
  scale,
  schedule,
  sgd,
)

from mhe_jax import (
  LayerRule,
  add_hyperspherical_energy,
  network_energy,
  with_decoupled_hyperspherical_energy,
  with_hyperspherical_energy,
)

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


# --- Hyperparameters that are injected: as numbers of the state, or as schedules.


FACTORIES = {
  "alone": (add_hyperspherical_energy, (), add),
  "coupled": (with_hyperspherical_energy, (SGD,), sgd),
  "decoupled": (
    with_decoupled_hyperspherical_energy,
    (optax.identity(), RATE),
    sgd,
  ),
}
NUMBERS = {"weight": WEIGHT, "hidden_weight": 1.0, "output_weight": 0.5}
every_factory = pytest.mark.parametrize("factory", FACTORIES)


def injected(factory, **numbers):
  """A factory under inject_hyperparams, and what it should make of g and e."""
  function, arguments, result = FACTORIES[factory]
  options = OPTIONS | NUMBERS | numbers
  return optax.inject_hyperparams(function)(*arguments, **options), result


def expected_updates(result, params, updates, weight, **of_roles):
  return result(updates, scale(weight, gradient(params, **of_roles)))


@every_factory
@pytest.mark.parametrize("compile", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize(
  "changed",
  [{}, *({name: 0.7} for name in NUMBERS), dict.fromkeys(NUMBERS, 0.0)],
  ids=str,
)
def test_injected_numbers_can_be_changed_in_the_state(factory, compile, changed):
  tx, result = injected(factory)
  params, updates = make_params(), make_params(2)
  state = tx.init(params)
  assert {name: float(state.hyperparams[name]) for name in NUMBERS} == NUMBERS
  for name, value in changed.items():
    state.hyperparams[name] = jnp.asarray(value)
  actual, after = compile(tx.update)(updates, state, params)
  numbers = NUMBERS | changed
  assert_close(actual, expected_updates(result, params, updates, **numbers))
  of_roles = {name: x for name, x in numbers.items() if name != "weight"}
  value = optax.tree.get(after, "energy")
  np.testing.assert_allclose(value, energy(params, **of_roles), rtol=1e-12)
  assert {k: float(after.hyperparams[k]) for k in changed} == changed


@every_factory
@pytest.mark.parametrize("name", NUMBERS)
def test_injected_schedules(factory, name):
  tx, result = injected(factory, **{name: schedule})
  params, updates = make_params(), make_params(2)
  state, update = tx.init(params), jax.jit(tx.update)
  for step in range(3):
    actual, state = update(updates, state, params)
    numbers = NUMBERS | {name: float(schedule(step))}
    assert_close(actual, expected_updates(result, params, updates, **numbers))


@every_factory
@pytest.mark.parametrize("half_space", [True, False])
@pytest.mark.parametrize("compile", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_what_is_no_number_stays_static(factory, half_space, compile):
  function, arguments, _ = FACTORIES[factory]
  options = OPTIONS | NUMBERS | {"half_space": half_space}
  plain, (tx, _) = function(*arguments, **options), injected(factory, **options)
  params, updates = make_params(), make_params(2)
  state = tx.init(params)
  assert not {"half_space", "rules", "potential"} & set(state.hyperparams)
  actual, _ = compile(tx.update)(updates, state, params)
  assert_close(actual, plain.update(updates, plain.init(params), params)[0])


@every_factory
def test_arguments_by_position(factory):
  """And nothing but what is given: every option has its default."""
  function, arguments, _ = FACTORIES[factory]
  arguments = (*arguments, WEIGHT, OPTIONS["potential"])
  plain, tx = function(*arguments), optax.inject_hyperparams(function)(*arguments)
  params, updates = make_params(), make_params(2)
  actual, _ = tx.update(updates, tx.init(params), params)
  assert_close(actual, plain.update(updates, plain.init(params), params)[0])


def test_every_factory_spells_out_the_same_options():
  def options(function):
    parameters = inspect.signature(function).parameters.values()
    return [str(p) for p in parameters if p.kind is p.KEYWORD_ONLY]

  first, *others = (options(function) for function, _, _ in FACTORIES.values())
  assert len(first) == 4
  assert all(other == first for other in others)
