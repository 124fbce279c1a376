"""The energy inside optax: dtypes and trees of every form, and wrong input."""

import functools
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
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
  in_float64,
  make_params,
  mean_pair_energy,
  scale,
  sgd,
)

from mhe_jax import (
  LayerRule,
  NeuronAxes,
  Riesz,
  add_hyperspherical_energy,
  describe,
  layer_energies,
  network_energy,
  neuron_matrices,
  spread,
  with_decoupled_hyperspherical_energy,
  with_hyperspherical_energy,
)

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


@pytest.mark.parametrize("compile", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_float64_arrays_of_numpy_without_x64(compile):
  """They are float32 to JAX; a warning, an error here, would be of our making."""
  params, grads = (jax.tree.map(np.asarray, make_params(seed)) for seed in (0, 2))
  inputs = {"rules": OPTIONS["rules"]}
  with jax.enable_x64(False):
    tx = coupled(SGD, WEIGHT)
    state = tx.init(params)
    updates, state = compile(tx.update)(grads, state, params)
    # Without a dtype of its own, optax 0.2.6 asks for that of the parameters.
    inject = optax.inject_hyperparams(alone, hyperparam_dtype=jnp.dtype(jnp.float32))
    injected = inject(WEIGHT)
    compile(injected.update)(grads, injected.init(params), params)
    value = compile(functools.partial(network_energy, **OPTIONS))(params)
    slopes = compile(jax.grad(functools.partial(network_energy, **OPTIONS)))(params)
    energies = compile(functools.partial(layer_energies, **inputs))(params)
    matrices = compile(functools.partial(neuron_matrices, **inputs))(params)
    report = describe(params, **inputs)
  for leaf in jax.tree.leaves((slopes, value, energies, matrices, state[0].energy)):
    assert leaf.dtype == jnp.float32
  assert updates["body"]["kernel"].dtype == jnp.float32
  expected = sgd(grads, scale(WEIGHT, gradient(in_float64(params))))
  assert_close(in_float64(updates), expected, 1e-5)
  assert [row.path for row in report.rows] == ["body/kernel", "head/kernel"]


def test_small_float16_weights_do_not_overflow_the_update():
  """The gradient scales as one over the norm; the weight brings it into range."""
  params = make_params(dtypes=("float16", "float16"))
  params["body"]["kernel"] = (params["body"]["kernel"] * 1e-6).astype(jnp.float16)
  tx = alone(1e-3)
  state = jax.jit(tx.init)(params)  # Compiled, it says nothing of tiny norms.
  updates, _ = tx.update(scale(0.0, params), state, params)
  grads = 1e-3 * gradient(in_float64(params))["body"]["kernel"]
  assert np.abs(grads).max() > 65504e-3  # Unweighted it is beyond float16.
  np.testing.assert_allclose(updates["body"]["kernel"], grads, rtol=2e-3, atol=1e-2)


NEAR = [[1.0, 1.001], [0.0, 0.03]]  # Two neurons that repel each other much.


@pytest.mark.parametrize(
  ("dtype", "norm", "weight"),
  [
    ("float16", 1e-4, 1.0),
    ("bfloat16", 1e-34, 1e3),
    ("float32", 1e-36, 1e3),
    ("float32", 1.0, 1e38),
    ("float64", 1e-306, 1e3),
  ],
)
@pytest.mark.parametrize("before", [0.0, 1.0], ids=["alone", "added"])
def test_an_update_that_overflows_is_saturated(dtype, norm, weight, before):
  """As the gradient of the energy: infinity would be NaN in the next step."""
  params = {"kernel": jnp.asarray(norm * np.array(NEAR), dtype)}
  largest = float(jnp.finfo(dtype).max)
  tx = add_hyperspherical_energy(weight, Riesz(2.0), half_space=False)
  potential = functools.partial(network_energy, potential=Riesz(2.0), half_space=False)
  signs = np.sign(jax.grad(potential)(params)["kernel"].astype(jnp.float64))
  updates = {"kernel": jnp.asarray(before * largest * signs, dtype)}
  actual, _ = tx.update(updates, tx.init(params), params)
  actual = actual["kernel"].astype(jnp.float64)
  assert np.isfinite(actual).all()
  assert np.abs(actual).max() == largest
  np.testing.assert_array_equal(np.sign(actual), signs)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_in_an_update_stays(bad):
  """By it, optimizers that skip such steps know an overflow of the loss."""
  params, updates = make_params(), make_params(2)
  expected, _ = alone(WEIGHT).update(updates, alone(WEIGHT).init(params), params)
  updates["body"]["kernel"] = updates["body"]["kernel"].at[1, 2].set(bad)
  expected["body"]["kernel"] = expected["body"]["kernel"].at[1, 2].set(bad)
  actual, _ = alone(WEIGHT).update(updates, alone(WEIGHT).init(params), params)
  assert_identical(actual, expected)


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_injected_weight_in_a_bfloat16_model(dtype):
  """optax casts it to the parameters' dtype unless told otherwise."""
  params = make_params(dtypes=("bfloat16", "bfloat16"))
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), params)
  inject = optax.inject_hyperparams(
    add_hyperspherical_energy, hyperparam_dtype=dtype and jnp.dtype(dtype)
  )
  tx = inject(weight=WEIGHT, **OPTIONS)
  state = tx.init(params)
  assert state.hyperparams["weight"].dtype == (dtype or "bfloat16")
  updates, state = tx.update(zeros, state, params)
  weight = state.hyperparams["weight"]
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
    (np.ones(1), TypeError),
    (jnp.ones(1), TypeError),
    (np.complex64(1.0), TypeError),
  ],
  ids=repr,
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


NO_REAL_SCALARS = [np.ones(2), np.ones(1), np.ones((2, 3)), np.ones([], complex)]


@pytest.mark.parametrize("name", ["weight", "hidden_weight", "output_weight"])
@pytest.mark.parametrize("value", NO_REAL_SCALARS, ids=repr)
def test_traced_weight_that_is_no_real_scalar(name, value):
  """As eagerly: a vector of weights would be summed, or broadcast against updates."""
  params = make_params()

  @jax.jit
  def update(value):
    tx = add_hyperspherical_energy(**({"weight": 1.0} | {name: value}))
    return tx.update(params, tx.init(params), params)

  with pytest.raises(TypeError, match=rf"(?<!_){name} must be a number, got an array"):
    update(value)


@pytest.mark.parametrize("compile", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("result", [*NO_REAL_SCALARS, None, "0.1", 1j], ids=repr)
def test_schedule_that_gives_no_real_scalar(result, compile):
  params = make_params()
  tx = alone(lambda step: result)
  with pytest.raises(TypeError, match="weight must be a number"):
    compile(tx.update)(params, tx.init(params), params)


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


@pytest.mark.parametrize(
  ("name", "make"),
  [
    ("spread", lambda: spread(optax.sgd(0.1))),
    ("add_hyperspherical_energy", lambda: add_hyperspherical_energy(0.1)),
    (
      "with_hyperspherical_energy",
      lambda: with_hyperspherical_energy(optax.sgd(0.1), 0.1),
    ),
    (
      "with_decoupled_hyperspherical_energy",
      lambda: with_decoupled_hyperspherical_energy(optax.identity(), 0.1, 0.1),
    ),
  ],
)
def test_missing_params_are_told_by_the_name_that_was_called(name, make):
  params, tx = {"Dense_0": {"kernel": jnp.eye(4)}}, make()
  with pytest.raises(ValueError, match=rf"^{name} needs the parameters: .* was None"):
    tx.update(params, tx.init(params))
