"""Rules and neuron axes: what is selected, what is skipped, and what is an error."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sets import normal

from mhe_jax import (
  LayerRule,
  NeuronAxes,
  describe,
  layer_energies,
  network_energy,
  neuron_matrices,
)

KERNEL = normal(5, 4)
PARAMS = {
  "body": {"kernel": KERNEL, "bias": normal(4)},
  "head": {"kernel": normal(4, 3), "bias": normal(3)},
}


# --- rules ---------------------------------------------------------------------


def test_without_a_rule_flax_names_are_read_and_others_are_not():
  params = {**PARAMS, "other": {"w": normal(5, 4)}}
  assert list(neuron_matrices(params)) == ["body/kernel", "head/kernel"]


def test_a_path_that_no_rule_matches_falls_through():
  rules = [LayerRule("head/kernel", NeuronAxes(0))]
  matrices = neuron_matrices(PARAMS, rules)
  assert np.array_equal(matrices["head/kernel"], PARAMS["head"]["kernel"])
  assert np.array_equal(matrices["body/kernel"], KERNEL.T)


def test_the_first_rule_that_matches_wins():
  first, second = LayerRule("body/.*", NeuronAxes(0)), LayerRule(r".*/kernel")
  skip_bias = LayerRule(".*/bias", role="skip")
  matrices = neuron_matrices(PARAMS, [skip_bias, first, second])
  assert matrices["body/kernel"].shape == (5, 4)
  matrices = neuron_matrices(PARAMS, [skip_bias, second])
  assert matrices["body/kernel"].shape == (4, 5)


@pytest.mark.parametrize("pattern", ["kernel", "head", "head/kerne", "ead/kernel", ""])
def test_a_pattern_must_match_the_whole_path(pattern):
  rules = [LayerRule(pattern, role="skip")]
  with pytest.raises(ValueError, match=f"'{pattern}' matches no path.*head/kernel"):
    neuron_matrices(PARAMS, rules)


def test_skip_takes_a_layer_out():
  rules = [LayerRule("head/.*", role="skip")]
  assert list(neuron_matrices(PARAMS, rules)) == ["body/kernel"]
  assert "head/.*" in describe(PARAMS, rules=rules).skipped["head/kernel"]


def test_role_and_weight_of_a_rule():
  hidden, output = (
    layer_energies(PARAMS, rules=rules)
    for rules in (None, [LayerRule("head/kernel", role="output")])
  )
  assert output["body/kernel"] == hidden["body/kernel"]
  assert output["head/kernel"] != hidden["head/kernel"]
  weighted = network_energy(
    PARAMS, rules=[LayerRule("head/kernel", role="output", weight=3.0)]
  )
  expected = output["body/kernel"] + 3.0 * output["head/kernel"]
  np.testing.assert_allclose(weighted, expected, rtol=1e-12)


def test_a_rule_without_axes_keeps_the_reading_of_flax():
  kernel = normal(6, 2, 3)
  params = {"attention": {"query": {"kernel": kernel, "bias": normal(2, 3)}}}
  rules = [LayerRule(".*/kernel", weight=2.0)]
  rows = neuron_matrices(params, rules)["attention/query/kernel"]
  assert np.array_equal(rows, kernel.reshape(6, 6).T)


@pytest.mark.parametrize("pattern", [".*", "attention/query/.*"])
def test_a_broad_rule_does_not_make_neurons_of_biases(pattern):
  # The biases of attention and of stacks have two axes, and are biases still.
  params = {
    "attention": {"query": {"kernel": normal(6, 2, 3), "bias": normal(2, 3)}},
    "ScanBlock_0": {"norm": {"scale": normal(3, 6), "bias": normal(3, 6)}},
  }
  rules = [LayerRule(pattern, weight=2.0)]
  assert list(neuron_matrices(params, rules)) == ["attention/query/kernel"]


def test_a_rule_without_axes_takes_the_last_axis_of_other_names():
  matrices = neuron_matrices({"net": {"w": KERNEL}}, [LayerRule("net/w")])
  assert np.array_equal(matrices["net/w"], KERNEL.T)


# --- axes ----------------------------------------------------------------------

TENSOR = normal(2, 3, 4, 5)


@pytest.mark.parametrize(
  ("axes", "subscripts", "shape"),
  [
    (NeuronAxes(), "abcd->dabc", (5, 24)),
    (NeuronAxes(1), "abcd->bacd", (3, 40)),
    (NeuronAxes((-2, -1)), "abcd->cdab", (20, 6)),
    (NeuronAxes((3, 0)), "abcd->dabc", (10, 12)),
    (NeuronAxes(-1, batch=0), "abcd->adbc", (2, 5, 12)),
    (NeuronAxes(-1, batch=-2), "abcd->cdab", (4, 5, 6)),
    (NeuronAxes((1, 3), batch=(2,)), "abcd->cbda", (4, 15, 2)),
    (NeuronAxes(-1, batch=(1, 0)), "abcd->badc", (3, 2, 5, 4)),
  ],
  ids=str,
)
def test_axes_of_a_rule(axes, subscripts, shape):
  rows = neuron_matrices({"w": TENSOR}, [LayerRule("w", axes)])["w"]
  assert rows.shape == shape
  assert np.array_equal(rows, np.einsum(subscripts, TENSOR).reshape(shape))


def test_an_axis_may_be_a_number():
  assert NeuronAxes(0, batch=1) == NeuronAxes((0,), batch=(1,))
  assert hash(NeuronAxes(0)) == hash(NeuronAxes([0]))


def test_heads_one_by_one():
  params = {"query": {"kernel": normal(6, 2, 3)}}
  rows = neuron_matrices(params, [LayerRule("query/kernel", NeuronAxes(-1, batch=-2))])[
    "query/kernel"
  ]
  assert rows.shape == (2, 3, 6)
  for head in range(2):
    assert np.array_equal(rows[head], params["query"]["kernel"][:, head].T)


@pytest.mark.parametrize(
  ("axes", "complaint"),
  [
    (NeuronAxes(2), "axis 2 .*out of range"),
    (NeuronAxes(-3), "axis -3 .*out of range"),
    (NeuronAxes(-1, batch=(0, 1, 2)), "axis 2 .*out of range"),
    (NeuronAxes((0, -2)), "twice"),
    (NeuronAxes(0, batch=0), "twice"),
    (NeuronAxes((0, 1)), "no axis for the features"),
    (NeuronAxes(0, batch=1), "no axis for the features"),
    (NeuronAxes(()), "no axis of neurons"),
  ],
  ids=str,
)
def test_axes_that_do_not_fit(axes, complaint):
  with pytest.raises(ValueError, match=rf"'body/kernel'.*{complaint}.*\(5, 4\)"):
    neuron_matrices(PARAMS, [LayerRule("body/kernel", axes)])


def test_a_rule_with_axes_passes_over_parameters_of_one_axis():
  params = {"norm": {"weight": normal(4)}, "dense": {"weight": normal(4, 5)}}
  matrices = neuron_matrices(params, [LayerRule(".*/weight", NeuronAxes(0))])
  assert list(matrices) == ["dense/weight"]
  with pytest.raises(ValueError, match=r"matches no neurons.*'body/bias'.*two axes"):
    neuron_matrices(PARAMS, [LayerRule("body/bias", NeuronAxes(0))])


@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64"])
def test_explicit_axes_on_an_array_that_is_not_real(dtype):
  params = {**PARAMS, "table": np.ones((3, 4), dtype)}
  with pytest.raises(TypeError, match=rf"'table'.*float.*{dtype}"):
    neuron_matrices(params, [LayerRule("table", NeuronAxes(0))])


@pytest.mark.parametrize("field", ["neurons", "batch"])
@pytest.mark.parametrize("axes", [0.5, "0", None, (0, "1")])
def test_axes_must_be_whole_numbers(field, axes):
  with pytest.raises(TypeError, match=field):
    NeuronAxes(**{field: axes})


# --- errors of rules -----------------------------------------------------------


@pytest.mark.parametrize(
  ("arguments", "error", "complaint"),
  [
    ({"pattern": "a("}, ValueError, r"pattern 'a\('"),
    ({"pattern": 3}, ValueError, "pattern 3"),
    ({"axes": 0}, TypeError, "axes .*NeuronAxes.*0"),
    ({"axes": (0, 1)}, TypeError, "axes .*NeuronAxes"),
    ({"role": "input"}, ValueError, "role .*'input'"),
    ({"role": 3}, ValueError, "role .*'unread' or None, got 3"),
    ({"weight": -1.0}, ValueError, r"weight .*-1\.0"),
    ({"weight": float("nan")}, ValueError, "weight .*nan"),
    ({"weight": float("inf")}, ValueError, "weight .*inf"),
    ({"weight": "1"}, TypeError, "weight .*'1'"),
    ({"weight": None}, TypeError, "weight .*None"),
  ],
  ids=str,
)
def test_invalid_rule(arguments, error, complaint):
  with pytest.raises(error, match=complaint):
    LayerRule(**{"pattern": "a", **arguments})


@pytest.mark.parametrize(
  "rules",
  [LayerRule("body/kernel"), ["body/kernel"], "body", {"body/kernel": 1}, 3],
  ids=repr,
)
def test_rules_must_be_a_sequence_of_rules(rules):
  with pytest.raises(TypeError, match="rules must be"):
    neuron_matrices(PARAMS, rules)


def test_rules_of_a_generator_are_not_lost():
  rules = (rule for rule in [LayerRule("head/.*", role="skip")])
  assert list(neuron_matrices(PARAMS, rules)) == ["body/kernel"]


def test_a_pattern_that_matches_nothing_shows_close_paths():
  rules = [LayerRule("haed/kernel", role="output")]
  with pytest.raises(ValueError, match=r"'haed/kernel' matches no path.*'head/kernel'"):
    neuron_matrices(PARAMS, rules)


@pytest.mark.parametrize("role", ["hidden", "output"])
def test_a_pattern_that_matches_only_biases(role):
  rules = [LayerRule(".*/bias", role=role)]
  with pytest.raises(ValueError, match=r"'\.\*/bias' matches no neurons.*head/bias"):
    neuron_matrices(PARAMS, rules)


def test_a_rule_for_a_masked_path_is_no_error():
  # optax.masked hands a transformation the same tree with holes.
  params = {**PARAMS, "head": {"kernel": optax.MaskedNode()}}
  rules = [LayerRule("head/kernel", NeuronAxes(0), role="output")]
  assert list(neuron_matrices(params, rules)) == ["body/kernel"]
  with pytest.raises(ValueError, match="'tail/kernel' matches no path"):
    neuron_matrices(params, [LayerRule("tail/kernel")])


# --- what is skipped -----------------------------------------------------------


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


def test_two_parameters_of_one_path():
  # "a/b" as a key, and "b" below "a": one would be counted twice, the other never.
  params = {"a": {"b": {"kernel": KERNEL}}, "a/b": {"kernel": KERNEL**2}}
  with pytest.raises(ValueError, match="a/b/kernel"):
    network_energy(params)


# --- leaves --------------------------------------------------------------------


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
