"""The energy in a whole optimizer: what it costs, and what goes in."""

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
  TARGET,
  WEIGHT,
  add,
  alone,
  assert_close,
  assert_identical,
  coupled,
  decoupled,
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
  # The layers' energies are part of the state: summed, not evaluated again.
  assert flops_of_update(alone(weight)) == pytest.approx(value, abs=20)
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
  assert len(first) == 5
  assert all(other == first for other in others)


# --- Optimizers that are given the value of the loss, or evaluate it themselves.


def data_loss(params):
  squares = jax.tree.map(lambda x, y: jnp.sum((x - y) ** 2) / 2, params, TARGET)
  return sum(jax.tree.leaves(squares))


def whole_loss(params, weight):
  return data_loss(params) + weight * energy(params)


# Several steps of each, from where the value decides how far they go.
USERS_OF_THE_VALUE = {
  "polyak": optax.polyak_sgd(max_learning_rate=10.0, f_min=-1.0),
  "momo": optax.contrib.momo(1.0),
  "momo_adam": optax.contrib.momo_adam(0.5),
  "chain": optax.chain(optax.clip_by_global_norm(3.0), optax.polyak_sgd(10.0)),
  "plateau": optax.chain(
    optax.sgd(0.3), optax.contrib.reduce_on_plateau(factor=0.5, patience=1, rtol=0.5)
  ),
}


@pytest.mark.usefixtures("as_users")
@pytest.mark.parametrize("weight", [5.0, schedule], ids=["float", "schedule"])
@pytest.mark.parametrize("optimizer", USERS_OF_THE_VALUE)
def test_the_value_of_the_loss_has_the_energy_in_it(optimizer, weight):
  optimizer = USERS_OF_THE_VALUE[optimizer]
  tx = coupled(optimizer, weight)
  weight_at = weight if callable(weight) else lambda step: weight

  @jax.jit
  def step(k, params, state, plain, plain_state, blind, blind_state):
    value, grads = jax.value_and_grad(data_loss)(params)
    updates, state = tx.update(grads, state, params, value=value)
    total, total_grads = jax.value_and_grad(whole_loss)(plain, weight_at(k))
    expected, plain_state = optimizer.update(
      total_grads, plain_state, plain, value=total
    )
    value, total_grads = data_loss(blind), jax.grad(whole_loss)(blind, weight_at(k))
    without, blind_state = optimizer.update(
      total_grads, blind_state, blind, value=value
    )
    apply = optax.apply_updates
    return (
      apply(params, updates),
      state,
      apply(plain, expected),
      plain_state,
      apply(blind, without),
      blind_state,
    )

  params = make_params()
  plain_state = optimizer.init(params)
  carry = (params, tx.init(params), params, plain_state, params, plain_state)
  for k in range(5):
    carry = step(float(k), *carry)
    assert_close(carry[0], carry[2], 1e-10)
  blind = [np.allclose(*x) for x in zip(*map(jax.tree.leaves, (carry[2], carry[4])))]
  assert not all(blind)  # Or the value would not matter, and the test be blind.


@pytest.mark.usefixtures("as_users")
@pytest.mark.parametrize(
  "value", [2, 2.0, np.float32(2.0), jnp.bfloat16(2.0)], ids=repr
)
def test_the_value_may_be_any_number(value):
  given = []

  def update(updates, state, params=None, *, value, **extra_args):
    given.append((value, extra_args))
    return updates, state

  spy = optax.GradientTransformationExtraArgs(lambda params: (), update)
  params = make_params(dtypes=("float32", "float32"))
  tx = coupled(spy, WEIGHT)
  _, state = tx.update(params, tx.init(params), params, value=value, note="text")
  ((total, others),) = given
  assert others == {"note": "text"}
  assert jnp.issubdtype(total.dtype, jnp.floating)
  expected = 2.0 + WEIGHT * optax.tree.get(state, "energy")
  tolerance = max(1e-7, float(jnp.finfo(total.dtype).eps))
  np.testing.assert_allclose(total, expected, rtol=tolerance)
  _, state = tx.update(params, tx.init(params), params, value=None)
  assert given[-1][0] is None


SEARCH = optax.scale_by_backtracking_linesearch(10)
EVALUATORS = {
  "lbfgs": (optax.lbfgs(), "value_fn"),
  "zoom": (optax.chain(SGD, optax.scale_by_zoom_linesearch(10)), "value_fn"),
  "backtracking": (optax.chain(SGD, SEARCH), "value_fn"),
  "sam": (optax.contrib.sam(SGD, SGD, opaque_mode=True), "grad_fn"),
  "sophia": (optax.contrib.sophia(0.1), "obj_fn"),
}


def loss_of_batch(params, shift):
  return data_loss(params) + shift


def arguments_of(name, params):
  """Of update, for an optimizer that evaluates the loss."""
  if name == "grad_fn":
    return {name: lambda p, step: jax.grad(data_loss)(p)}
  if name == "obj_fn":
    return {name: data_loss}
  value, grad = jax.value_and_grad(data_loss)(params)
  return {"value": value, "grad": grad, "value_fn": loss_of_batch, "shift": 0.0}


@pytest.mark.usefixtures("as_users")
@pytest.mark.parametrize("name", EVALUATORS)
def test_an_optimizer_that_evaluates_the_loss_is_told(name):
  optimizer, argument = EVALUATORS[name]
  params = make_params()

  def update(tx, state, params):
    return tx.update(params, state, params, **arguments_of(argument, params))

  def step(tx):
    return jax.jit(functools.partial(update, tx))(tx.init(params), params)

  message = (
    rf"{argument}, which has no energy in it.*weight \* network_energy\(params\)"
  )
  with pytest.raises(ValueError, match=message):
    step(coupled(optimizer, WEIGHT))
  # Not who does not call it, nor where there is no energy to miss.
  if argument == "value_fn":
    step(coupled(SGD, WEIGHT))
  expected, _ = step(optimizer)
  for tx in (coupled(optimizer, 0.0), optax.chain(alone(0.0), optimizer)):
    assert_close(step(tx)[0], expected)


@pytest.mark.usefixtures("as_users")
def test_lbfgs_on_a_loss_with_the_energy_in_it():
  """What the error recommends, with a transformation that only monitors."""
  loss = functools.partial(whole_loss, weight=WEIGHT)
  tx = optax.chain(alone(0.0), optax.lbfgs())
  value_and_grad = optax.value_and_grad_from_state(loss)

  @jax.jit
  def step(params, state):
    value, grad = value_and_grad(params, state=state)
    updates, state = tx.update(
      grad, state, params, value=value, grad=grad, value_fn=loss
    )
    return optax.apply_updates(params, updates), state

  params = make_params()
  state = tx.init(params)
  for _ in range(15):
    before, (params, state) = params, step(params, state)
  assert optax.tree.norm(jax.grad(loss)(params)) < 1e-5
  np.testing.assert_allclose(state[0].energy, energy(before), rtol=1e-12)


@pytest.mark.usefixtures("as_users")
def test_decoupled_from_the_value_too():
  polyak = optax.scale_by_polyak(max_learning_rate=10.0)
  tx = decoupled(polyak, RATE, WEIGHT)
  params = make_params()
  value, grads = jax.value_and_grad(data_loss)(params)
  updates, _ = tx.update(grads, tx.init(params), params, value=value)
  direction, _ = polyak.update(grads, polyak.init(params), params, value=value)
  assert_close(updates, sgd(direction, scale(WEIGHT, gradient(params))))
