"""Every kind of module of Equinox and Haiku, against matrices made by hand."""

import equinox as eqx
import haiku as hk
import jax
import numpy as np
import pytest
from by_hand import (
  K,
  check,
  core,
  first,
  in_groups,
  inputs_of,
  last,
  second_last,
  stacked,
)
from sets import normal32
from trees import F32, init

from mhe_jax import layer_rules, neuron_matrices


class MyLinear(eqx.nn.Linear):
  """A subclass."""


EQUINOX = {
  "Linear": (lambda: eqx.nn.Linear(3, 5, **K), {"weight": first}),
  "Linear scalar": (lambda: eqx.nn.Linear("scalar", 5, **K), {"weight": first}),
  "subclass": (lambda: MyLinear(3, 5, **K), {"weight": first}),
  "Conv1d": (lambda: eqx.nn.Conv1d(3, 4, 3, **K), {"weight": first}),
  "Conv2d": (lambda: eqx.nn.Conv2d(3, 4, (3, 2), **K), {"weight": first}),
  "Conv2d groups": (
    lambda: eqx.nn.Conv2d(4, 6, 3, groups=2, **K),
    {"weight": in_groups(2, first)},
  ),
  "ConvTranspose2d": (
    lambda: eqx.nn.ConvTranspose2d(3, 4, 3, **K),
    {"weight": first},
  ),
  "Embedding": (lambda: eqx.nn.Embedding(7, 3, **K), {"weight": first}),
  "MLP": (
    lambda: eqx.nn.MLP(3, 2, 5, depth=2, **K),
    {f"layers/{i}/weight": first for i in range(3)},
  ),
  "MultiheadAttention": (
    lambda: eqx.nn.MultiheadAttention(2, 8, **K),
    {f"{n}_proj/weight": first for n in ("query", "key", "value", "output")},
  ),
  "GRUCell": (
    lambda: eqx.nn.GRUCell(3, 4, **K),
    {"weight_ih": in_groups(3, first), "weight_hh": in_groups(3, first)},
  ),
  "LSTMCell": (
    lambda: eqx.nn.LSTMCell(3, 4, **K),
    {"weight_ih": in_groups(4, first), "weight_hh": in_groups(4, first)},
  ),
  "norms": (
    lambda: [
      eqx.nn.Linear(3, 5, **K),
      eqx.nn.LayerNorm((5, 2)),
      eqx.nn.GroupNorm(2, 4),
    ],
    {"0/weight": first},
  ),
  "WeightNorm": (
    lambda: eqx.nn.WeightNorm(eqx.nn.Linear(3, 5, **K)),
    {"layer/weight": first},
  ),
}


@pytest.mark.parametrize("name", EQUINOX)
def test_equinox(name):
  make, readings = EQUINOX[name]
  model = make()
  rules = layer_rules(model)
  check(eqx.filter(model, eqx.is_array), rules, readings)
  # The classes are in every tree of the module, also without rules.
  for tree in (model, eqx.filter(model, eqx.is_array)):
    for path, rows in neuron_matrices(tree).items():
      expected = neuron_matrices(model, rules)[path]
      np.testing.assert_array_equal(rows, expected, err_msg=path)


@pytest.mark.parametrize("name", ["Linear", "Conv2d", "GRUCell", "MLP"])
def test_equinox_ensemble(name):
  _, readings = EQUINOX[name]

  @eqx.filter_vmap
  def make(key):
    kinds = {
      "Linear": lambda: eqx.nn.Linear(3, 5, dtype=F32, key=key),
      "Conv2d": lambda: eqx.nn.Conv2d(3, 4, (3, 2), dtype=F32, key=key),
      "GRUCell": lambda: eqx.nn.GRUCell(3, 4, dtype=F32, key=key),
      "MLP": lambda: eqx.nn.MLP(3, 2, 5, depth=2, dtype=F32, key=key),
    }
    return kinds[name]()

  model = make(jax.random.split(jax.random.key(0), 7))
  matrices = neuron_matrices(model, layer_rules(model))
  flat = jax.tree_util.tree_flatten_with_path(eqx.filter(model, eqx.is_array))[0]
  arrays = {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in flat}
  assert set(matrices) == set(readings)
  for path, reading in readings.items():
    expected = np.stack([reading(layer) for layer in arrays[path]])
    np.testing.assert_array_equal(matrices[path], expected, err_msg=path)


def applied(make):
  return lambda x: make()(x)  # noqa: PLW0108 (modules are made inside)


HAIKU = {
  "Linear": (applied(lambda: hk.Linear(5)), (2, 3), {"linear/w": last}),
  "Conv1D": (applied(lambda: hk.Conv1D(4, 3)), (1, 5, 3), {"conv1_d/w": last}),
  "Conv2D": (applied(lambda: hk.Conv2D(4, 3)), (1, 5, 5, 3), {"conv2_d/w": last}),
  "Conv2D channels first": (
    applied(lambda: hk.Conv2D(4, 3, data_format="NCHW")),
    (1, 3, 5, 5),
    {"conv2_d/w": last},
  ),
  "Conv2D groups": (
    applied(lambda: hk.Conv2D(6, 3, feature_group_count=2)),
    (1, 5, 5, 4),
    {"conv2_d/w": in_groups(2)},
  ),
  "Conv2DTranspose": (
    applied(lambda: hk.Conv2DTranspose(4, 3)),
    (1, 5, 5, 4),
    {"conv2_d_transpose/w": second_last},
  ),
  "Embed": (applied(lambda: hk.Embed(7, 3)), "tokens", {"embed/embeddings": first}),
  "MLP": (
    applied(lambda: hk.nets.MLP([5, 4])),
    (2, 3),
    {"mlp/~/linear_0/w": last, "mlp/~/linear_1/w": last},
  ),
  "attention": (
    lambda x: hk.MultiHeadAttention(
      2, 4, model_size=6, w_init=hk.initializers.RandomNormal()
    )(x, x, x),
    (1, 5, 3),
    {f"multi_head_attention/{n}/w": last for n in ("query", "key", "value", "linear")},
  ),
  "VanillaRNN": (
    core(lambda: hk.VanillaRNN(4)),
    (2, 3),
    {
      "vanilla_rnn/linear/w": last,
      "vanilla_rnn/linear_1/w": last,
    },
  ),
  "LSTM": (core(lambda: hk.LSTM(4)), (2, 3), {"lstm/linear/w": in_groups(4)}),
  "GRU": (
    core(lambda: hk.GRU(4)),
    (2, 3),
    {"gru/w_i": in_groups(3), "gru/w_h": in_groups(3)},
  ),
  "norms": (
    lambda x: hk.LayerNorm(-1, True, True)(hk.Linear(5)(x)),
    (2, 3),
    {"linear/w": last},
  ),
}


@pytest.mark.usefixtures("as_users")
@pytest.mark.parametrize("name", HAIKU)
def test_haiku(name):
  forward, shape, readings = HAIKU[name]
  model, x = hk.transform(forward), inputs_of(shape)
  check(init(model, x), layer_rules(model, x), readings)


@pytest.mark.usefixtures("as_users")
def test_haiku_with_state():
  def forward(x):
    return hk.BatchNorm(True, True, 0.9)(hk.Linear(5)(x), is_training=True)

  model, x = hk.transform_with_state(forward), normal32(2, 3)
  params, _ = model.init(jax.random.key(0), x)
  check(params, layer_rules(model, x), {"linear/w": last})


def test_haiku_modules_of_one_name_in_and_out_of_a_lifted_function():
  def forward(x):
    x = hk.experimental.layer_stack(3)(lambda x: hk.Linear(4)(x))(x)  # noqa: PLW0108
    return hk.Linear(5)(x)

  model, x = hk.transform(forward), normal32(2, 4)
  params = init(model, x)
  layers = {"linear/w": last, "__layer_stack_no_per_layer/linear/w": stacked(last)}
  check(params, layer_rules(model, x), layers)


def test_a_projection_in_a_subclass_of_an_lstm_has_no_gates():
  class Projected(hk.LSTM):
    def __call__(self, x, state):
      y, state = super().__call__(x, state)
      return hk.Linear(8, name="proj")(y), state

  model = hk.transform(core(lambda: Projected(4, name="cell")))
  x = normal32(2, 3)
  with jax.numpy_dtype_promotion("standard"):
    params, rules = init(model, x), layer_rules(model, x)
  check(params, rules, {"cell/linear/w": in_groups(4), "cell/proj/w": last})


def test_multi_transform():
  def forward():
    linear = hk.Linear(5)
    return linear, (linear,)

  model, x = hk.multi_transform(forward), normal32(2, 3)
  params = model.init(jax.random.key(0), x)
  (apply,) = model.apply
  check(params, layer_rules(apply, params, None, x), {"linear/w": last})
  with pytest.raises(TypeError, match=r"model must be .* got MultiTransformed"):
    layer_rules(model, x)


def test_transform_without_a_key():
  model = hk.without_apply_rng(hk.transform(applied(lambda: hk.nets.MLP([5, 4]))))
  x = normal32(2, 3)
  layers = {f"mlp/~/linear_{i}/w": last for i in (0, 1)}
  rules = layer_rules(model, x)
  check(init(model, x), rules, layers)
  assert [rule.role for rule in rules if rule.axes] == [None, "output"]
