"""The energy inside optax: every transformation around it, every form of its input.

The judge is the energy written out pair by pair, differentiated by JAX in float64.
"""

import dataclasses
import functools
import re
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mhe_jax import (
  LayerRule,
  NeuronAxes,
  Riesz,
  add_hyperspherical_energy,
  network_energy,
  with_decoupled_hyperspherical_energy,
  with_hyperspherical_energy,
)

WEIGHT, RATE, DECAY, NORM, NUM_STEPS = 0.3, 0.1, 0.01, 0.7, 4
OUTPUT_WEIGHT = 0.5
OPTIONS = {
  "potential": Riesz(2.0),
  "output_weight": OUTPUT_WEIGHT,
  "rules": (LayerRule("head/kernel", role="output"),),
}


def make_params(seed=0, dtypes=("float64", "float64")):
  rng = np.random.default_rng(seed)

  def layer(d, n, dtype):
    return {
      "kernel": jnp.asarray(rng.normal(size=(d, n)), dtype),
      "bias": jnp.asarray(rng.normal(size=n), dtype),
    }

  return {"body": layer(4, 6, dtypes[0]), "head": layer(6, 3, dtypes[1])}


TARGET = make_params(1)


def data_gradient(params):
  """Of half the squared distance to a target."""
  return jax.tree.map(jnp.subtract, params, TARGET)


def mean_pair_energy(kernel, half_space):
  units = kernel.T / jnp.linalg.norm(kernel.T, axis=-1, keepdims=True)
  if half_space:
    units = jnp.concatenate([units, -units])
  i, j = np.triu_indices(len(units), 1)
  return jnp.mean(1 / jnp.sum((units[i] - units[j]) ** 2, -1))


@jax.jit
def energy(params, hidden_weight=1.0, output_weight=OUTPUT_WEIGHT):
  hidden = mean_pair_energy(params["body"]["kernel"], half_space=True)
  output = mean_pair_energy(params["head"]["kernel"], half_space=False)
  return hidden_weight * hidden + output_weight * output


gradient = jax.jit(jax.grad(energy))
body_energy = functools.partial(energy, output_weight=0.0)


def in_float64(tree):
  return jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), tree)


def add(*trees):
  return jax.tree.map(lambda *x: sum(x), *trees)


def scale(factor, tree):
  return jax.tree.map(lambda x: factor * x, tree)


def clip(tree):
  norm = np.sqrt(sum(np.sum(np.square(x)) for x in jax.tree.leaves(tree)))
  assert norm > NORM  # Or the test would not see the clipping.
  return scale(NORM / norm, tree)


def assert_close(actual, expected, tolerance=1e-12):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance),
    actual,
    expected,
  )


def assert_identical(actual, expected):
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


@pytest.fixture
def standard_promotion():
  """For optimizers that mix dtypes themselves: Adam raises a float to an integer."""
  with jax.numpy_dtype_promotion("standard"):
    yield


# --- Chains: what each does to the data gradient g and the energy's gradient e.


def schedule(step):
  return 0.5 * 0.9 ** jnp.asarray(step, jnp.float64)


alone = functools.partial(add_hyperspherical_energy, **OPTIONS)
coupled = functools.partial(with_hyperspherical_energy, **OPTIONS)
decoupled = functools.partial(with_decoupled_hyperspherical_energy, **OPTIONS)
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


def sgd(*terms):
  return scale(-RATE, add(*terms))


chain = optax.chain
SGD = optax.sgd(RATE)
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
  assert jax.tree.map(jax.typeof, state) == jax.tree.map(jax.typeof, after)


# --- Meaning.


@pytest.mark.usefixtures("standard_promotion")
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


@pytest.mark.usefixtures("standard_promotion")
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


# --- Dtypes.


@pytest.mark.parametrize(
  ("dtypes", "energy_dtype"),
  [
    (("bfloat16", "bfloat16"), "float32"),
    (("float16", "float16"), "float32"),
    (("float32", "float32"), "float32"),
    (("float64", "float64"), "float64"),
    (("bfloat16", "float16"), "float32"),
    (("bfloat16", "float32"), "float32"),
    (("float32", "float64"), "float64"),
    (("bfloat16", "float64"), "float64"),
  ],
  ids=lambda x: "-".join(x) if isinstance(x, tuple) else None,
)
def test_dtypes(dtypes, energy_dtype):
  params, updates = make_params(dtypes=dtypes), make_params(2, dtypes)
  tx = alone(WEIGHT)
  state = tx.init(params)
  actual, after = jax.jit(tx.update)(updates, state, params)
  assert state.energy.dtype == after.energy.dtype == energy_dtype
  value, grads = energy(in_float64(params)), gradient(in_float64(params))
  tolerance = 10 * float(jnp.finfo(energy_dtype).eps)
  # The sum over layers may be no better than its least precise layer.
  tolerance = 1e-5 if "float64" in dtypes and dtypes[0] != dtypes[1] else tolerance
  np.testing.assert_allclose(after.energy, value, rtol=tolerance)
  for name, dtype in zip(("body", "head"), dtypes):
    update, grad = updates[name]["kernel"], WEIGHT * grads[name]["kernel"]
    got = actual[name]["kernel"]
    assert got.dtype == dtype
    exact = update.astype(jnp.float64) + grad
    # The gradient and the sum are rounded to the dtype once each.
    bound = jnp.finfo(dtype).eps * (np.abs(exact) + np.abs(grad)) / 2
    computed = 1e-13 if dtype == "float64" else 1e-6
    np.testing.assert_array_less(
      np.abs(got.astype(jnp.float64) - exact), bound + computed
    )
    assert_identical(actual[name]["bias"], updates[name]["bias"])


def test_small_float16_weights_do_not_overflow_the_update():
  """The gradient scales as one over the norm; the weight brings it into range."""
  params = make_params(dtypes=("float16", "float16"))
  params["body"]["kernel"] = (params["body"]["kernel"] * 1e-6).astype(jnp.float16)
  tx = alone(1e-3)
  updates, _ = tx.update(scale(0.0, params), tx.init(params), params)
  grads = 1e-3 * gradient(in_float64(params))["body"]["kernel"]
  assert np.abs(grads).max() > 65504e-3  # Unweighted it is beyond float16.
  np.testing.assert_allclose(updates["body"]["kernel"], grads, rtol=2e-3, atol=1e-2)


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_injected_weight_in_a_bfloat16_model(dtype):
  """optax casts it to the parameters' dtype unless told otherwise."""
  params = make_params(dtypes=("bfloat16", "bfloat16"))
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), params)
  inject = optax.inject_hyperparams(
    add_hyperspherical_energy, hyperparam_dtype=dtype and jnp.dtype(dtype)
  )
  tx = inject(weight=WEIGHT, **OPTIONS)
  updates, state = tx.update(zeros, tx.init(params), params)
  weight = state.hyperparams["weight"]
  assert weight.dtype == (dtype or "bfloat16")
  assert (float(weight) == np.float32(WEIGHT)) == (dtype == "float32")
  unscaled, _ = alone(1.0).update(zeros, alone(1.0).init(params), params)
  assert_close(updates, scale(weight.astype(jnp.float32), unscaled), 1e-7)


# --- Trees.


@pytest.mark.parametrize(
  ("leaf", "update"),
  [
    (jnp.arange(6).reshape(2, 3), jnp.ones((2, 3), jnp.int64)),
    (jnp.arange(6).reshape(2, 3), np.zeros((2, 3), jax.dtypes.float0)),
    (None, None),
    (jax.nn.relu, None),
    ("text", None),
    (optax.MaskedNode(), optax.MaskedNode()),
  ],
  ids=["integers", "float0", "none", "function", "string", "masked"],
)
def test_leaves_that_hold_no_neurons_pass_through(leaf, update):
  params, updates = make_params(), make_params(2)
  tx = alone(WEIGHT)
  expected, expected_state = tx.update(updates, tx.init(params), params)
  params["body"]["extra"], updates["body"]["extra"] = leaf, update
  actual, state = tx.update(updates, tx.init(params), params)
  extra = actual["body"].pop("extra")
  assert extra is update or np.array_equal(extra, update)
  assert_identical(actual, expected)
  assert_identical(state, expected_state)


@pytest.mark.parametrize("frozen", [None, optax.MaskedNode()], ids=["none", "masked"])
def test_layer_without_an_update_still_counts(frozen):
  params, updates = make_params(), make_params(2)
  expected = add(updates, scale(WEIGHT, gradient(params)))
  updates["head"]["kernel"] = frozen
  actual, state = alone(WEIGHT).update(updates, alone(WEIGHT).init(params), params)
  assert actual["head"].pop("kernel") == frozen
  del expected["head"]["kernel"]
  assert_close(actual, expected)
  np.testing.assert_allclose(state.energy, energy(params), rtol=1e-12)


def test_equinox_module(key):
  mlp = eqx.nn.MLP(4, 3, 6, 1, key=key)
  params = eqx.filter(mlp, eqx.is_array)
  rules = [
    LayerRule("layers/1/weight", NeuronAxes(0), role="output"),
    LayerRule(".*/weight", NeuronAxes(0)),
  ]
  tx = with_hyperspherical_energy(SGD, WEIGHT, **(OPTIONS | {"rules": rules}))
  state = tx.init(params)

  @eqx.filter_jit
  def update(model, state):
    grads = eqx.filter_grad(lambda m: jnp.sum(m(jnp.ones(4)) ** 2))(model)
    return tx.update(grads, state, eqx.filter(model, eqx.is_array))[1]

  state = update(mlp, state)
  hidden, output = (layer.weight.T for layer in mlp.layers)
  expected = energy({"body": {"kernel": hidden}, "head": {"kernel": output}})
  np.testing.assert_allclose(optax.tree.get(state, "energy"), expected, rtol=1e-6)
  zeros = jax.tree.map(jnp.zeros_like, params)
  updates, _ = tx.update(zeros, state, params)
  grad = jax.jit(jax.grad(mean_pair_energy), static_argnums=1)(hidden, True)
  np.testing.assert_allclose(
    updates.layers[0].weight, -RATE * WEIGHT * grad.T, rtol=1e-5, atol=1e-7
  )


@pytest.mark.parametrize("spec", [("x", None), (None, "x")], ids=["rows", "columns"])
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_sharded_parameters(spec, axis_type):
  mesh = jax.make_mesh((8,), ("x",), axis_types=(axis_type,))
  sharding = NamedSharding(mesh, PartitionSpec(*spec))
  rng = np.random.default_rng(0)
  params = {
    "body": {"kernel": jnp.asarray(rng.normal(size=(8, 16)))},
    "head": {"kernel": jnp.asarray(rng.normal(size=(16, 8)))},
  }
  sharded = jax.device_put(params, sharding)
  tx = coupled(SGD, WEIGHT)
  actual, state = jax.jit(tx.update)(sharded, tx.init(sharded), sharded)
  assert_close(actual, sgd(params, scale(WEIGHT, gradient(params))))
  np.testing.assert_allclose(
    optax.tree.get(state, "energy"), energy(params), rtol=1e-12
  )
  for leaf in jax.tree.leaves(actual):
    assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)


# --- Errors.


@pytest.mark.parametrize("name", ["weight", "hidden_weight", "output_weight"])
@pytest.mark.parametrize(
  ("value", "error"),
  [
    (float("nan"), ValueError),
    (-0.1, ValueError),
    (float("inf"), ValueError),
    (jnp.array(-1.0), ValueError),
    ("big", TypeError),
    ("0.1", TypeError),
    (None, TypeError),
    (1j, TypeError),
    (np.ones(2), TypeError),
  ],
  ids=str,
)
def test_bad_weight(name, value, error):
  arguments = {"weight": 1.0} | {name: value}
  message = rf"(?<!_){name} must be "
  with pytest.raises(error, match=message):
    add_hyperspherical_energy(**arguments)
  with pytest.raises(error, match=message):
    with_hyperspherical_energy(SGD, **arguments)
  with pytest.raises(error, match=message):
    with_decoupled_hyperspherical_energy(optax.identity(), RATE, **arguments)


def test_bad_potential_and_unknown_option():
  with pytest.raises(TypeError, match=r"potential must be a Potential.* got 2\.0"):
    add_hyperspherical_energy(0.1, 2.0)
  with pytest.raises(TypeError, match="half_spaces"):
    with_hyperspherical_energy(SGD, 0.1, half_spaces=True)


@pytest.mark.parametrize(
  ("rules", "error", "message"),
  [
    ([LayerRule("tail/kernel")], ValueError, "'tail/kernel' matches no path"),
    ([LayerRule("body/kernel", NeuronAxes(2))], ValueError, "body/kernel.* axis 2 "),
    ([LayerRule(".*", role="skip")], ValueError, "params holds no neurons"),
  ],
  ids=["unmatched", "axis", "nothing"],
)
def test_bad_rules_are_told_before_compilation(rules, error, message):
  params = make_params()
  tx = add_hyperspherical_energy(WEIGHT, rules=rules)
  with pytest.raises(error, match=message):
    tx.init(params)
  with pytest.raises(error, match=message):
    jax.eval_shape(tx.init, params)
  state = alone(WEIGHT).init(params)
  with pytest.raises(error, match=message):
    jax.jit(tx.update).trace(params, state, params)


def test_rules_that_are_none_are_told_at_construction():
  with pytest.raises(TypeError, match="rules must be a sequence of LayerRule"):
    add_hyperspherical_energy(WEIGHT, rules=["body/kernel"])


def test_a_generator_of_rules_serves_every_call():
  rules = (rule for rule in [LayerRule("head/kernel", role="output")])
  tx = add_hyperspherical_energy(WEIGHT, rules=rules)
  params = make_params()
  _, state = tx.update(params, tx.init(params), params)
  expected = network_energy(params, rules=[LayerRule("head/kernel", role="output")])
  np.testing.assert_allclose(state.energy, expected, rtol=1e-12)


def without(tree, name):
  return {k: v for k, v in tree.items() if k != name}


@pytest.mark.parametrize(
  ("change", "named"),
  [
    (lambda u: without(u, "head"), "structure"),
    (lambda u: u | {"more": jnp.ones(3)}, "structure"),
    (lambda u: without(u, "head") | {"tail": u["head"]}, "structure"),
    (lambda u: u | {"head": u["head"] | {"kernel": jnp.ones((3, 6))}}, "head/kernel"),
    (lambda u: u | {"body": u["body"] | {"kernel": jnp.ones((1, 6))}}, "body/kernel"),
  ],
  ids=["missing", "more", "renamed", "transposed", "broadcastable"],
)
def test_updates_that_do_not_fit_the_params(change, named):
  params = make_params()
  tx = alone(WEIGHT)
  with pytest.raises(ValueError, match=re.escape(named)):
    tx.update(change(make_params(2)), tx.init(params), params)
