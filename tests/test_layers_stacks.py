"""Stacks and ensembles, as libraries make them, are read as their layers."""

import functools

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import numpy as np
import pytest
from by_hand import OFF, check, heads, last, second_last, stacked
from flax import nnx
from programs import outputs
from sets import normal32
from trees import F32, FORMS, VmapDense, forms, init, nnx_arrays, nnx_init

from mhe_jax import (
  LayerRule,
  NeuronAxes,
  layer_rules,
  neuron_matrices,
)

# --- of linen, by names -----------------------------------------------------------


class Block(nn.Module):
  use_bias: bool = True
  attention: bool = True

  @nn.compact
  def __call__(self, x, _=None):
    x = nn.LayerNorm()(x)
    if self.attention:
      x = nn.MultiHeadDotProductAttention(2, use_bias=self.use_bias)(x)
    x = nn.Dense(8, use_bias=self.use_bias)(x)
    return nn.Dense(6, use_bias=self.use_bias)(x), None


def scan(module, length, axis=0):
  return nn.scan(
    module, variable_axes={"params": axis}, split_rngs={"params": True}, length=length
  )


class Outer(nn.Module):
  use_bias: bool = True

  @nn.compact
  def __call__(self, x, _=None):
    return scan(Block, 3)(self.use_bias)(x, None)


class Stack(nn.Module):
  lifted: type
  kwargs: dict
  stack_name: str | None = None

  @nn.compact
  def __call__(self, x):
    x, _ = self.lifted(**self.kwargs, name=self.stack_name)(x, None)
    return nn.Dense(4)(x)


def assert_reads_as_its_layers(params, stack, depth, rules=None):
  """Every slice of a stack, a tree of its own, has the stack's matrices."""
  whole = neuron_matrices(params, rules)
  assert whole["Dense_0/kernel"].shape == (4, 6)
  assert len(whole) > 1
  block = functools.reduce(dict.__getitem__, stack.split("/"), params)
  for index in np.ndindex(jax.tree.leaves(block)[0].shape[:depth]):
    matrices = neuron_matrices(jax.tree.map(lambda x: x[index], block))  # noqa: B023
    assert len(matrices) == len(whole) - 1
    for path, matrix in matrices.items():
      assert np.array_equal(whole[f"{stack}/{path}"][index], matrix), path


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize(
  ("lifted", "stack", "depth"),
  [
    (scan(Block, 3), "ScanBlock_0", 1),
    (scan(nn.remat(Block), 3), "ScanCheckpointBlock_0", 1),
    (nn.remat(scan(Block, 3)), "CheckpointScanBlock_0", 1),
    (scan(Outer, 2), "ScanOuter_0/ScanBlock_0", 2),
  ],
  ids=["scan", "scan remat", "remat scan", "nested"],
)
def test_linen_scan(lifted, stack, depth, use_bias):
  params = init(Stack(lifted, {"use_bias": use_bias}), normal32(1, 5, 6))["params"]
  assert_reads_as_its_layers(params, stack, depth)


@pytest.mark.parametrize("attention", [True, False])
def test_linen_scan_with_a_name_of_its_own(attention):
  # Nothing in the name tells of a stack, but the biases do; attention's output
  # projection, whose heads could be units as well, is told by a rule.
  module = Stack(scan(Block, 3), {"attention": attention}, "blocks")
  params = init(module, normal32(1, 5, 6))["params"]
  rules = [LayerRule(r"blocks/.*/out/kernel", NeuronAxes(-1, batch=0))]
  assert_reads_as_its_layers(params, "blocks", 1, rules if attention else None)


def test_linen_vmap_without_bias():
  class Heads(nn.Module):
    @nn.compact
    def __call__(self, x):
      return VmapDense(4, use_bias=False)(x)

  params = init(Heads(), normal32(2, 5))["params"]
  kernel = params["VmapDense_0"]["kernel"]
  matrices = neuron_matrices(params)
  assert np.array_equal(matrices["VmapDense_0/kernel"], kernel.transpose(0, 2, 1))


def test_linen_stack_along_another_axis_is_not_misread():
  # Layers on axis 1: the bias (6, 3) fits no reading of the kernel (8, 3, 6) whose
  # stack leads. An answer would mix the layers, so there must be none.
  params = {"blocks": {"kernel": normal32(8, 3, 6), "bias": normal32(6, 3)}}
  with pytest.raises(ValueError, match=r"blocks/kernel.*\(8, 3, 6\).*LayerRule"):
    neuron_matrices(params)
  rules = [LayerRule("blocks/kernel", NeuronAxes(-1, batch=1))]
  assert neuron_matrices(params, rules)["blocks/kernel"].shape == (3, 6, 8)


# --- of linen, by programs --------------------------------------------------------


class Projections(nn.Module):
  """As of a language model: no biases, and names of its own."""

  @nn.compact
  def __call__(self, x, _=None):
    x = nn.LayerNorm(use_bias=False)(x)
    y = nn.DenseGeneral((2, 4), name="q_proj", **OFF)(x)
    y = nn.DenseGeneral(8, axis=(-2, -1), name="o_proj", **OFF)(y)
    return x + nn.Dense(8, name="square", **OFF)(y), None


class Scanned(nn.Module):
  axis: int
  name_of_stack: str | None = None
  remat: bool = False

  @nn.compact
  def __call__(self, x):
    block = nn.remat(Projections) if self.remat else Projections
    return scan(block, 3, self.axis)(name=self.name_of_stack)(x, None)[0]


@pytest.mark.usefixtures("as_users")
@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("stack_name", [None, "blocks"])
@pytest.mark.parametrize("axis", [0, 1])
def test_linen_scan_along_any_axis(axis, stack_name, remat):
  module, x = Scanned(axis, stack_name, remat), normal32(1, 5, 8)
  params = init(module, x)["params"]
  (stack,) = params
  kernels = params[stack]
  assert kernels["q_proj"]["kernel"].shape == ((3, 8, 2, 4), (8, 3, 2, 4))[axis]
  matrices = neuron_matrices(params, layer_rules(module, x))
  assert len(matrices) == 3
  readings = {"q_proj": heads, "o_proj": last, "square": last}
  for name, reading in readings.items():
    expected = stacked(reading, axis)(kernels[name]["kernel"])
    np.testing.assert_array_equal(matrices[f"{stack}/{name}/kernel"], expected)


@pytest.mark.usefixtures("as_users")
def test_names_alone_do_not_tell_the_axis_of_a_scan():
  module, x = Scanned(1), normal32(1, 5, 8)
  params = init(module, x)["params"]
  with pytest.raises(ValueError, match="3 parameters whose neurons could be"):
    neuron_matrices(params)


class Member(nn.Module):
  """Of an ensemble, whose sizes are all equal."""

  width: int = 4

  @nn.compact
  def __call__(self, x):
    x = nn.tanh(nn.Dense(self.width, name="first", **OFF)(x))
    return nn.Dense(self.width, name="second", **OFF)(x)


def ensemble(axis, num):
  return nn.vmap(
    Member, variable_axes={"params": axis}, split_rngs={"params": True},
    in_axes=None, axis_size=num,
  )  # fmt: skip


@pytest.mark.parametrize("num", [3, 4])
@pytest.mark.parametrize("axis", [0, 1])
def test_linen_vmap(axis, num):
  module, x = ensemble(axis, num)(), normal32(2, 4)
  params = init(module, x)["params"]
  matrices = neuron_matrices(params, layer_rules(module, x))
  assert len(matrices) == 2
  for path, rows in matrices.items():
    kernel = np.moveaxis(np.asarray(params[path.split("/")[0]]["kernel"]), axis, 0)
    np.testing.assert_array_equal(rows, kernel.transpose(0, 2, 1), err_msg=path)


def test_members_of_one_layer_are_one_layer_unless_a_rule_says_otherwise():
  """The same program as a projection to heads."""
  module, x = VmapDense(4, **OFF), normal32(2, 5)
  params = init(module, x)["params"]
  kernel = np.asarray(params["kernel"])
  expected = kernel.transpose(0, 2, 1)
  rows = neuron_matrices(params, layer_rules(module, x))["kernel"]
  np.testing.assert_array_equal(rows, expected.reshape(12, 5))
  rule = LayerRule("kernel", NeuronAxes(-1, batch=0))
  rows = neuron_matrices(params, layer_rules(module, x, rules=[rule]))["kernel"]
  np.testing.assert_array_equal(rows, expected)


def test_two_stacks_of_one_length_along_different_axes():
  class Two(nn.Module):
    @nn.compact
    def __call__(self, x):
      y = ensemble(0, 4)(name="enc")(x).mean(0)
      return ensemble(1, 4)(name="dec")(y)

  x = normal32(2, 4)
  params = init(Two(), x)["params"]
  matrices = neuron_matrices(params, layer_rules(Two(), x))
  assert len(matrices) == 4
  for axis, part in enumerate(("enc", "dec")):
    for layer in ("first", "second"):
      kernel = np.moveaxis(np.asarray(params[part][layer]["kernel"]), axis, 0)
      rows = matrices[f"{part}/{layer}/kernel"]
      np.testing.assert_array_equal(rows, kernel.transpose(0, 2, 1))


# --- of others --------------------------------------------------------------------


def nnx_stack(make):
  return nnx_init(nnx.split_rngs(splits=3)(nnx.vmap(make, in_axes=0, out_axes=0)))


@forms
def test_nnx_stack_with_bias(form):
  module = nnx_stack(lambda rngs: nnx.Linear(5, 4, rngs=rngs))
  kernel = nnx_arrays(module)["kernel"]
  matrices = neuron_matrices(form(module))
  assert np.array_equal(matrices["kernel"], kernel.transpose(0, 2, 1))


class WithoutBias(nnx.Module):
  """Layers that neither the name nor a bias tells: only the class does."""

  def __init__(self, rngs):
    off = {"use_bias": False, "rngs": rngs}
    self.attention = nnx.MultiHeadAttention(2, 6, 8, decode=False, **off)
    self.general = nnx.LinearGeneral(3, (4, 5), **off)
    self.linear = nnx.Linear(3, 5, **off)
    self.up = nnx.ConvTranspose(3, 3, 2, transpose_kernel=True, **off)


WITHOUT_BIAS_RULES = [
  LayerRule("stack/attention/out/kernel", NeuronAxes(-1, 0)),
  LayerRule("stack/general/kernel", NeuronAxes((-2, -1), 0)),
  LayerRule("stack/linear/kernel", NeuronAxes(-1, 0)),
  LayerRule("stack/up/kernel", NeuronAxes(-2, 0)),
]


@forms
def test_nnx_stack_without_bias(form):
  module = nnx.Dict(stack=nnx_stack(WithoutBias))
  arrays = nnx_arrays(module)
  # A module says it all; of its state, rules must.
  rules = None if form is FORMS["module"] else WITHOUT_BIAS_RULES
  matrices = neuron_matrices(form(module), rules)
  readings = {
    "stack/attention/key/kernel": heads,
    "stack/attention/out/kernel": last,
    "stack/attention/query/kernel": heads,
    "stack/attention/value/kernel": heads,
    "stack/general/kernel": heads,
    "stack/linear/kernel": last,
    "stack/up/kernel": second_last,
  }
  assert list(matrices) == list(readings)
  for path, reading in readings.items():
    assert np.array_equal(matrices[path], stacked(reading)(arrays[path])), path


def test_nnx_scan_over_layers():
  class Stack(nnx.Module):
    def __init__(self, rngs):
      make = nnx.split_rngs(splits=3)(
        nnx.vmap(lambda r: nnx.Linear(4, 4, **OFF, rngs=r), in_axes=0, out_axes=0)
      )
      self.layers = make(rngs)
      self.head = nnx.Linear(4, 5, **OFF, rngs=rngs)

    def __call__(self, x):
      step = nnx.scan(lambda x, m: nnx.tanh(m(x)), in_axes=(nnx.Carry, 0),
                      out_axes=nnx.Carry)  # fmt: skip
      return self.head(step(x, self.layers))

  model = nnx_init(Stack)
  rules = layer_rules(model, normal32(2, 4))
  params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
  check(params, rules, {"layers/kernel": stacked(last), "head/kernel": last})
  assert outputs(model, rules) == {"head/kernel"}


def test_equinox_ensemble():
  @eqx.filter_vmap
  def make(key):
    return eqx.nn.MLP(3, 2, 5, depth=2, dtype=F32, key=key)

  model, x = make(jax.random.split(jax.random.key(0), 7)), normal32(3)
  call = eqx.filter_vmap(lambda m, x: m(x), in_axes=(eqx.if_array(0), None))
  rules = layer_rules(call, model, x)
  params = eqx.filter(model, eqx.is_array)
  check(params, rules, {f"layers/{i}/weight": np.asarray for i in range(3)})
  assert outputs(params, rules) == {"layers/2/weight"}


def test_haiku_modules_of_one_name_in_and_out_of_a_lifted_function():
  def forward(x):
    x = hk.experimental.layer_stack(3)(lambda x: hk.Linear(4)(x))(x)  # noqa: PLW0108
    return hk.Linear(5)(x)

  model, x = hk.transform(forward), normal32(2, 4)
  params = init(model, x)
  layers = {"linear/w": last, "__layer_stack_no_per_layer/linear/w": stacked(last)}
  check(params, layer_rules(model, x), layers)
