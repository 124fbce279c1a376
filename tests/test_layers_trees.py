"""The trees that parameters come in: boxed, split, saved, with functions in them."""

import equinox as eqx
import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from by_hand import heads, in_groups, last, second_last
from flax import nnx, traverse_util
from sets import normal32
from trees import forms, init, nnx_arrays, nnx_init

from mhe_jax import (
  LayerRule,
  NeuronAxes,
  add_hyperspherical_energy,
  describe,
  layer_rules,
  neuron_matrices,
)


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


class Zoo(nnx.Module):
  def __init__(self, rngs):
    self.attention = nnx.MultiHeadAttention(2, 6, 8, decode=False, rngs=rngs)
    self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
    self.dropout = nnx.Dropout(0.5, rngs=rngs)
    self.embed = nnx.Embed(7, 3, rngs=rngs)
    self.general = nnx.LinearGeneral((3, 2), (4, 5), axis=(-2, -1), rngs=rngs)
    self.gru = nnx.GRUCell(3, 4, rngs=rngs)
    self.layers = nnx.List([nnx.Linear(3, 5, rngs=rngs), nnx.relu])
    self.linear = nnx.LoRALinear(3, 5, lora_rank=2, rngs=rngs)
    self.norm = nnx.BatchNorm(5, rngs=rngs)
    self.up = nnx.ConvTranspose(3, 4, (2, 2), rngs=rngs)
    self.up_transposed = nnx.ConvTranspose(
      3, 4, (2, 2), transpose_kernel=True, rngs=rngs
    )


ZOO_READINGS = {
  "attention/key/kernel": heads,
  "attention/out/kernel": last,
  "attention/query/kernel": heads,
  "attention/value/kernel": heads,
  "conv/kernel": last,
  "embed/embedding": lambda table: table,
  "general/kernel": heads,
  "gru/dense_h/kernel": in_groups(3),
  "gru/dense_i/kernel": in_groups(3),
  "layers/0/kernel": last,
  "linear/kernel": last,
  "linear/lora/lora_a": last,
  "linear/lora/lora_b": last,
  "up/kernel": last,
  "up_transposed/kernel": second_last,
}


@pytest.fixture(scope="module")
def zoo():
  return nnx_init(Zoo)


@pytest.mark.parametrize("by_class", [False, True])
@forms
def test_nnx_layers(zoo, form, by_class):
  rules = layer_rules(zoo) if by_class else None
  arrays, matrices = nnx_arrays(zoo), neuron_matrices(form(zoo), rules)
  assert list(matrices) == list(ZOO_READINGS)
  for path, reading in ZOO_READINGS.items():
    assert np.array_equal(matrices[path], reading(arrays[path])), path


@pytest.mark.parametrize("pure", [False, True])
def test_a_restored_checkpoint(tmp_path, pure):
  make = nnx.split_rngs(splits=7)(nnx.vmap(lambda r: nnx.GRUCell(3, 4, rngs=r)))
  model = nnx_init(lambda r: nnx.Dict(cells=make(r), out=nnx.Linear(4, 5, rngs=r)))
  state = nnx.state(model, nnx.Param)
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / "model", nnx.to_pure_dict(state) if pure else state)
    checkpointer.wait_until_finished()
    restored = checkpointer.restore(tmp_path / "model")
  expected = neuron_matrices(model)
  end = "" if pure else "/value"
  matrices = neuron_matrices(restored, layer_rules(model))
  assert set(matrices) == {f"{path}{end}" for path in expected}
  for path, rows in expected.items():
    np.testing.assert_array_equal(matrices[f"{path}{end}"], rows)
  rules = [LayerRule(f"cells/.*{end}", role="skip")]
  assert list(neuron_matrices(restored, rules)) == [f"out/kernel{end}"]


def test_nnx_modules_in_a_dict():
  make = lambda r: nnx.Conv(4, 6, (3, 3), feature_group_count=2, rngs=r)  # noqa: E731
  models = {"gen": nnx_init(make), "disc": nnx_init(make)}
  for rules in (None, layer_rules(models)):
    matrices = neuron_matrices(models, rules)
    assert {k: w.shape for k, w in matrices.items()} == {
      "disc/kernel": (2, 3, 18),
      "gen/kernel": (2, 3, 18),
    }


def test_equinox_module_with_function_and_none_leaves(key):
  mlp = eqx.nn.MLP(3, 2, 5, depth=2, use_bias=False, key=key)
  model = {"mlp": mlp, "norm": eqx.nn.LayerNorm(2)}
  leaves = jax.tree.leaves(model, is_leaf=lambda x: x is None)
  assert any(map(callable, leaves))
  assert any(x is None for x in leaves)
  matrices = neuron_matrices(model, [LayerRule(r"mlp/.*/weight", NeuronAxes(0))])
  assert list(matrices) == [f"mlp/layers/{i}/weight" for i in range(3)]
  for i, layer in enumerate(mlp.layers):
    assert np.array_equal(matrices[f"mlp/layers/{i}/weight"], layer.weight)


class Projections(eqx.Module):
  query: jax.Array
  value: jax.Array


@pytest.mark.parametrize("make", [dict, Projections], ids=["dict", "module"])
def test_parameter_named_value(make):
  # Only the boxes of Flax lose a trailing ``value``.
  params = {"attention": make(query=normal32(5, 3), value=normal32(4, 3))}
  matrices = neuron_matrices(params, [LayerRule(r"attention/\w+", NeuronAxes(0))])
  assert list(matrices) == ["attention/query", "attention/value"]


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
