"""One answer to how redundant a layer is, whoever is asked: of its living neurons."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sets import normal32

from mhe_jax import (
  Gaussian,
  LayerRule,
  NeuronAxes,
  RelativeExcess,
  Riesz,
  Sampled,
  describe,
  layer_excess,
  relative_excess,
  spread,
)
from mhe_jax.report import compare, redundancy

N, D = 16, 8
POTENTIALS = [Riesz(2.0), Riesz(0.0), Riesz(1.0, "geodesic"), Gaussian(2.0)]
ROLES = [
  LayerRule("layer/kernel", NeuronAxes(-2), role=r) for r in ("hidden", "output")
]


def with_dead(dead, dtype=np.float32):
  rows = np.array(normal32(N, D), dtype)
  rows[dead] = 0.0
  return rows


@pytest.mark.parametrize("rule", ROLES, ids=lambda rule: rule.role)
@pytest.mark.parametrize("potential", POTENTIALS, ids=str)
@pytest.mark.parametrize("dead", [[], [3], [0, 1, 2, 15], [*range(14)]], ids=len)
def test_everybody_gives_the_excess_of_the_neurons_that_are_alive(
  dead, potential, rule
):
  rows = with_dead(dead)
  half_space = rule.role == "hidden"
  alone = np.delete(rows, dead, axis=0).astype(np.float64)
  expected = float(relative_excess(alone, potential, half_space=half_space))
  params = {"layer": {"kernel": jnp.asarray(rows)}}
  tx = spread(optax.sgd(0.1), objective=RelativeExcess(potential), rules=[rule])
  _, state = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
  answers = {
    "describe": describe(params, potential, rules=[rule])[
      "layer/kernel"
    ].relative_excess,
    "layer_excess": layer_excess(params, potential, rules=[rule])["layer/kernel"],
    "of the excess": layer_excess(
      params, RelativeExcess(potential, log=True), rules=[rule]
    )["layer/kernel"],
    "sampled": layer_excess(
      params, Sampled(potential, 8), rules=[rule], key=jax.random.key(0)
    )["layer/kernel"],
    "report": redundancy(params, potential, rules=[rule])[
      "layer/kernel"
    ].relative_excess,
    "relative_excess": relative_excess(rows, potential, half_space=half_space),
    "spread": state.excess["layer/kernel"],
  }
  for name, answer in answers.items():
    assert float(answer) == pytest.approx(expected, rel=2e-4, abs=2e-4), name


def test_defaults_agree():
  rules = [LayerRule("layer/kernel", NeuronAxes(-2))]
  params = {"layer": {"kernel": jnp.asarray(with_dead([1, 2]))}}
  tx = spread(optax.sgd(0.1), rules=rules)
  _, state = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
  row = describe(params, rules=rules)["layer/kernel"]
  for answer in (
    layer_excess(params, rules=rules)["layer/kernel"],
    state.excess["layer/kernel"],
    redundancy(params, rules=rules)["layer/kernel"].relative_excess,
  ):
    assert float(answer) == pytest.approx(row.relative_excess, rel=1e-5)


def test_stacks_and_groups():
  rows = np.stack([with_dead([]), with_dead([0, 5])])
  stack = {"layer": {"kernel": jnp.asarray(rows)}}
  flat = {"layer": {"kernel": jnp.asarray(rows.reshape(2 * N, D))}}
  expected = np.mean(
    [
      float(relative_excess(np.delete(x, dead, 0), Riesz(2.0), half_space=True))
      for x, dead in zip(rows, ([], [0, 5]))
    ]
  )
  for params, axes in ((stack, NeuronAxes(-2, 0)), (flat, NeuronAxes(0, groups=2))):
    rules = [LayerRule("layer/kernel", axes)]
    row = describe(params, rules=rules)["layer/kernel"]
    assert row.relative_excess == pytest.approx(expected, rel=1e-4)
    excess = layer_excess(params, rules=rules)["layer/kernel"]
    assert float(excess) == pytest.approx(expected, rel=1e-4)
    row = redundancy(params, rules=rules)["layer/kernel"]
    assert row.relative_excess == pytest.approx(expected, rel=1e-4)


def test_many_neurons():
  rows = np.array(normal32(3000, D), np.float64)
  rows[1:2000] = 0.0
  alone = np.delete(rows, range(1, 2000), axis=0)
  for half_space in (True, False):
    expected = relative_excess(alone, Riesz(2.0), half_space=half_space)
    found = relative_excess(rows, Riesz(2.0), half_space=half_space)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_few_dimensions_have_a_scale_by_default(d):
  params = {"layer": {"kernel": normal32(d, N)}}
  report = describe(params)
  row = report["layer/kernel"]
  assert row.potential == Riesz(float(max(d - 2, 0)))
  assert f"{row.potential}, for so few dimensions, in: layer/kernel" in str(report)
  on_disk = redundancy(params, rules=[LayerRule(".*", NeuronAxes(-1))])
  assert on_disk["layer/kernel"].potential == str(row.potential)
  assert f"{row.potential}, for so few dimensions, in: layer/kernel" in str(on_disk)
  if d > 1:
    excess = layer_excess(params)["layer/kernel"]
    assert float(excess) == pytest.approx(row.relative_excess, rel=1e-4)
    answer = on_disk["layer/kernel"].relative_excess
    assert answer == pytest.approx(row.relative_excess, rel=1e-4)


@pytest.mark.parametrize("d", [2, 3, 8])
def test_a_comparison_is_of_the_same_energies(d):
  rules = [LayerRule(".*", NeuronAxes(-1))]
  params, base = ({"layer": {"kernel": normal32(d, N, seed=seed)}} for seed in (0, 1))
  row = compare(params, base, rules=rules)["layer/kernel"]
  for tree, answer in ((base, row.excess_before), (params, row.excess_after)):
    expected = describe(tree, rules=rules)["layer/kernel"]
    assert answer == pytest.approx(expected.relative_excess, rel=1e-4)
    assert row.potential == str(Riesz(float(min(2, d - 2))))
