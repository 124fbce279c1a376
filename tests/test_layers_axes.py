"""The axes of a rule: neurons, independent sets, and groups."""

import numpy as np
import pytest
from sets import normal, normal32
from trees import PARAMS, tree

from mhe_jax import (
  LayerRule,
  NeuronAxes,
  describe,
  network_energy,
  neuron_matrices,
)

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


# --- groups -----------------------------------------------------------------------


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
