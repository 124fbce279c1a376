"""What names and biases tell, and that nothing else is guessed."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from by_hand import heads, last
from sets import normal, normal32
from trees import init, tree

from experiments import models
from mhe_jax import (
  LayerRule,
  NeuronAxes,
  describe,
  layer_rules,
  network_energy,
  neuron_matrices,
)

# --- what is read -----------------------------------------------------------------


@pytest.mark.parametrize(
  ("path", "shape", "bias", "expected"),
  [
    ("Dense_0", (3, 5), None, (5, 3)),
    ("anything", (3, 5), (5,), (5, 3)),
    # Convolutions without a bias, by name,
    ("Conv_3", (3, 3, 4, 8), None, (8, 36)),
    ("Conv_3", (5, 4, 8), None, (8, 20)),
    ("conv1x7", (1, 7, 4, 8), None, (8, 28)),
    ("conv_init", (7, 7, 3, 8), None, (8, 147)),
    ("downsample_conv", (1, 1, 4, 8), None, (8, 4)),
    ("convs/0", (2, 2, 4, 8), None, (8, 16)),
    # and where windows of one leave no choice.
    ("query", (1, 1, 16, 8), None, (8, 16)),
    # With a bias: it has one entry per neuron and layer.
    ("blocks", (3, 5, 4), (3, 4), (3, 4, 5)),
    ("q_proj", (8, 2, 4), (2, 4), (8, 8)),
    ("o_proj", (2, 4, 6), (6,), (6, 8)),
    ("patches", (16, 16, 3, 6), (6,), (6, 768)),
    ("up", (2, 2, 4, 3), (4,), (4, 12)),
    ("Conv_0", (3, 4, 4), (4,), (4, 12)),
    ("Conv_0", (3, 3, 4, 4), (4,), (4, 36)),
    ("DenseGeneral_0", (2, 4, 4), (4,), (4, 8)),
    ("query", (8, 3, 3), (3, 3), (9, 8)),
    # In a lifted module, whose name says that its layers lead.
    ("ScanBlock_0/query", (3, 4, 6), None, (3, 6, 4)),
    ("ScanBlock_0/wi", (3, 4, 6), None, (3, 6, 4)),
    ("VmapDense_0", (3, 4, 6), None, (3, 6, 4)),
    ("ScanBlock_0/Conv_0", (2, 3, 3, 4, 8), None, (2, 8, 36)),
    # Or along another axis, if the bias says so.
    ("ScanBlock_0/Dense_0", (8, 3, 3), (3, 3), (3, 3, 8)),
    ("ScanBlock_0/Dense_0", (8, 3, 6), (6, 3), (3, 6, 8)),
  ],
)
def test_what_names_and_biases_tell(path, shape, bias, expected):
  (rows,) = neuron_matrices(tree(path, shape, bias)).values()
  assert rows.shape == expected


def test_gates_of_a_cell():
  params = {
    "cell": {
      "dense_i": {"kernel": normal32(5, 12)},
      "dense_h": {"kernel": normal32(4, 12), "bias": normal32(12)},
    }
  }
  matrices = neuron_matrices(params)
  assert matrices["cell/dense_i/kernel"].shape == (3, 4, 5)
  assert matrices["cell/dense_h/kernel"].shape == (3, 4, 4)
  alone = neuron_matrices({"dense_i": params["cell"]["dense_i"]})
  assert alone["dense_i/kernel"].shape == (12, 5)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize(("num", "width"), [(2, 6), (4, 4)])
def test_linen_attention(use_bias, num, width):
  if not use_bias and num == width:
    width = 5  # Or its names could be of stacks of dense layers: see below.
  module = nn.MultiHeadDotProductAttention(num, qkv_features=num * 4, use_bias=use_bias)
  params = init(module, normal32(1, 5, width))["params"]
  matrices = neuron_matrices(params)
  assert list(matrices) == [f"{k}/kernel" for k in ("key", "out", "query", "value")]
  for name in ("query", "key", "value"):
    assert np.array_equal(matrices[f"{name}/kernel"], heads(params[name]["kernel"]))
  assert np.array_equal(matrices["out/kernel"], last(params["out"]["kernel"]))


def test_attention_by_its_four_names():
  module, x = nn.MultiHeadDotProductAttention(2, use_bias=False), normal32(1, 5, 6)
  params = {"self": init(module, x)["params"]}
  matrices = neuron_matrices(params)
  kernels = params["self"]
  for name in ("query", "key", "value"):
    expected = heads(kernels[name]["kernel"])
    np.testing.assert_array_equal(matrices[f"self/{name}/kernel"], expected)
  expected = last(kernels["out"]["kernel"])
  np.testing.assert_array_equal(matrices["self/out/kernel"], expected)


@pytest.mark.parametrize(
  ("name", "shape"), [("resnet-20", (2, 32, 32, 3)), ("resnet-18", (2, 64, 64, 3))]
)
def test_residual_networks_need_no_rule(name, shape):
  model = models.build(name, num_classes=10, width=8)
  x = jax.ShapeDtypeStruct(shape, jnp.float32)
  params = init(model, x)["params"]
  by_name = neuron_matrices(params)
  with jax.numpy_dtype_promotion("standard"):
    by_class = neuron_matrices(params, layer_rules(model, x))
  assert len(by_name) >= 18
  assert by_name.keys() == by_class.keys()
  for path, rows in by_name.items():
    np.testing.assert_array_equal(rows, by_class[path], err_msg=path)


@pytest.mark.parametrize("name", ["depthwise", "dwconv", "DepthwiseConv_0"])
def test_depthwise_convolutions_by_name(name):
  params = {**tree(name, (7, 7, 1, 6), (6,)), **tree("head", (3, 4))}
  assert "depthwise" in describe(params).skipped[f"{name}/kernel"]


# --- what is not ------------------------------------------------------------------


@pytest.mark.parametrize(
  ("path", "shape", "bias"),
  [
    ("q_proj", (8, 2, 4), None),
    ("query", (8, 2, 4), None),
    ("kernel_of_a_stack", (4, 8, 16), None),
    ("Dense_0", (4, 8, 16), None),
    ("wi", (4, 8, 16), None),
    ("o_proj", (2, 4, 8), None),
    ("patches", (16, 16, 3, 6), None),
    ("stem", (3, 2, 4, 8), None),
    # A convolution of several dimensions, or a stack of some: of 2-d ones, of 1-d
    # ones; or layers of experts; or an ensemble.
    ("conv", (4, 3, 3, 2, 8), None),
    ("blocks/Conv_0", (6, 3, 3, 8, 8), None),
    ("Conv_0", (3, 1, 1, 4, 8), None),
    ("Conv_0", (3, 2, 4, 8), None),
    ("experts", (4, 4, 16, 32), None),
    ("stem", (7, 7, 3, 8), None),
    ("stem", (3, 3, 3, 4, 8), None),
    ("ConvTranspose_0", (3, 3, 8, 4), None),
    ("ConvTranspose_0", (3, 3, 4, 4), (4,)),
    ("up_deconv", (3, 3, 4, 4), (4,)),
    ("up", (3, 4, 4), (4,)),
    ("up", (3, 3, 8, 4), None),
    ("up_2", (3, 3, 8, 4), None),
    ("o_proj", (8, 8, 64, 16), None),
    ("proj", (2, 2, 3), (2, 3)),
    ("ScanB_0/q_proj", (8, 3, 2, 4), None),
    ("VmapConv_0", (3, 3, 3, 4, 8), None),
    ("ScanBlock_0/Conv_0", (3, 4, 8), None),
    ("c_fc", (12, 4), (12,)),
    # Heads, or three layers of 8 to 3 along axis 1.
    ("blocks", (8, 3, 3), (3, 3)),
    ("blocks", (8, 3, 6), (6, 3)),
  ],
)
def test_a_choice_is_an_error_with_rules_to_paste(path, shape, bias):
  params = tree(path, shape, bias)
  match = rf"layer_rules\(function[^@]*'{path}/kernel', shape {re.escape(str(shape))}"
  with pytest.raises(ValueError, match=match) as info:
    neuron_matrices(params)
  rules = re.findall(r"LayerRule\('.*?\)(?= \(\d)", str(info.value))
  assert rules
  names = {"LayerRule": LayerRule, "NeuronAxes": NeuronAxes}
  shapes = set()
  for rule in rules:
    (rows,) = neuron_matrices(params, [eval(rule, names)]).values()
    assert rows.size == np.prod(shape)
    shapes.add(rows.shape)
  assert len(rules) == len({*rules})
  # Skipping it is a choice, too.
  params["head"] = {"kernel": normal32(3, 4)}
  skip = LayerRule(f"{path}/kernel", role="skip")
  assert list(neuron_matrices(params, [skip])) == ["head/kernel"]


def test_all_of_a_tree_are_in_one_error():
  params = {
    **tree("a", (8, 2, 4)),
    **tree("b", (4, 8, 16)),
    **tree("c", (3, 5)),
  }
  with pytest.raises(ValueError, match="2 parameters") as info:
    network_energy(params)
  assert str(info.value).count("shape (") == 2
  assert "'c/kernel'" not in str(info.value)


def test_linen_attention_that_could_be_stacks_is_not_guessed():
  module = nn.MultiHeadDotProductAttention(4, qkv_features=16, use_bias=False)
  x = normal32(1, 5, 4)
  params = init(module, x)["params"]
  with pytest.raises(ValueError, match="4 parameters whose neurons could be"):
    neuron_matrices(params)
  matrices = neuron_matrices(params, layer_rules(module, x))
  for name in ("query", "key", "value"):
    assert np.array_equal(matrices[f"{name}/kernel"], heads(params[name]["kernel"]))
  assert np.array_equal(matrices["out/kernel"], last(params["out"]["kernel"]))


def test_layers_of_a_scan_along_another_axis_are_an_error():
  # As nn.scan with variable_axes={"params": 1} makes them: the norm tells.
  block = {
    "Dense_0": {"kernel": normal32(8, 3, 6)},
    "norm": {"scale": normal32(6, 3)},
  }
  with pytest.raises(
    ValueError, match="layers of 'ScanBlock_0' perhaps along another axis"
  ):
    neuron_matrices({"ScanBlock_0": block})


def test_kernels_that_are_stored_transposed_are_an_error():
  # GPT-2 in Flax: (out, in), where the bias tells; a square one beside them too.
  params = {
    "c_attn": {"kernel": normal32(12, 4), "bias": normal32(12)},
    "c_proj": {"kernel": normal32(4, 4), "bias": normal32(4)},
  }
  with pytest.raises(ValueError, match="2 parameters") as info:
    neuron_matrices(params)
  assert "LayerRule('c_attn/kernel', NeuronAxes(0))" in str(info.value)
  assert "LayerRule('c_proj/kernel', NeuronAxes(0))" in str(info.value)
  rules = [
    LayerRule("c_attn/kernel", NeuronAxes(0, groups=3)),
    LayerRule("c_proj/kernel", NeuronAxes(0)),
  ]
  assert neuron_matrices(params, rules)["c_attn/kernel"].shape == (3, 4, 4)
  alone = {"square": params["c_proj"]}
  np.testing.assert_array_equal(
    neuron_matrices(alone)["square/kernel"], params["c_proj"]["kernel"].T
  )


def test_lifted_layers_that_agree_along_two_axes_are_an_error():
  block = {name: {"kernel": normal32(8, 3, 8)} for name in ("gate", "up_proj")}
  with pytest.raises(ValueError, match="2 parameters"):
    neuron_matrices({"ScanBlock_0": block})
  # A class that only begins as a lifted one.
  net = {"Conv_0": {"kernel": normal32(3, 3, 3, 8)}}
  net["Conv_1"] = {"kernel": normal32(3, 3, 8, 8)}
  with pytest.raises(ValueError, match="2 parameters"):
    neuron_matrices({"ScanNet_0": net})


@pytest.mark.parametrize(
  ("path", "shape", "bias"), [("up2", (2, 2, 4, 3), (4,)), ("x", (3, 3, 4, 3), (4,))]
)
def test_a_masked_bias_leaves_a_choice(path, shape, bias):
  params = tree(path, shape, bias)
  assert neuron_matrices(params)[f"{path}/kernel"].shape[0] == 4
  params[path]["bias"] = optax.MaskedNode()
  with pytest.raises(ValueError, match="a bias that is masked"):
    neuron_matrices(params)
  conv = tree("Conv_0", (3, 3, 4, 8))
  conv["Conv_0"]["bias"] = optax.MaskedNode()
  assert neuron_matrices(conv)["Conv_0/kernel"].shape == (8, 36)


def test_gates_of_a_cell_that_is_masked_in_part():
  cell = {"dense_i": {"kernel": normal32(5, 12)}}
  cell["dense_h"] = {"kernel": optax.MaskedNode()}
  with pytest.raises(ValueError, match="perhaps a cell's gates"):
    neuron_matrices(cell)


def test_bias_that_allows_two_readings():
  # Two layers of (2 -> 3), or one of 2 -> (2, 3)?
  kernel = normal(2, 2, 3)
  params = {"proj": {"kernel": kernel, "bias": normal(2, 3)}}
  with pytest.raises(
    ValueError, match=r"'proj/kernel'.*\(2, 2, 3\).*\(2, 3\).*LayerRule"
  ):
    neuron_matrices(params)
  rows = neuron_matrices(params, [LayerRule("proj/kernel", NeuronAxes(-1, batch=0))])
  assert np.array_equal(rows["proj/kernel"], kernel.transpose(0, 2, 1))
