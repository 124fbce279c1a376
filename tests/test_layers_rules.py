"""What rules say, in their order; and errors of rules."""

import re

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sets import normal
from trees import KERNEL, PARAMS, tree

from mhe_jax import (
  LayerRule,
  NeuronAxes,
  describe,
  layer_energies,
  network_energy,
  neuron_matrices,
)

# --- what they say ----------------------------------------------------------------


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


def test_of_a_rule_without_axes_the_next_that_has_some_reads():
  params = {**tree("body", (5, 4)), **tree("head", (4, 3))}
  rules = [
    LayerRule("head/kernel", role="output"),
    LayerRule(".*/kernel", NeuronAxes(0)),
  ]
  row = describe(params, rules=rules)["head/kernel"]
  assert (row.role, row.n) == ("output", 4)


@pytest.mark.parametrize("weight", [np.float32(2.0), jnp.float32(2.0), 2])
def test_a_weight_is_a_plain_number(weight):
  rule = LayerRule("a", weight=weight)
  assert repr(rule) == "LayerRule('a', weight=2.0)"
  assert hash(rule) == hash(LayerRule("a", weight=2.0))


# --- errors -----------------------------------------------------------------------


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


def test_an_optional_rule_may_match_nothing():
  rule = LayerRule("tail/kernel", optional=True)
  assert list(neuron_matrices(tree("body", (5, 4)), [rule])) == ["body/kernel"]
