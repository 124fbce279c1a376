"""The rows of a neuron matrix are the units of the layer, in the trees of linen."""

import functools

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sets import normal32
from trees import init, last, last_two, rows_of_units, units

from mhe_jax import LayerRule, NeuronAxes, layer_rules, neuron_matrices

VmapDense = nn.vmap(
  nn.Dense, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=None,
  axis_size=3,
)  # fmt: skip

BARE = nn.Conv(4, (3, 3), use_bias=False)


@pytest.mark.parametrize(
  ("module", "input_shape", "unit_axes"),
  [
    (nn.Dense(5), (2, 3), (-1,)),
    (nn.Conv(4, (3,)), (1, 5, 3), (-1,)),
    (nn.Conv(4, (3, 3)), (1, 5, 5, 3), (-1,)),
    (BARE, (1, 5, 5, 3), (-1,)),
    (nn.Conv(2, (2, 2, 2)), (1, 3, 3, 3, 3), (-1,)),
    (nn.Conv(4, (3, 3), feature_group_count=2), (1, 5, 5, 6), (-1,)),
    (nn.Conv(6, (3, 3), feature_group_count=3), (1, 5, 5, 3), (-1,)),
    (nn.ConvLocal(4, (3,), padding="VALID"), (1, 5, 3), (1, 2)),
    (nn.ConvTranspose(4, (3, 3)), (1, 5, 5, 3), (-1,)),
    (nn.ConvTranspose(4, (3, 3), transpose_kernel=True), (1, 5, 5, 3), (-1,)),
    (nn.DenseGeneral((2, 3)), (2, 5), (-2, -1)),
    (nn.DenseGeneral(4, axis=(-2, -1)), (2, 3, 5), (-1,)),
    (nn.DenseGeneral(4, batch_dims=(0,)), (3, 5), (0, -1)),
    (nn.Einsum((3, 4, 5), "ac,cde->ade"), (2, 3), (-2, -1)),
    (VmapDense(4), (2, 5), (0, -1)),
  ],
  ids=lambda x: f"{type(x).__name__}" if isinstance(x, nn.Module) else "",
)
def test_linen_layer(module, input_shape, unit_axes):
  x = normal32(*input_shape, seed=9)
  params = init(module, x)["params"]
  # Without a name and a bias, or with five axes, it could be a stack.
  is_open = params["kernel"].ndim == 5 or module == BARE
  rules = layer_rules(module, x) if is_open else None
  owned = rows_of_units(
    lambda p: units(module.apply({"params": p}, x), unit_axes), params, rules
  )
  assert list(owned) == ["kernel"]
  assert np.array_equal(owned["kernel"], np.eye(len(owned["kernel"]), dtype=bool))


@pytest.mark.parametrize(
  "cell", [nn.LSTMCell, nn.OptimizedLSTMCell, nn.GRUCell], ids=lambda c: c.__name__
)
def test_linen_recurrent_cell(cell):
  module, x = cell(4), normal32(1, 3)
  carry = jax.tree.map(
    lambda c: normal32(*c.shape, seed=7),
    module.initialize_carry(jax.random.key(0), x.shape),
  )
  params = init(module, carry, x)["params"]
  owned = rows_of_units(
    lambda p: units(module.apply({"params": p}, carry, x)[1]), params
  )
  assert {path.split("/")[0] for path in owned} == set(params)
  for path, used in owned.items():
    assert np.array_equal(used, np.eye(4, dtype=bool)), path


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize(("heads", "width"), [(2, 6), (4, 4)])
def test_linen_attention(use_bias, heads, width):
  if not use_bias and heads == width:
    width = 5  # Or its names could be of stacks of dense layers: see below.
  module = nn.MultiHeadDotProductAttention(
    heads, qkv_features=heads * 4, use_bias=use_bias
  )
  params = init(module, normal32(1, 5, width))["params"]
  matrices = neuron_matrices(params)
  assert list(matrices) == [f"{k}/kernel" for k in ("key", "out", "query", "value")]
  for name in ("query", "key", "value"):
    assert np.array_equal(matrices[f"{name}/kernel"], last_two(params[name]["kernel"]))
  assert np.array_equal(matrices["out/kernel"], last(params["out"]["kernel"]))


def test_linen_attention_that_could_be_stacks_is_not_guessed():
  module = nn.MultiHeadDotProductAttention(4, qkv_features=16, use_bias=False)
  x = normal32(1, 5, 4)
  params = init(module, x)["params"]
  with pytest.raises(ValueError, match="4 parameters whose neurons could be"):
    neuron_matrices(params)
  matrices = neuron_matrices(params, layer_rules(module, x))
  for name in ("query", "key", "value"):
    assert np.array_equal(matrices[f"{name}/kernel"], last_two(params[name]["kernel"]))
  assert np.array_equal(matrices["out/kernel"], last(params["out"]["kernel"]))


def test_linen_embedding_rows_are_tokens():
  module, tokens = nn.Embed(7, 3), jnp.arange(7)
  params = init(module, tokens)["params"]
  rows = neuron_matrices(params)["embedding"]
  assert np.array_equal(rows, module.apply({"params": params}, tokens))


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


def scan(module, length):
  return nn.scan(
    module, variable_axes={"params": 0}, split_rngs={"params": True}, length=length
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


class Annotated(nn.Module):
  """Kernels boxed in sharding metadata, and norms with state."""

  @nn.compact
  def __call__(self, x):
    normal_init = nn.initializers.normal()
    boxed = nn.with_partitioning(normal_init, ("in", "out"))
    x = nn.Dense(6, kernel_init=boxed)(x)
    x = nn.LayerNorm()(nn.BatchNorm(use_running_average=True)(x))
    logical = nn.with_logical_partitioning(normal_init, ("in", "out"))
    return nn.Dense(4, kernel_init=logical)(x)


@pytest.mark.parametrize(
  "convert", [lambda v: v, flax.core.freeze, nn.unbox], ids=["boxed", "frozen", "plain"]
)
def test_linen_variables(convert):
  variables = init(Annotated(), normal32(2, 5))
  matrices = neuron_matrices(convert(variables))
  plain = nn.unbox(variables)["params"]
  assert list(matrices) == ["params/Dense_0/kernel", "params/Dense_1/kernel"]
  for name in ("Dense_0", "Dense_1"):
    expected = plain[name]["kernel"].T
    assert np.array_equal(matrices[f"params/{name}/kernel"], expected)
