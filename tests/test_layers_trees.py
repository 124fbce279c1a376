"""The rows of a neuron matrix are the units of the layer, in Haiku and Equinox."""

import equinox as eqx
import haiku as hk
import jax
import numpy as np
import pytest
from sets import normal32
from trees import F32, init, rows_of_units, units

from mhe_jax import LayerRule, NeuronAxes, neuron_matrices


@pytest.mark.parametrize(
  ("make", "axes", "input_shape"),
  [
    (lambda: hk.Linear(5), None, (2, 3)),
    (lambda: hk.Conv2D(4, 3), None, (1, 5, 5, 3)),
    (lambda: hk.Conv2DTranspose(4, 3), NeuronAxes(-2), (1, 5, 5, 3)),
  ],
  ids=["Linear", "Conv2D", "Conv2DTranspose"],
)
def test_haiku_layer(make, axes, input_shape):
  x = normal32(*input_shape, seed=9)
  network = hk.without_apply_rng(hk.transform(lambda x: make()(x)))  # noqa: PLW0108
  owned = rows_of_units(
    lambda p: units(network.apply(p, x)), init(network, x), [LayerRule(r".*/w", axes)]
  )
  (used,) = owned.values()
  assert np.array_equal(used, np.eye(len(used), dtype=bool))


@pytest.mark.parametrize(
  ("make", "input_shape"),
  [
    (lambda key: eqx.nn.Linear(3, 5, dtype=F32, key=key), (3,)),
    (lambda key: eqx.nn.Conv2d(4, 6, 3, groups=2, dtype=F32, key=key), (4, 5, 5)),
    (lambda key: eqx.nn.Conv1d(3, 4, 3, use_bias=False, dtype=F32, key=key), (3, 5)),
  ],
  ids=["Linear", "Conv2d", "Conv1d"],
)
def test_equinox_layer(make, input_shape, key):
  x = normal32(*input_shape, seed=9)
  params, static = eqx.partition(make(key), eqx.is_array)
  owned = rows_of_units(
    lambda p: units(eqx.combine(p, static)(x), (0,)),
    params,
    [LayerRule("weight", NeuronAxes(0))],
  )
  assert np.array_equal(owned["weight"], np.eye(len(owned["weight"]), dtype=bool))


def test_equinox_gru_gates(key):
  params, static = eqx.partition(eqx.nn.GRUCell(3, 4, dtype=F32, key=key), eqx.is_array)
  x, h = normal32(3), normal32(4, seed=1)
  rules = [LayerRule("weight_[ih]h", NeuronAxes(0))]
  owned = rows_of_units(lambda p: eqx.combine(p, static)(x, h), params, rules)
  assert set(owned) == {"weight_ih", "weight_hh"}
  for used in owned.values():
    assert np.array_equal(used, np.tile(np.eye(4, dtype=bool), 3))


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
