"""The energy of a network is the weighted sum of its layers' energies."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.test_util import check_grads
from sets import normal

from mhe_jax import (
  LayerRule,
  NeuronAxes,
  Riesz,
  hyperspherical_energy,
  layer_energies,
  network_energy,
)

POTENTIAL = Riesz(2.0)


def mean_pair_energy(rows, half_space):
  """The definition, for s = 2: the mean of 1 / |u_i - u_j|^2 over all pairs."""
  u = rows / np.linalg.norm(rows, axis=-1, keepdims=True)
  if half_space:
    u = np.concatenate([u, -u])
  i, j = np.triu_indices(len(u), 1)
  return np.mean(1.0 / np.sum((u[i] - u[j]) ** 2, -1))


PARAMS = {
  "conv": {"kernel": normal(2, 2, 3, 5), "bias": normal(5)},
  "body": {"kernel": normal(5, 8), "bias": normal(8)},
  "head": {"kernel": normal(8, 4), "bias": normal(4)},
}
RULES = [
  LayerRule("head/kernel", role="output", weight=0.5),
  LayerRule("body/kernel", weight=3.0),
]
ROWS = {
  "body/kernel": PARAMS["body"]["kernel"].T,
  "conv/kernel": PARAMS["conv"]["kernel"].reshape(12, 5).T,
  "head/kernel": PARAMS["head"]["kernel"].T,
}


# --- the sum -------------------------------------------------------------------


@pytest.mark.parametrize("half_space", [True, False])
def test_layer_energies(half_space):
  energies = layer_energies(PARAMS, POTENTIAL, half_space=half_space, rules=RULES)
  assert list(energies) == list(ROWS)  # The order of the tree: keys are sorted.
  for path, rows in ROWS.items():
    # The output layer is in full space whatever half_space says.
    expected = mean_pair_energy(rows, half_space and path != "head/kernel")
    assert energies[path].shape == ()
    np.testing.assert_allclose(energies[path], expected, rtol=1e-9)


@pytest.mark.parametrize("half_space", [True, False])
@pytest.mark.parametrize(
  ("hidden_weight", "output_weight"), [(1.0, 1.0), (2.0, 10.0), (0.0, 1.0), (1, 0)]
)
def test_network_energy(half_space, hidden_weight, output_weight):
  energy = network_energy(
    PARAMS,
    POTENTIAL,
    half_space=half_space,
    hidden_weight=hidden_weight,
    output_weight=output_weight,
    rules=RULES,
  )
  conv, body = (
    mean_pair_energy(ROWS[path], half_space) for path in ("conv/kernel", "body/kernel")
  )
  head = mean_pair_energy(ROWS["head/kernel"], False)
  expected = hidden_weight * (conv + 3.0 * body) + output_weight * 0.5 * head
  assert energy.shape == ()
  np.testing.assert_allclose(energy, expected, rtol=1e-9)


def test_without_a_rule_every_layer_is_hidden():
  expected = sum(mean_pair_energy(rows, True) for rows in ROWS.values())
  energy = network_energy(PARAMS, POTENTIAL, output_weight=100.0)
  np.testing.assert_allclose(energy, expected, rtol=1e-9)


def test_layers_of_one_shape_are_not_mixed_up():
  # One group of [n, d] = (6, 4) from three layouts, and the same shape in full
  # space and in float32, which must not join it.
  params = {
    "a": {"kernel": normal(4, 6)},
    "b": {"kernel": 2.0 + normal(2, 2, 6)},
    "c": {"kernel": normal(3, 4, 6), "bias": normal(3, 6)},
    "d": {"embedding": normal(6, 4) ** 2},
    "output": {"kernel": 1.0 + normal(4, 6)},
    "single": {"kernel": normal(4, 6, dtype=np.float32) - 1.0},
  }
  rules = [
    LayerRule("output/kernel", role="output"),
    LayerRule("b/kernel", NeuronAxes(-1)),
  ]
  rows = {
    "a/kernel": [params["a"]["kernel"].T],
    "b/kernel": [params["b"]["kernel"].reshape(4, 6).T],
    "c/kernel": list(params["c"]["kernel"].transpose(0, 2, 1)),
    "d/embedding": [params["d"]["embedding"]],
    "output/kernel": [params["output"]["kernel"].T],
    "single/kernel": [params["single"]["kernel"].T],
  }
  energies = layer_energies(params, POTENTIAL, rules=rules)
  assert list(energies) == list(rows)
  for path, matrices in rows.items():
    expected = sum(mean_pair_energy(m, path != "output/kernel") for m in matrices)
    np.testing.assert_allclose(energies[path], expected, rtol=1e-5)
  assert energies["single/kernel"].dtype == jnp.float32

  def sum_of_layers(params):
    def energy(rows, half_space=True):
      return hyperspherical_energy(rows, POTENTIAL, half_space=half_space).sum()

    total = energy(params["a"]["kernel"].T)
    total += energy(params["b"]["kernel"].reshape(4, 6).T)
    total += energy(params["c"]["kernel"].transpose(0, 2, 1))
    total += energy(params["d"]["embedding"])
    total += energy(params["output"]["kernel"].T, half_space=False)
    return total + energy(params["single"]["kernel"].T).astype(jnp.float64)

  params = jax.tree.map(jnp.asarray, params)
  grads = jax.jit(jax.grad(lambda p: network_energy(p, POTENTIAL, rules=rules)))(params)
  expected = jax.jit(jax.grad(sum_of_layers))(params)
  for grad, want in zip(jax.tree.leaves(grads), jax.tree.leaves(expected)):
    assert grad.dtype == want.dtype
    tolerance = 1e-5 if grad.dtype == jnp.float32 else 1e-12
    np.testing.assert_allclose(grad, want, rtol=tolerance, atol=tolerance)


def test_stack_equals_the_unrolled_layers():
  stack = {"kernel": jnp.asarray(normal(3, 5, 4)), "bias": jnp.asarray(normal(3, 4))}
  unrolled = {f"Dense_{i}": jax.tree.map(lambda x: x[i], stack) for i in range(3)}  # noqa: B023
  function = jax.jit(jax.value_and_grad(network_energy), static_argnums=1)
  energy, grads = function({"ScanBlock_0": {"Dense_0": stack}}, POTENTIAL)
  expected, layer_grads = function(unrolled, POTENTIAL)
  np.testing.assert_allclose(energy, expected, rtol=1e-14)
  grad = grads["ScanBlock_0"]["Dense_0"]["kernel"]
  for i in range(3):
    np.testing.assert_allclose(
      grad[i], layer_grads[f"Dense_{i}"]["kernel"], rtol=1e-12, atol=1e-14
    )
  assert not grads["ScanBlock_0"]["Dense_0"]["bias"].any()


def test_heads_one_by_one_count_as_layers():
  kernel = normal(6, 2, 3)
  rule = LayerRule("query/kernel", NeuronAxes(-1, batch=-2), weight=2.0)
  energy = network_energy({"query": {"kernel": kernel}}, POTENTIAL, rules=[rule])
  expected = sum(2.0 * mean_pair_energy(kernel[:, i].T, True) for i in range(2))
  np.testing.assert_allclose(energy, expected, rtol=1e-9)


@pytest.mark.parametrize("small", ["bfloat16", "float16", "float32"])
def test_layers_of_different_dtypes(small):
  other = "float32" if small != "float32" else "float64"
  params = {
    "a": {"kernel": jnp.asarray(normal(5, 4), small)},
    "b": {"kernel": jnp.asarray(normal(5, 4), other)},
  }
  energy, grads = jax.jit(jax.value_and_grad(network_energy), static_argnums=1)(
    params, POTENTIAL
  )
  expected = sum(
    mean_pair_energy(np.asarray(p["kernel"], np.float64).T, True)
    for p in params.values()
  )
  assert energy.dtype == other
  np.testing.assert_allclose(energy, expected, rtol=1e-5)
  assert grads["a"]["kernel"].dtype == small
  assert grads["b"]["kernel"].dtype == other


# --- transformations -----------------------------------------------------------


@jax.jit
def energy_of(params):
  return network_energy(params, POTENTIAL, rules=RULES)


def test_derivatives():
  params = jax.tree.map(jnp.asarray, PARAMS)
  check_grads(energy_of, (params,), order=1, modes=["fwd", "rev"], rtol=1e-6)
  grads = jax.grad(energy_of)(params)
  for layer in grads.values():
    assert not layer["bias"].any()
    assert layer["kernel"].any()


def test_jit_and_vmap_over_models():
  models = jax.tree.map(lambda x: jnp.stack([x, x + 1.0, x**2]), PARAMS)
  energies = jax.jit(jax.vmap(energy_of))(models)
  assert energies.shape == (3,)
  for i in range(3):
    model = jax.tree.map(lambda x: x[i], models)  # noqa: B023
    np.testing.assert_allclose(energies[i], energy_of(model), rtol=1e-12)


def test_abstract_evaluation():
  shapes = jax.eval_shape(energy_of, PARAMS)
  assert (shapes.shape, shapes.dtype) == ((), jnp.float64)
  abstract = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, PARAMS))
  energies = jax.eval_shape(lambda p: layer_energies(p, rules=RULES), abstract)
  assert {path: x.shape for path, x in energies.items()} == dict.fromkeys(ROWS, ())


def test_weights_may_be_traced():
  @jax.jit
  @jax.grad
  def slopes(weights):
    return network_energy(
      PARAMS,
      POTENTIAL,
      hidden_weight=weights[0],
      output_weight=weights[1],
      rules=RULES,
    )

  conv, body = (mean_pair_energy(ROWS[k], True) for k in ("conv/kernel", "body/kernel"))
  head = mean_pair_energy(ROWS["head/kernel"], False)
  expected = [conv + 3.0 * body, 0.5 * head]
  np.testing.assert_allclose(slopes(jnp.array([1.0, 2.0])), expected, rtol=1e-9)


def count_products(jaxpr):
  """Matrix products in a jaxpr, those of inner functions once per call."""
  count = 0
  for eqn in jaxpr.eqns:
    inner = [getattr(p, "jaxpr", p) for p in eqn.params.values()]
    inner = [p for p in inner if hasattr(p, "eqns")]
    count += (eqn.primitive.name == "dot_general") + sum(map(count_products, inner))
  return count


@pytest.mark.parametrize("function", [network_energy, jax.grad(network_energy)])
def test_compiled_size_does_not_grow_with_depth(function):
  # The Gram matrices of equal layers come from one batched product.
  def products(depth):
    params = {f"Dense_{i}": {"kernel": jnp.ones((6, 6))} for i in range(depth)}
    return count_products(jax.make_jaxpr(function)(params).jaxpr)

  assert 1 <= products(20) == products(1)


# --- weights of zero: layers that are not evaluated ---------------------------


def flops(function, *args):
  analysis = jax.jit(function).lower(*args).compile().cost_analysis()
  return analysis.get("flops", 0.0)  # Of a constant there is no count.


ZERO_WEIGHTS = [
  {"hidden_weight": 0.0},
  {"output_weight": 0},
  {"rules": [LayerRule("head/kernel", role="output"), LayerRule(".*", weight=0)]},
  {"hidden_weight": np.float32(0.0), "output_weight": np.array(0.0)},
]


def split(weights):
  """A network of two layers, the same without those of weight 0, and its rules."""
  params = {
    "body": {"kernel": jnp.asarray(normal(32, 24))},
    "head": {"kernel": jnp.asarray(normal(24, 16))},
  }
  weights = {"rules": [LayerRule("head/kernel", role="output")]} | weights
  no_hidden = "hidden_weight" in weights or len(weights["rules"]) > 1
  dropped = ["body"] * no_hidden + ["head"] * ("output_weight" in weights)
  return params, dropped, functools.partial(network_energy, **weights)


@pytest.mark.parametrize("weights", ZERO_WEIGHTS, ids=str)
@pytest.mark.parametrize("derive", [lambda f: f, jax.grad], ids=["value", "gradient"])
def test_layers_of_weight_zero_cost_nothing(weights, derive):
  params, dropped, function = split(weights)
  one_layer = {k: v for k, v in params.items() if k not in dropped}
  without = 0.0
  if one_layer:
    rules = [LayerRule("head/kernel", role="output")] if "head" in one_layer else None
    without = flops(derive(functools.partial(network_energy, rules=rules)), one_layer)
  assert without <= flops(derive(function), params) <= without + 10


@pytest.mark.parametrize("weights", ZERO_WEIGHTS, ids=str)
def test_layers_of_weight_zero_hide_what_is_in_them(weights):
  params, dropped, function = split(weights)
  expected, expected_grads = jax.value_and_grad(function)(params)
  assert expected.dtype == jnp.float64
  for name in dropped:
    params[name] = {"kernel": jnp.full_like(params[name]["kernel"], np.nan)}
  energy, grads = jax.value_and_grad(function)(params)
  assert energy == expected
  jax.tree.map(np.testing.assert_array_equal, grads, expected_grads)
  for name in dropped:
    assert not grads[name]["kernel"].any()


def test_an_array_of_zero_is_a_weight_like_any_other():
  params = PARAMS | {"head": {"kernel": np.full((8, 4), np.nan)}}
  for weight in (jnp.zeros([]), jnp.array(1.0)):
    energy = network_energy(params, output_weight=weight, rules=RULES)
    assert np.isnan(energy)


# --- in training ---------------------------------------------------------------


class Network(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.Dense(3)(nn.relu(nn.Dense(8)(x)))


def test_linen_train_step():
  model, x, y = Network(), jnp.ones((2, 4), jnp.float32), jnp.array([0, 2])
  params = jax.jit(model.init)(jax.random.key(0), x)["params"]
  rules = [LayerRule("Dense_1/kernel", role="output")]

  def data_loss(params):
    logits = model.apply({"params": params}, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

  def regularizer(params):
    return 0.1 * network_energy(params, POTENTIAL, rules=rules)

  def loss(params):
    return data_loss(params) + regularizer(params)

  @jax.jit
  def train_step(params):
    total = jax.value_and_grad(loss)(params)
    parts = (
      jax.value_and_grad(data_loss)(params),
      jax.value_and_grad(regularizer)(params),
    )
    stepped = jax.tree.map(lambda p, g: p - 0.1 * g, params, total[1])
    return total, parts, loss(stepped)

  total, parts, next_loss = train_step(params)
  expected = jax.tree.map(jnp.add, *parts)
  for got, want in zip(jax.tree.leaves(total), jax.tree.leaves(expected)):
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
  assert next_loss < total[0]


def test_nnx_train_step():
  class Model(nnx.Module):
    def __init__(self, rngs):
      self.hidden = nnx.Linear(4, 8, rngs=rngs)
      self.norm = nnx.BatchNorm(8, rngs=rngs)
      self.head = nnx.Linear(8, 3, rngs=rngs)

  model = Model(nnx.Rngs(0))
  rules = [LayerRule("head/kernel", role="output")]

  def energy_of(model):
    return network_energy(model, POTENTIAL, rules=rules)

  @nnx.jit
  def train_step(model):
    energy, grads = nnx.value_and_grad(energy_of)(model)
    params = nnx.state(model, nnx.Param)
    nnx.update(model, jax.tree.map(lambda p, g: p - 0.1 * g, params, grads))
    return energy, grads

  rows = {k: np.asarray(getattr(model, k).kernel[...]).T for k in ("hidden", "head")}
  bias = np.asarray(model.hidden.bias[...])
  energy, grads = train_step(model)
  expected = mean_pair_energy(rows["hidden"], True)
  expected += mean_pair_energy(rows["head"], False)
  np.testing.assert_allclose(energy, expected, rtol=1e-5)
  # Directions alone matter: each neuron's gradient is orthogonal to it.
  for name, w in rows.items():
    grad = np.asarray(grads[name]["kernel"][...]).T
    assert np.abs(grad).max() > 1e-3
    np.testing.assert_allclose(np.sum(grad * w, -1), 0.0, atol=5e-6)
  assert train_step(model)[0] < energy
  assert np.array_equal(model.hidden.bias[...], bias)


# --- errors --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["hidden_weight", "output_weight"])
@pytest.mark.parametrize(
  ("weight", "error"),
  [
    (-1.0, ValueError),
    (float("nan"), ValueError),
    (float("inf"), ValueError),
    (np.float32(-2.0), ValueError),
    (jnp.array(float("nan")), ValueError),
    ("1", TypeError),
    (None, TypeError),
    ([1.0], TypeError),
  ],
  ids=str,
)
def test_invalid_weight(name, weight, error):
  with pytest.raises(error, match=name):
    network_energy(PARAMS, **{name: weight})


@pytest.mark.parametrize("name", ["hidden_weight", "output_weight"])
@pytest.mark.parametrize(
  "weight", [np.ones(2), np.ones(1), np.ones((1, 1)), np.complex128(1.0)], ids=repr
)
@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_weight_that_is_no_real_scalar(name, weight, convert):
  def energy(weight):
    return network_energy(PARAMS, **{name: weight})

  weight = convert(weight)
  shape = re.escape(str(weight.shape))
  message = rf"{name} must be a number, got an array of shape {shape}"
  for function in (
    energy,
    jax.jit(energy),
    jax.vmap(energy, axis_size=3, in_axes=None),
  ):
    with pytest.raises(TypeError, match=message):
      function(weight)


@pytest.mark.parametrize("dtype", ["bool", "int32", "bfloat16", "float32", "float64"])
def test_weight_of_any_real_dtype(dtype):
  expected = network_energy(PARAMS, hidden_weight=1.0, output_weight=1.0, rules=RULES)
  weight = jnp.ones([], dtype)

  def energy(weight):
    return network_energy(
      PARAMS, hidden_weight=weight, output_weight=weight, rules=RULES
    )

  for function in (energy, jax.jit(energy)):
    value = function(weight)
    assert value.dtype == expected.dtype
    np.testing.assert_allclose(value, expected, rtol=1e-15)


@pytest.mark.parametrize("function", [network_energy, layer_energies])
@pytest.mark.parametrize("potential", [2.0, "riesz", Riesz, None])
def test_invalid_potential(function, potential):
  with pytest.raises(TypeError, match="potential must be"):
    function(PARAMS, potential)


@pytest.mark.parametrize("function", [network_energy, layer_energies])
def test_errors_of_rules_come_through_jit(function):
  def apply(params):
    return function(params, rules=[LayerRule("tail/kernel", role="output")])

  with pytest.raises(ValueError, match="'tail/kernel' matches no path"):
    jax.jit(apply)(PARAMS)
