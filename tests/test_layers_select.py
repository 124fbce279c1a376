"""What of a tree is selected, what is skipped, and what is told."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sets import normal, normal32
from trees import KERNEL, PARAMS, tree

from mhe_jax import (
  LayerRule,
  NeuronAxes,
  add_hyperspherical_energy,
  describe,
  layer_energies,
  network_energy,
  neuron_matrices,
)

# --- what is skipped --------------------------------------------------------------


def test_layers_without_pairs_are_skipped_with_a_reason():
  params = {
    "body": PARAMS["body"],
    "gate": {"kernel": normal(4, 1), "bias": normal(1)},
    "none": {"kernel": normal(4, 0)},
    "norm": {"scale": normal(4), "bias": normal(4)},
    "steps": {"kernel": np.ones((3, 3), np.int32)},
  }
  assert list(neuron_matrices(params)) == ["body/kernel"]
  skipped = describe(params).skipped
  assert skipped.keys() == {
    "body/bias", "gate/kernel", "gate/bias", "none/kernel", "norm/scale",
    "norm/bias", "steps/kernel",
  }  # fmt: skip
  assert "1 neuron" in skipped["gate/kernel"]
  assert "0 neurons" in skipped["none/kernel"]
  assert "int32" in skipped["steps/kernel"]
  assert skipped["norm/scale"] == "a scale, not neurons"


@pytest.mark.parametrize(
  ("params", "listed"),
  [
    ({}, "none"),
    ([], "none"),
    (None, "None"),
    ({"w": KERNEL}, "'w'"),
    ({"head": {"kernel": KERNEL[:, :1]}}, "'head/kernel': 1 neuron"),
    ({"head": {"kernel": optax.MaskedNode()}}, "'head/kernel': masked"),
    (KERNEL, "not a weight"),
  ],
  ids=["empty dict", "empty list", "None", "no kernel", "one", "masked", "bare array"],
)
@pytest.mark.parametrize(
  "function", [neuron_matrices, layer_energies, network_energy, describe]
)
def test_a_tree_without_neurons(function, params, listed):
  with pytest.raises(ValueError, match=f"params holds no neurons.*{listed}"):
    function(params)


def test_a_bare_array_by_a_rule():
  matrices = neuron_matrices(KERNEL, [LayerRule("", NeuronAxes(0))])
  assert np.array_equal(matrices[""], KERNEL)


def test_two_parameters_of_one_path():
  # "a/b" as a key, and "b" below "a": one would be counted twice, the other never.
  params = {"a": {"b": {"kernel": KERNEL}}, "a/b": {"kernel": KERNEL**2}}
  with pytest.raises(ValueError, match="a/b/kernel"):
    network_energy(params)


@pytest.mark.parametrize(
  "leaf",
  [None, optax.MaskedNode(), jnp.arange(6), jax.random.key(0), 2.0, "name", jnp.sin],
  ids=["None", "masked", "int", "key", "float", "str", "function"],
)
def test_leaf_that_is_passed_over(leaf):
  params = {"other": {"kernel": leaf}, "dense": {"kernel": KERNEL, "bias": None}}
  matrices = neuron_matrices(params)
  assert list(matrices) == ["dense/kernel"]
  assert np.array_equal(matrices["dense/kernel"], KERNEL.T)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("module", [np, jnp])
def test_array_keeps_its_dtype(module, dtype):
  kernel = module.asarray(np.arange(12).reshape(4, 3), dtype=jnp.dtype(dtype))
  matrix = neuron_matrices([{"kernel": kernel}])["0/kernel"]
  assert isinstance(matrix, jax.Array)
  assert matrix.dtype == dtype
  assert np.array_equal(matrix, np.asarray(kernel).T)


def test_abstract_arrays_are_selected_as_concrete_ones():
  rules = [LayerRule("head/kernel", NeuronAxes(0), role="output")]
  abstract = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, PARAMS))
  shapes = jax.eval_shape(lambda p: neuron_matrices(p, rules), abstract)
  concrete = neuron_matrices(PARAMS, rules)
  assert {k: x.shape for k, x in shapes.items()} == {
    k: x.shape for k, x in concrete.items()
  }


# --- what is left out -------------------------------------------------------------


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
