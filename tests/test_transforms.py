"""The energy inside optax: what every transformation around it makes of it."""

import dataclasses
import functools
from collections.abc import Callable

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
  body_energy,
  coupled,
  data_gradient,
  decoupled,
  energy,
  gradient,
  in_float64,
  make_params,
  scale,
  schedule,
  sgd,
)

from mhe_jax import LayerRule, add_hyperspherical_energy

DECAY, NORM, NUM_STEPS = 0.01, 0.7, 4


def clip(tree):
  norm = np.sqrt(sum(np.sum(np.square(x)) for x in jax.tree.leaves(tree)))
  assert norm > NORM  # Or the test would not see the clipping.
  return scale(NORM / norm, tree)


# --- Chains: what each does to the data gradient g and the energy's gradient e.


injected = optax.inject_hyperparams(alone)
# optax takes a prefix of the tree; a masked branch is one MaskedNode then.
IS_BODY = {"body": True, "head": False}
LABELS = {"body": "hidden", "head": "frozen"}


def spread(prefix):
  """The same for every leaf, as a callable."""
  return lambda params: {
    name: jax.tree.map(lambda _, value=value: value, params[name])
    for name, value in prefix.items()
    if name in params
  }


def of_body(tree):
  return {"body": tree["body"], "head": scale(0.0, tree["head"])}


def partition(labels):
  hidden = coupled(SGD, WEIGHT)
  return optax.partition({"hidden": hidden, "frozen": optax.set_to_zero()}, labels)


@dataclasses.dataclass
class Case:
  name: str
  tx: optax.GradientTransformation
  updates: Callable  # of (g, weight * e, params, step)
  weight: Callable = lambda step: WEIGHT
  energy: Callable = energy
  # optax's own arithmetic mixes dtypes in places.
  promotion: str = "strict"

  def step(self, params, state):
    with jax.numpy_dtype_promotion(self.promotion):
      updates, state = self.tx.update(data_gradient(params), state, params)
    return optax.apply_updates(params, updates), state

  def expected_step(self, params, step):
    e = scale(self.weight(step), gradient(params))
    return add(params, self.updates(data_gradient(params), e, params, step))


chain = optax.chain
CLIP = optax.clip_by_global_norm(NORM)
MASKED = {"updates": lambda g, e, p, k: sgd(g, of_body(e)), "energy": body_energy}
FROZEN = {"updates": lambda g, e, p, k: of_body(sgd(g, e)), "energy": body_energy}
CASES = [
  Case("alone", alone(WEIGHT), lambda g, e, p, k: add(g, e)),
  Case("coupled", coupled(SGD, WEIGHT), lambda g, e, p, k: sgd(g, e)),
  Case(
    "decoupled",
    decoupled(optax.scale(2.0), RATE, WEIGHT),
    lambda g, e, p, k: sgd(g, g, e),
  ),
  Case("scheduled", coupled(SGD, schedule), lambda g, e, p, k: sgd(g, e), schedule),
  Case(
    "clip_before",
    chain(CLIP, coupled(SGD, WEIGHT)),
    lambda g, e, p, k: sgd(clip(g), e),
  ),
  Case(
    "clip_after",
    chain(alone(WEIGHT), CLIP, SGD),
    lambda g, e, p, k: sgd(clip(add(g, e))),
  ),
  Case(
    "weight_decay",
    chain(alone(WEIGHT), optax.add_decayed_weights(DECAY), SGD),
    lambda g, e, p, k: sgd(g, e, scale(DECAY, p)),
  ),
  Case("masked_prefix", chain(optax.masked(alone(WEIGHT), IS_BODY), SGD), **MASKED),
  Case(
    "masked_callable",
    chain(optax.masked(alone(WEIGHT), spread(IS_BODY)), SGD),
    **MASKED,
  ),
  Case("partition_prefix", partition(LABELS), **FROZEN),
  Case("partition_callable", partition(spread(LABELS)), **FROZEN),
  Case(
    "inject_float",
    chain(injected(weight=WEIGHT), SGD),
    lambda g, e, p, k: sgd(g, e),
  ),
  Case(
    "inject_schedule",
    chain(injected(weight=schedule), SGD),
    lambda g, e, p, k: sgd(g, e),
    schedule,
  ),
  Case(
    "apply_if_finite",
    optax.apply_if_finite(coupled(SGD, WEIGHT), 3),
    lambda g, e, p, k: sgd(g, e),
  ),
  # Every other step only accumulates; the parameters, and thus g, stay as they are.
  Case(
    "multi_steps",
    optax.MultiSteps(
      coupled(SGD, WEIGHT), 2, accumulator_dtype=jnp.float64
    ).gradient_transformation(),
    lambda g, e, p, k: scale(float(k % 2), sgd(g, e)),
    promotion="standard",
  ),
]
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@every_case
@pytest.mark.parametrize("how", ["eager", "scan"])
def test_steps_of_a_chain(case, how):
  params = make_params()
  state = case.tx.init(params)
  if how == "scan":
    final, state = jax.jit(
      lambda *carry: jax.lax.scan(
        lambda carry, _: (case.step(*carry), None), carry, length=NUM_STEPS
      )[0]
    )(params, state)
  else:
    final = params
    for _ in range(NUM_STEPS):
      final, state = case.step(final, state)
  expected = params
  for k in range(NUM_STEPS):
    before, expected = expected, case.expected_step(expected, k)
  assert_close(final, expected)
  np.testing.assert_allclose(
    optax.tree.get(state, "energy"), case.energy(before), rtol=1e-12
  )


@every_case
def test_state_keeps_its_form(case):
  params = make_params()
  state = case.tx.init(params)
  abstract = jax.eval_shape(case.tx.init, params)
  _, after = jax.eval_shape(case.step, params, state)
  form = functools.partial(jax.tree.map, lambda x: (x.shape, str(x.dtype)))
  assert form(state) == form(abstract) == form(after)
  assert jax.tree.structure(state) == jax.tree.structure(abstract)
  assert jax.tree.structure(state) == jax.tree.structure(after)


@every_case
def test_params_are_needed(case):
  params = make_params()
  with (
    jax.numpy_dtype_promotion(case.promotion),
    pytest.raises(ValueError, match=r"param.* calling `update`|params was None"),
  ):
    case.tx.update(params, case.tx.init(params))


def test_own_state_is_strongly_typed_and_counts():
  """A weak type that turns strong would make every jitted step compile twice."""
  params = make_params()
  state = alone(WEIGHT).init(params)
  assert (int(state.count), float(state.energy)) == (0, 0.0)
  _, after = jax.jit(alone(WEIGHT).update)(params, state, params)
  assert int(after.count) == 1
  assert jax.tree.structure(state) == jax.tree.structure(after)
  leaves = [[jax.typeof(x) for x in jax.tree.leaves(tree)] for tree in (state, after)]
  assert leaves[0] == leaves[1]


# --- Meaning.


@pytest.mark.usefixtures("as_users")
@pytest.mark.parametrize("weight", [WEIGHT, schedule], ids=["float", "schedule"])
@pytest.mark.parametrize(
  "optimizer",
  [optax.sgd(0.05, momentum=0.9), optax.adam(0.05), optax.adamw(0.05)],
  ids=["momentum", "adam", "adamw"],
)
def test_coupled_is_the_energy_in_the_loss(optimizer, weight):
  tx = coupled(optimizer, weight)
  weight_at = weight if callable(weight) else lambda step: weight

  @jax.jit
  def step(step, params, state, plain, plain_state):
    updates, state = tx.update(data_gradient(params), state, params)
    grads = add(data_gradient(plain), scale(weight_at(step), jax.grad(energy)(plain)))
    plain_updates, plain_state = optimizer.update(grads, plain_state, plain)
    return (
      optax.apply_updates(params, updates),
      state,
      optax.apply_updates(plain, plain_updates),
      plain_state,
    )

  params = make_params()
  carry = (params, tx.init(params), params, optimizer.init(params))
  for k in range(12):
    carry = step(float(k), *carry)
    assert_close(carry[0], carry[2])


@pytest.mark.usefixtures("as_users")
@pytest.mark.parametrize("rate", [RATE, schedule], ids=["float", "schedule"])
def test_decoupled_leaves_the_moments_alone(rate):
  tx = decoupled(optax.scale_by_adam(), rate, WEIGHT)
  adam = optax.scale_by_adam()
  update, plain_update = jax.jit(tx.update), jax.jit(adam.update)
  params = make_params()
  state, plain_state = tx.init(params), adam.init(params)
  for k in range(3):
    grads = make_params(seed=10 + k)
    updates, state = update(grads, state, params)
    direction, plain_state = plain_update(grads, plain_state, params)
    for moment in ("mu", "nu"):
      assert_close(
        optax.tree.get(state, moment), optax.tree.get(plain_state, moment), 1e-15
      )
    factor = -(rate(k) if callable(rate) else rate)
    expected = scale(factor, add(direction, scale(WEIGHT, gradient(params))))
    assert_close(updates, expected)
    params = optax.apply_updates(params, updates)


@pytest.mark.parametrize("hidden_weight", [0.0, 2.0])
@pytest.mark.parametrize("output_weight", [0.0, 0.7])
def test_weights_of_the_roles(hidden_weight, output_weight):
  weights = {"hidden_weight": hidden_weight, "output_weight": output_weight}
  tx = add_hyperspherical_energy(WEIGHT, **(OPTIONS | weights))
  params, updates = make_params(), make_params(2)
  actual, state = tx.update(updates, tx.init(params), params)
  assert_close(actual, add(updates, scale(WEIGHT, gradient(params, **weights))))
  np.testing.assert_allclose(state.energy, energy(params, **weights), rtol=1e-12)


def test_what_has_no_neurons_or_is_skipped_is_untouched():
  rules = (LayerRule("head/.*", role="skip"),)
  tx = add_hyperspherical_energy(WEIGHT, OPTIONS["potential"], rules=rules)
  params, updates = make_params(), make_params(2)
  actual, state = tx.update(updates, tx.init(params), params)
  assert_identical(actual["head"], updates["head"])
  assert_identical(actual["body"]["bias"], updates["body"]["bias"])
  assert not np.allclose(actual["body"]["kernel"], updates["body"]["kernel"])
  np.testing.assert_allclose(state.energy, body_energy(params), rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weight", [0.0, lambda step: 0.0], ids=["float", "schedule"])
def test_weight_zero_only_reports(weight, dtype):
  """Also where the updates are of higher precision than the parameters."""
  params, updates = make_params(dtypes=(dtype, dtype)), make_params(2)
  tx = alone(weight)
  actual, state = tx.update(updates, tx.init(params), params)
  assert_identical(actual, updates)
  expected = energy(in_float64(params))
  np.testing.assert_allclose(state.energy, expected, rtol=1e-5)


def test_a_schedule_is_called_with_the_number_of_updates_so_far():
  steps = []

  def record(step):
    steps.append(int(step))
    return 0.1

  params = make_params()
  tx = alone(record)
  state = tx.init(params)
  for _ in range(3):
    _, state = tx.update(params, state, params)
  assert steps == [0, 1, 2]
  assert int(state.count) == 3


@pytest.mark.parametrize(
  "result", [1, np.float64(1.0), jnp.ones((), jnp.bfloat16)], ids=["int", "np", "bf16"]
)
def test_a_schedule_may_return_any_number(result):
  params = make_params(dtypes=("float32", "float32"))
  tx = alone(lambda step: result)
  actual, _ = tx.update(params, tx.init(params), params)
  assert_identical(actual, alone(1.0).update(params, tx.init(params), params)[0])


def test_a_weight_may_be_traced():
  """As in a vmapped sweep over weights."""
  params, weights = make_params(), jnp.array([0.0, 0.5])
  state = alone(1.0).init(params)
  swept, _ = jax.vmap(lambda w: alone(w).update(params, state, params))(weights)
  for i, weight in enumerate(weights):
    expected = add(params, scale(weight, gradient(params)))
    assert_close(jax.tree.map(lambda x, i=i: x[i], swept), expected)


def test_extra_arguments_are_ignored():
  params = make_params()
  tx = coupled(SGD, WEIGHT)
  state = tx.init(params)
  with_extra, _ = tx.update(params, state, params, value=1.0, note="text")
  assert_identical(with_extra, tx.update(params, state, params)[0])


def test_a_rejected_step_leaves_the_reported_energy():
  params = make_params()
  tx = optax.apply_if_finite(coupled(SGD, WEIGHT), 3)
  _, state = tx.update(params, tx.init(params), params)
  nan = scale(np.nan, params)
  updates, after = tx.update(nan, state, scale(2.0, TARGET))
  assert_identical(updates, scale(0.0, params))
  assert float(optax.tree.get(after, "energy")) == optax.tree.get(state, "energy")
