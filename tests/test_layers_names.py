"""What names and biases tell, and that nothing else is guessed."""

import re
import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util
from sets import normal32
from trees import init, last, last_two

from experiments import models
from mhe_jax import (
  LayerRule,
  NeuronAxes,
  add_hyperspherical_energy,
  describe,
  layer_rules,
  network_energy,
  neuron_matrices,
)


def tree(path, shape, bias=None):
  """A tree with one kernel, and its bias if it has one."""
  leaf = {"kernel": normal32(*shape)}
  if bias is not None:
    leaf["bias"] = normal32(*bias)
  for name in reversed(path.split("/")):
    leaf = {name: leaf}
  return leaf


# --- what is read ----------------------------------------------------------------


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


# --- what is not -----------------------------------------------------------------


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


def test_attention_by_its_four_names():
  module, x = nn.MultiHeadDotProductAttention(2, use_bias=False), normal32(1, 5, 6)
  params = {"self": init(module, x)["params"]}
  matrices = neuron_matrices(params)
  kernels = params["self"]
  for name in ("query", "key", "value"):
    expected = last_two(kernels[name]["kernel"])
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


# --- flat trees ------------------------------------------------------------------


@pytest.mark.parametrize("sep", ["/", None])
def test_flat_dicts_are_read_as_nested_ones(sep):
  params = {
    "attention": {"query": {"kernel": normal32(8, 2, 4), "bias": normal32(2, 4)}},
    "blocks": {"kernel": normal32(3, 5, 4), "bias": normal32(3, 4)},
  }
  flat = traverse_util.flatten_dict(params, sep=sep)
  nested, matrices = neuron_matrices(params), neuron_matrices(flat)
  assert list(matrices) == list(nested)
  for path, rows in nested.items():
    np.testing.assert_array_equal(matrices[path], rows)
  rules = [LayerRule("blocks/kernel", role="output")]
  assert describe(flat, rules=rules)["blocks/kernel"].role == "output"
  tx = add_hyperspherical_energy(1.0)
  zeros = jax.tree.map(jnp.zeros_like, flat)
  updates, _ = tx.update(zeros, tx.init(flat), flat)
  assert updates.keys() == flat.keys()


# --- rules -----------------------------------------------------------------------


def test_a_rule_that_never_wins_is_an_error():
  params = {**tree("body", (5, 4)), **tree("head", (4, 3))}
  general, head = LayerRule(".*/kernel"), LayerRule("head/kernel", role="output")
  with pytest.raises(
    ValueError, match=r"'head/kernel' never wins: an earlier rule, '\.\*/kernel'"
  ):
    network_energy(params, rules=[general, head])
  assert describe(params, rules=[head, general])["head/kernel"].role == "output"
  with pytest.raises(ValueError, match="never wins"):
    network_energy(params, rules=[head, LayerRule("head/kernel", weight=2.0)])


def test_of_a_rule_without_axes_the_next_that_has_some_reads():
  params = {**tree("body", (5, 4)), **tree("head", (4, 3))}
  rules = [
    LayerRule("head/kernel", role="output"),
    LayerRule(".*/kernel", NeuronAxes(0)),
  ]
  row = describe(params, rules=rules)["head/kernel"]
  assert (row.role, row.n) == ("output", 4)


def test_rules_below_a_masked_branch():
  params = {**tree("enc", (5, 4)), "dec": optax.MaskedNode()}
  for pattern in (".*/kernel", "(dec/kernel|foo/kernel)", "(?:dec/a|dec/b)/kernel"):
    rules = [LayerRule("enc/.*", weight=3.0), LayerRule(pattern, weight=2.0)]
    assert list(neuron_matrices(params, rules)) == ["enc/kernel"]


def test_a_classifier_with_one_output():
  params = {**tree("body", (5, 4)), **tree("head", (4, 1))}
  rules = [LayerRule("head/kernel", role="output")]
  assert list(neuron_matrices(params, rules)) == ["body/kernel"]


@pytest.mark.parametrize("pattern", [re.compile("a"), b"a", 3, None])
def test_a_pattern_is_a_string(pattern):
  with pytest.raises(ValueError, match="not a regular expression"):
    LayerRule(pattern)


@pytest.mark.parametrize("weight", [np.float32(2.0), jnp.float32(2.0), 2])
def test_a_weight_is_a_plain_number(weight):
  rule = LayerRule("a", weight=weight)
  assert repr(rule) == "LayerRule('a', weight=2.0)"
  assert hash(rule) == hash(LayerRule("a", weight=2.0))


def test_an_optional_rule_may_match_nothing():
  rule = LayerRule("tail/kernel", optional=True)
  assert list(neuron_matrices(tree("body", (5, 4)), [rule])) == ["body/kernel"]


# --- groups ----------------------------------------------------------------------


def test_groups_are_sets_of_their_own():
  kernel = normal32(4, 6)
  rule = LayerRule("qkv/kernel", NeuronAxes(-1, groups=3))
  params = {"qkv": {"kernel": kernel}}
  rows = neuron_matrices(params, [rule])["qkv/kernel"]
  expected = np.stack([kernel[:, :2].T, kernel[:, 2:4].T, kernel[:, 4:].T])
  np.testing.assert_array_equal(rows, expected)
  split = {f"{i}": {"kernel": kernel[:, 2 * i : 2 * i + 2]} for i in range(3)}
  np.testing.assert_allclose(
    network_energy(params, rules=[rule]), network_energy(split), rtol=1e-6
  )
  assert describe(params, rules=[rule])["qkv/kernel"].layers == 3


def test_groups_of_one_neuron_have_no_pairs():
  params = {**tree("a", (4, 6)), **tree("b", (4, 6))}
  rule = LayerRule("a/kernel", NeuronAxes(-1, groups=6))
  with pytest.raises(ValueError, match=r"matches no neurons.*1 neuron: no pairs"):
    neuron_matrices(params, [rule])


@pytest.mark.parametrize("groups", [0, -1, 1.5, "3", None])
def test_groups_must_be_a_count(groups):
  with pytest.raises(ValueError, match="groups must be"):
    NeuronAxes(-1, groups=groups)


def test_groups_that_do_not_divide_the_neurons():
  rule = LayerRule("a/kernel", NeuronAxes(-1, groups=4))
  with pytest.raises(ValueError, match=r"'a/kernel': 6 neurons .* 4 equal groups"):
    neuron_matrices(tree("a", (4, 6)), [rule])


# --- what is left out --------------------------------------------------------------


def with_unread(name):
  return {**tree("a", (4, 6)), name: normal32(5, 7), "scale": normal32(5, 7)}


@pytest.mark.parametrize("step", ["network_energy", "optax"])
def test_what_is_left_out_is_told_once(step):
  params = with_unread(f"table_of_{step}")

  def train_step(params):
    if step == "network_energy":
      return jax.grad(network_energy)(params)
    tx = optax.chain(add_hyperspherical_energy(1.0), optax.sgd(1.0))
    return tx.update(params, tx.init(params), params)[0]

  with pytest.warns(UserWarning, match=f"1 of 2 parameters.*'table_of_{step}'"):
    jax.jit(train_step)(params)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    train_step(params)
  assert f"table_of_{step}" in describe(params).skipped


def test_a_rule_silences_it():
  params = with_unread("silent")
  network_energy(params, rules=[LayerRule("silent", role="skip")])
  network_energy(params, rules=[LayerRule("silent", NeuronAxes(0))])
