"""The rules of a model: what they skip, the user's own among them, errors."""

import re

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from by_hand import OFF, K, last, second_last
from flax import nnx
from kinds import KINDS
from sets import normal32
from trees import F32, filled, init, nnx_init

from mhe_jax import (
  LayerRule,
  NeuronAxes,
  describe,
  layer_rules,
  network_energy,
  neuron_matrices,
  with_hyperspherical_energy,
)


def test_at_least_forty_kinds_of_modules():
  assert sum(map(len, KINDS.values())) >= 40


class TwoTables(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = nn.Conv(6, (3, 3), feature_group_count=3, name="depthwise")(x)
    bias = nn.Embed(4, 5, name="relative_attention_bias")(jnp.arange(4))
    return nn.Dense(5)(x) + bias[None, 0, None, None]


@pytest.mark.parametrize("library", ["linen", "nnx", "equinox", "haiku"])
def test_depthwise_convolutions_are_reported_and_skipped(library):
  if library == "linen":
    model, x = TwoTables(), normal32(1, 5, 5, 3)
    params, rules = init(model, x)["params"], layer_rules(model, x)
    path, left = "depthwise/kernel", "Dense_0/kernel"
  elif library == "nnx":
    params = nnx_init(
      lambda r: nnx.Sequential(
        nnx.Conv(3, 6, (3, 3), feature_group_count=3, rngs=r), nnx.Linear(6, 5, rngs=r)
      )
    )
    rules, path, left = layer_rules(params), "layers/0/kernel", "layers/1/kernel"
  elif library == "equinox":
    params = [eqx.nn.Conv2d(3, 6, 3, groups=3, **K), eqx.nn.Linear(6, 5, **K)]
    rules, path, left = layer_rules(params), "0/weight", "1/weight"
  else:
    model = hk.transform(lambda x: hk.Linear(5)(hk.DepthwiseConv2D(2, 3)(x)))
    x = normal32(1, 5, 5, 3)
    params, rules = init(model, x), layer_rules(model, x)
    path, left = "depthwise_conv2_d/w", "linear/w"
  report = describe(params, rules=rules)
  assert [row.path for row in report] == [left]
  assert "depthwise convolution" in report.skipped[path]
  # Unless a rule asks: filters of all channels as one set.
  axes = NeuronAxes(0) if library == "equinox" else NeuronAxes(-1)
  asked = LayerRule(re.escape(path), axes)
  model = params if library in ("nnx", "equinox") else model
  inputs = () if library in ("nnx", "equinox") else (x,)
  rules = layer_rules(model, *inputs, rules=[asked])
  assert neuron_matrices(params, rules)[path].shape == (6, 9)


def test_tables_of_relative_positions():
  model, x = TwoTables(), normal32(1, 5, 5, 3)
  params, path = init(model, x)["params"], "relative_attention_bias/embedding"
  for rules, reason in (
    (None, "table of positions"),
    (layer_rules(model, x), "table that is added"),
  ):
    assert reason in describe(params, rules=rules).skipped[path]
  rules = layer_rules(model, x, rules=[LayerRule(path, NeuronAxes(0))])
  assert neuron_matrices(params, rules)[path].shape == (4, 5)


class Net(nn.Module):
  @nn.compact
  def __call__(self, x, train):
    x = nn.ConvTranspose(4, (2, 2), transpose_kernel=True, name="up", **OFF)(x)
    x = nn.Dropout(0.1, deterministic=not train)(x).mean((1, 2))
    return nn.Dense(3, name="head")(x)


NET_INPUT = normal32(1, 5, 5, 4)


def net_rules(*rules):
  return layer_rules(Net(), NET_INPUT, False, rules=rules)


@pytest.mark.parametrize("prefix", ["", "params/"])
def test_a_rule_without_axes_keeps_those_of_the_class(prefix):
  params = init_net()
  for rule in (
    LayerRule(f"{prefix}up/kernel", role="output", weight=2.0),
    LayerRule(".*up/.*", role="output", weight=2.0),
  ):
    (row,) = [
      r for r in describe(params, rules=net_rules(rule)) if r.path == "up/kernel"
    ]
    assert row.role == "output"
    rows = neuron_matrices(params, net_rules(rule))["up/kernel"]
    np.testing.assert_array_equal(rows, second_last(params["up"]["kernel"]))


def test_a_broad_rule_changes_weights_of_all_and_axes_of_none():
  params = init_net()
  head = LayerRule("head/kernel", role="output")
  rules = net_rules(head, LayerRule(".*", weight=2.0))
  report = describe(params, rules=rules)
  assert [(row.path, row.role) for row in report] == [
    ("head/kernel", "output"),
    ("up/kernel", "hidden"),
  ]
  rows = neuron_matrices(params, rules)["up/kernel"]
  np.testing.assert_array_equal(rows, second_last(params["up"]["kernel"]))
  plain = network_energy(params, rules=net_rules(head), output_weight=0.0)
  doubled = network_energy(params, rules=rules, output_weight=0.0)
  np.testing.assert_allclose(doubled, 2.0 * plain, rtol=1e-6)


def test_a_rule_without_axes_for_what_is_no_set_of_neurons():
  x = normal32(1, 5, 5, 3)
  rule = LayerRule("depthwise/kernel", role="output")
  with pytest.raises(ValueError, match=r"matches no neurons.*depthwise convolution"):
    layer_rules(TwoTables(), x, rules=[rule])


class WithTable(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.Dense(5)(x) @ self.param("table", nn.initializers.normal(), (5, 3), F32)


def test_parameters_of_unknown_names_are_read_by_the_program_alone():
  x = normal32(2, 4)
  params = init(WithTable(), x)["params"]
  with pytest.warns(UserWarning, match="1 of 2 parameters.*'table'"):
    network_energy(params)
  assert describe(params, rules=layer_rules(WithTable(), x))["table"].role == "output"
  for own, shape in (
    ([], (3, 5)),
    ([LayerRule(".*", weight=2.0)], (3, 5)),
    ([LayerRule("table", NeuronAxes(0))], (5, 3)),
  ):
    rules = layer_rules(WithTable(), x, rules=own)
    matrices = neuron_matrices(params, rules)
    assert {k: w.shape for k, w in matrices.items()} == {
      "Dense_0/kernel": (5, 4),
      "table": shape,
    }


def init_net():
  return filled(
    jax.eval_shape(lambda k: Net().init(k, NET_INPUT, False), jax.random.key(0))
  )["params"]


def test_rules_of_the_user_come_first():
  params = init_net()
  rules = net_rules(
    LayerRule("up/kernel", NeuronAxes(-1)), LayerRule("head/.*", role="skip")
  )
  matrices = neuron_matrices(params, rules)
  assert list(matrices) == ["up/kernel"]
  np.testing.assert_array_equal(matrices["up/kernel"], last(params["up"]["kernel"]))


def test_rules_of_a_model_fit_parts_of_its_tree():
  params, rules = init_net(), net_rules()
  assert list(neuron_matrices({"head": params["head"]}, rules)) == ["head/kernel"]
  holes = {**params, "up": optax.MaskedNode()}
  assert list(neuron_matrices(holes, rules)) == ["head/kernel"]
  tx = optax.partition(
    {
      "a": with_hyperspherical_energy(optax.sgd(1.0), 1.0, rules=rules),
      "b": optax.sgd(1),
    },
    {"up": "a", "head": "b"},
  )
  zeros = jax.tree.map(jnp.zeros_like, params)
  updates, _ = tx.update(zeros, tx.init(params), params)
  assert float(jnp.abs(updates["up"]["kernel"]).sum()) > 0
  assert float(jnp.abs(updates["head"]["kernel"]).sum()) == 0


def test_rules_can_be_pasted():
  rules = net_rules(LayerRule("head/kernel", role="output", weight=2.0))
  text = ", ".join(map(repr, rules))
  names = {"LayerRule": LayerRule, "NeuronAxes": NeuronAxes}
  assert eval(f"({text},)", names) == rules


def test_a_rule_that_matches_nothing_in_the_model():
  with pytest.raises(ValueError, match=r"'tail/kernel' matches no path.*'head/kernel'"):
    net_rules(LayerRule("tail/kernel"))


def test_a_rule_that_never_wins():
  with pytest.raises(ValueError, match=r"'head/kernel' never wins.*'.*/kernel'"):
    net_rules(LayerRule(".*/kernel"), LayerRule("head/kernel", role="output"))


@pytest.mark.parametrize("model", [3, None, {"kernel": normal32(3, 4)}, nn.Dense])
def test_what_is_no_model(model):
  with pytest.raises(TypeError, match="model must be"):
    layer_rules(model)


@pytest.mark.parametrize("library", ["nnx", "equinox"])
def test_inputs_of_a_module_that_has_its_parameters_tell_its_output_layer(library):
  if library == "nnx":
    model, x = nnx.Linear(3, 4, rngs=nnx.Rngs(0)), normal32(1, 3)
  else:
    model, x = eqx.nn.Linear(3, 4, **K), normal32(3)
  (by_class,), (by_program,) = layer_rules(model), layer_rules(model, x)
  assert (by_class.role, by_program.role) == (None, "output")
  assert by_class.axes == by_program.axes


def test_rules_must_be_rules():
  with pytest.raises(TypeError, match="rules must be"):
    net_rules("head/kernel")


@pytest.mark.parametrize("pattern", ["up/kernel", ".*"])
def test_a_rule_before_those_of_a_model_keeps_their_axes(pattern):
  params = init_net()
  rules = [LayerRule(pattern, role="output", weight=2.0), *net_rules()]
  rows = neuron_matrices(params, rules)["up/kernel"]
  np.testing.assert_array_equal(rows, second_last(params["up"]["kernel"]))
  assert describe(params, rules=rules)["up/kernel"].role == "output"


def test_a_rule_before_those_of_a_model_wakes_nothing_that_is_no_neurons():
  model, x = TwoTables(), normal32(1, 5, 5, 3)
  params = init(model, x)["params"]
  rules = [LayerRule(".*", weight=2.0), *layer_rules(model, x)]
  assert list(neuron_matrices(params, rules)) == ["Dense_0/kernel"]


@pytest.mark.parametrize(
  "rule",
  [
    LayerRule("head/kernel", NeuronAxes(-1)),
    LayerRule("head/kernel", role="skip"),
    LayerRule("head/kernel", NeuronAxes(0), optional=True),
    LayerRule("params/head/kernel", role="skip", optional=True),
  ],
)
def test_rules_of_the_user_fit_every_tree_too(rule):
  params, rules = init_net(), net_rules(rule, LayerRule(".*kernel", weight=2.0))
  kernel = params["head"]["kernel"]
  for tree, path in (
    (params, "head/kernel"),
    ({"params": params}, "params/head/kernel"),
  ):
    matrices = neuron_matrices(tree, rules)
    assert (path in matrices) == (rule.role != "skip")
    if rule.axes is not None:
      expected = kernel if rule.axes == NeuronAxes(0) else kernel.T
      np.testing.assert_array_equal(matrices[path], expected)
  assert list(neuron_matrices({"up": params["up"]}, rules)) == ["up/kernel"]


@pytest.mark.parametrize("library", ["nnx", "equinox"])
def test_a_class_that_the_tree_contradicts_is_an_error(library):
  if library == "nnx":
    model = nnx_init(lambda r: nnx.Linear(3, 5, rngs=r))
    model.kernel = nnx.Param(normal32(5, 3))
  else:
    model = eqx.nn.Linear(3, 5, **K)
    model = eqx.tree_at(lambda m: m.weight, model, normal32(3, 5))
  for function in (layer_rules, neuron_matrices):
    with pytest.raises(ValueError, match="by its class"):
      function(model)


def test_keyword_arguments_of_init():
  class Keyword(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
      return nn.Dropout(0.5, deterministic=not train)(nn.Dense(3)(x))

  (rule,) = layer_rules(Keyword(), normal32(2, 4), train=False)
  assert rule.matches("params/Dense_0/kernel")
  with pytest.raises(TypeError, match="unexpected keyword argument 'train'"):
    layer_rules(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), normal32(1, 3), train=False)


def test_calls_that_the_function_does_not_take():
  """Told before anything is traced."""

  def loss(params, batch, scale=1.0):
    return scale * (batch @ params["w"]).sum()

  params, batch = {"w": normal32(3, 4)}, normal32(2, 3)
  with pytest.raises(TypeError, match=r"inputs must be .*'loss'.* got 0, .*'batch'"):
    layer_rules(loss, params)
  with pytest.raises(TypeError, match=r"inputs must be .* got 3, too many"):
    layer_rules(loss, params, batch, 1.0, 2.0)
  with pytest.raises(TypeError, match=r"inputs must be .* got 1, .*'size'"):
    layer_rules(loss, params, batch, size=1)
  with pytest.raises(TypeError, match=r"params must be a tree .* got None"):
    layer_rules(loss, None, batch)
  with pytest.raises(TypeError, match="got the class Dense: call it"):
    layer_rules(nn.Dense, batch)
  assert layer_rules(loss, params, batch, scale=2.0)
