"""The report: its numbers against known configurations, its text, and its notes."""

import dataclasses
import math
import re

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from sets import normal

from mhe_jax import (
  Gaussian,
  LayerRule,
  NeuronAxes,
  Potential,
  RelativeExcess,
  Riesz,
  Sampled,
  describe,
  hyperspherical_energy,
  layer_energies,
  relative_excess,
)


def at_angle(degrees, dtype=np.float64):
  """A kernel of two neurons in the plane, this many degrees apart."""
  theta = np.radians(degrees)
  return np.array([[3.0, 0.5 * np.cos(theta)], [0.0, 0.5 * np.sin(theta)]], dtype)


def report_of(kernel, half_space=True, potential=Riesz(1.0)):
  (row,) = describe({"kernel": kernel}, potential, half_space=half_space)
  return row


PARAMS = {
  "blocks": {"kernel": normal(3, 5, 4), "bias": normal(3, 4)},
  "body": {"kernel": normal(3, 3, 2, 6), "bias": normal(6)},
  "head": {"kernel": normal(5, 3)},
  "norm": {"scale": np.ones(4)},
}
RULES = [LayerRule("head/kernel", role="output")]


# --- numbers -------------------------------------------------------------------


@pytest.mark.parametrize(
  ("degrees", "full", "half"),
  [(0.5, 0.5, 0.5), (60, 60, 60), (90, 90, 90), (150, 150, 30), (179.5, 179.5, 0.5)],
)
def test_smallest_angle_of_two_neurons(degrees, full, half):
  kernel = at_angle(degrees)
  for half_space, expected in ((False, full), (True, half)):
    angle = report_of(kernel, half_space).smallest_angle
    np.testing.assert_allclose(angle, expected, rtol=1e-6)


def test_smallest_angle_of_antipodal_neurons():
  kernel = np.array([[1.0, -2.0], [0.0, 0.0]])
  assert report_of(kernel, half_space=False).smallest_angle == pytest.approx(180.0)
  assert report_of(kernel, half_space=True).smallest_angle == pytest.approx(0.0)


def test_smallest_angle_of_the_simplex():
  # Every cosine is -1 / (n - 1): the closest pair is an obtuse one.
  row = report_of(np.eye(6) - 1 / 6, half_space=False)
  assert row.smallest_angle == pytest.approx(np.degrees(np.arccos(-1 / 5)))


def test_smallest_angle_sees_what_float32_cosines_do_not():
  # The cosines of 1e-5, 2e-4 and 3e-4 rad all round to 1: the closest pair must
  # not be chosen by them.
  rotation = np.linalg.qr(normal(16, 16))[0]
  rows = list(rotation[:4])
  for i, angle in enumerate((3e-4, 1e-5, 2e-4)):
    rows.append(np.cos(angle) * rotation[i] + np.sin(angle) * rotation[4 + i])
  expected = pytest.approx(np.degrees(1e-5), rel=0.02)
  for kernel in (np.array(rows[1::4]).T, np.array(rows).T):
    assert report_of(kernel.astype(np.float32)).smallest_angle == expected


def test_a_stack_is_summarized():
  matrices = PARAMS["blocks"]["kernel"].transpose(0, 2, 1)
  row = describe(PARAMS, Riesz(2.0), rules=RULES)["blocks/kernel"]
  assert (row.layers, row.n, row.d, row.shape) == (3, 4, 5, (3, 5, 4))
  energies = hyperspherical_energy(matrices, Riesz(2.0), half_space=True)
  np.testing.assert_allclose(row.energy, energies.mean(), rtol=1e-12)
  excesses = relative_excess(matrices, Riesz(2.0), half_space=True)
  np.testing.assert_allclose(row.relative_excess, excesses.mean(), rtol=1e-12)
  units = matrices / np.linalg.norm(matrices, axis=-1, keepdims=True)
  cosines = np.abs(units @ units.transpose(0, 2, 1)) - 2.0 * np.eye(4)
  np.testing.assert_allclose(
    row.smallest_angle, np.degrees(np.arccos(cosines.max())), rtol=1e-9
  )


@pytest.mark.parametrize("half_space", [True, False])
@pytest.mark.parametrize(
  "potential", [Riesz(0.0), Riesz(1.0, "geodesic"), Gaussian()], ids=str
)
def test_rows_agree_with_the_functions(potential, half_space):
  report = describe(PARAMS, potential, half_space=half_space, rules=RULES)
  energies = layer_energies(PARAMS, potential, half_space=half_space, rules=RULES)
  assert [row.path for row in report] == list(energies)
  for row in report:
    np.testing.assert_allclose(
      row.energy * row.layers, energies[row.path], rtol=1e-9, err_msg=row.path
    )
  head = report["head/kernel"]
  assert (head.role, head.n, head.d, head.layers) == ("output", 3, 5, 1)
  excess = relative_excess(PARAMS["head"]["kernel"].T, potential)
  np.testing.assert_allclose(head.relative_excess, excess, rtol=1e-9)


@pytest.mark.parametrize(
  ("kernel", "half_space", "energy", "excess"),
  [
    # Orthogonal: the optimum of half-space, [f(2) + (2n - 2) f(sqrt 2)] / (2n - 1).
    (np.eye(6)[:, :4], True, (1 / 4 + 6 / 2) / 7, 0.0),
    # In full space d^2 = 2; the bound is at 2n / (n - 1), chance (d - 2) / 2(d - 3).
    (np.eye(6)[:, :4], False, 1 / 2, (1 / 2 - 3 / 8) / (2 / 3 - 3 / 8)),
  ],
  ids=["half-space", "full space"],
)
def test_orthogonal_neurons(kernel, half_space, energy, excess):
  row = report_of(kernel, half_space, Riesz(2.0))
  assert row.energy == pytest.approx(energy)
  assert row.relative_excess == pytest.approx(excess, abs=1e-9)
  assert row.smallest_angle == pytest.approx(90.0)


def test_random_neurons_are_as_redundant_as_chance():
  # Standard deviation by theory: 0.02 of the scale.
  row = report_of(normal(64, 200), True, Riesz(2.0))
  assert row.relative_excess == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_lower_precision(dtype):
  row = report_of(jnp.eye(5, 4, dtype=dtype), True, Riesz(2.0))
  assert row.energy == pytest.approx((1 / 4 + 6 / 2) / 7, rel=1e-6)
  assert row.smallest_angle == pytest.approx(90.0)


@dataclasses.dataclass(frozen=True)
class Linear(Potential):
  def value(self, r):
    return 4.0 - r


def test_a_potential_of_ones_own_has_no_scale():
  row = report_of(np.eye(3), False, Linear())
  assert row.energy == pytest.approx(2.0)
  assert math.isnan(row.relative_excess)
  assert "nan" in str(describe({"kernel": np.eye(3)}, Linear()))


# --- the container -------------------------------------------------------------


def test_report_is_a_sequence_of_rows_by_path():
  report = describe(PARAMS, rules=RULES)
  assert len(report) == 3
  assert [row.path for row in report] == ["blocks/kernel", "body/kernel", "head/kernel"]
  assert [report[row.path] for row in report] == list(report)
  assert [row.role for row in report] == ["hidden", "hidden", "output"]
  with pytest.raises(KeyError, match="tail/kernel"):
    report["tail/kernel"]


# --- text ----------------------------------------------------------------------


def test_text_is_an_aligned_table():
  report = describe(PARAMS, Riesz(2.0), rules=RULES)
  header, rule, *lines = str(report).splitlines()
  spans = [m.span() for m in re.finditer("-+", rule)]
  columns = [
    "path", "shape", "role", "n", "d", "energy", "relative excess", "smallest angle"
  ]  # fmt: skip
  assert [header[a:b].strip() for a, b in spans] == columns
  assert lines[len(report)] == ""
  for row, line in zip(report, lines):
    assert all(line[b : b + 2].strip() == "" for _, b in spans)
    assert [line[a:b].strip() for a, b in spans] == [
      row.path,
      str(row.shape),
      row.role,
      f"{row.layers} x {row.n}" if row.layers > 1 else str(row.n),
      str(row.d),
      f"{row.energy:.5f}",
      f"{row.relative_excess:.3f}",
      f"{row.smallest_angle:.4g} deg",
    ]
  assert "3 x 4" in lines[0]
  assert repr(report) == str(report)


@pytest.mark.parametrize("half_space", [True, False])
def test_notes_name_potential_and_space(half_space):
  text = str(describe(PARAMS, Riesz(2.0, "geodesic"), half_space=half_space))
  assert re.search(r"Riesz\(s=2\.0, metric='geodesic'", text)
  hidden = "half-space" if half_space else "full space"
  assert f"hidden layers in {hidden}" in text


def test_hint_when_there_is_no_output_layer():
  assert "No output layer" in str(describe(PARAMS))
  assert "No output layer" not in str(describe(PARAMS, rules=RULES))


def test_skipped_parameters_are_listed_with_reasons():
  params = {
    **PARAMS,
    "gate": {"kernel": normal(4, 1)},
    "frozen": {"kernel": normal(4, 4)},
    "counts": {"kernel": np.ones((2, 3), np.int32)},
    "absent": {"kernel": None},
  }
  report = describe(params, rules=[*RULES, LayerRule("frozen/.*", role="skip")])
  assert report.skipped.keys() == {
    "blocks/bias", "body/bias", "counts/kernel", "frozen/kernel", "gate/kernel",
    "norm/scale",
  }  # fmt: skip
  text = str(report)
  for path, reason in report.skipped.items():
    assert re.search(rf"Skipped \d+ \({re.escape(reason)}\): .*{path}", text), path


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_damaged_layers_are_named(bad):
  params = jax.tree.map(np.copy, PARAMS)
  params["blocks"]["kernel"][1, 2, 3] = bad  # One weight of one layer of the stack.
  params["head"]["kernel"][0, 0] = bad
  report = describe(params, rules=RULES)
  assert report.damaged == ("blocks/kernel", "head/kernel")
  assert "NaN or infinity in: blocks/kernel, head/kernel" in str(report)
  row = report["blocks/kernel"]
  assert all(map(math.isnan, (row.energy, row.relative_excess, row.smallest_angle)))
  assert math.isfinite(report["body/kernel"].energy)


def test_undamaged_layers_are_not_named():
  # Coincident neurons and rows of zeros are redundant or dead, not damaged.
  params = {"kernel": np.zeros((3, 4)), "twins": {"kernel": np.ones((3, 4))}}
  report = describe(params)
  assert report.damaged == ()
  assert "NaN or infinity" not in str(report)
  assert report["twins/kernel"].smallest_angle == pytest.approx(0.0, abs=1e-6)


def zero_columns(kernel, *columns):
  kernel = kernel.copy()
  kernel[..., list(columns)] = 0.0
  return kernel


@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
@pytest.mark.parametrize("role", ("hidden", "output"))
def test_a_layer_without_directions(role, dtype):
  params = {"zero": {"kernel": jnp.zeros((8, 16), dtype)}, **PARAMS}
  report = describe(params, rules=[LayerRule("zero/kernel", role=role), *RULES])
  row = report["zero/kernel"]
  assert math.isnan(row.relative_excess) and math.isnan(row.smallest_angle)
  # The energy keeps its meaning: all are taken as orthogonal.
  zeros = hyperspherical_energy(
    jnp.zeros((16, 8)), Riesz(2.0), half_space=role == "hidden"
  )
  assert row.energy == pytest.approx(float(zeros))
  assert row.zero_neurons == 16
  assert report.damaged == ()
  (line,) = re.findall(r"^zero/kernel .*$", str(report), re.M)
  assert line.split()[-2:] == ["-", "-"]
  assert "No directions (all rows zero): zero/kernel." in str(report)
  assert "No directions (all rows zero): zero/kernel." in report._repr_html_()


def test_neurons_that_are_zero_are_counted_and_left_out_of_the_angle():
  # All angles between the others are obtuse: that to a zero row must not count.
  kernel = np.zeros((6, 9))
  kernel[:, :6] = np.eye(6) - 1 / 6
  report = describe({**PARAMS, "tail": {"kernel": kernel}}, half_space=False)
  row = report["tail/kernel"]
  assert row.smallest_angle == pytest.approx(np.degrees(np.arccos(-1 / 5)))
  assert math.isfinite(row.relative_excess)
  assert row.zero_neurons == 3
  assert "3 of 9 in tail/kernel" in str(report)
  assert "No directions" not in str(report)
  assert report["head/kernel"].zero_neurons == 0


def test_a_single_neuron_that_is_not_zero_has_no_angle():
  row = report_of(zero_columns(normal(5, 4), 0, 1, 3))
  assert math.isnan(row.smallest_angle) and math.isnan(row.relative_excess)
  assert row.zero_neurons == 3
  text = str(describe({"kernel": zero_columns(normal(5, 4), 0, 1, 3)}))
  assert "3 of 4 in kernel" in text and "No directions" not in text


def test_layers_of_a_stack_without_directions_are_left_out_of_its_scale():
  blocks = PARAMS["blocks"]["kernel"].copy()
  blocks[1] = 0.0
  blocks[2, :, 0] = 0.0
  params = {**PARAMS, "blocks": {**PARAMS["blocks"], "kernel": blocks}}
  report = describe(params, Riesz(2.0), rules=RULES)
  row = report["blocks/kernel"]
  excesses = relative_excess(
    blocks.transpose(0, 2, 1)[::2], Riesz(2.0), half_space=True
  )
  assert row.relative_excess == pytest.approx(float(excesses.mean()))
  assert 0.0 < row.smallest_angle < 90.0
  assert row.zero_neurons == 5
  assert "5 of 12 in blocks/kernel" in str(report)


@pytest.mark.parametrize("checks", ("debug_nans", "debug_infs"))
def test_damage_is_reported_where_jax_would_raise(checks):
  params = jax.tree.map(np.copy, PARAMS)
  params["head"]["kernel"][0, 0] = np.nan
  params["body"]["kernel"][0, 0] = np.inf
  with getattr(jax, checks)(True):
    report = describe(params, Riesz(9.0), rules=RULES)  # Random energy is infinite.
  assert report.damaged == ("body/kernel", "head/kernel")
  assert math.isnan(report["blocks/kernel"].relative_excess)
  assert math.isfinite(report["blocks/kernel"].energy)


def test_html_is_escaped_and_complete():
  params = {"<b>&": {"kernel": normal(5, 3)}, **PARAMS}
  report = describe(params)
  html = report._repr_html_()
  assert "<b>" not in html
  assert "&lt;b&gt;&amp;/kernel" in html
  for path in ("blocks/kernel", "body/kernel", "head/kernel", "norm/scale"):
    assert path in html
  assert html.count("<tr>") == html.count("</tr>") == len(report) + 1
  assert "No output layer" in html


# --- trees ---------------------------------------------------------------------


def test_linen_variables():
  model = nn.Sequential([nn.Dense(4), nn.BatchNorm(use_running_average=True)])
  variables = model.init(jax.random.key(0), jnp.ones((1, 3), jnp.float32))
  report = describe(variables)
  (row,) = report
  assert row.path == "params/layers_0/kernel"
  expected = hyperspherical_energy(
    variables["params"]["layers_0"]["kernel"].T, half_space=True
  )
  assert row.energy == pytest.approx(float(expected), rel=1e-6)
  assert "batch_stats/layers_1/mean" in report.skipped


def test_nnx_module_and_its_state():
  model = nnx.Sequential(
    nnx.Linear(3, 4, rngs=nnx.Rngs(0)), nnx.BatchNorm(4, rngs=nnx.Rngs(0))
  )
  report = describe(model)
  assert [row.path for row in report] == ["layers/0/kernel"]
  assert report.skipped.keys() == {"layers/0/bias", "layers/1/bias", "layers/1/scale"}
  assert describe(nnx.state(model, nnx.Param)) == report
  assert describe(nnx.state(model)).rows == report.rows


def test_equinox_module(key):
  mlp = eqx.nn.MLP(3, 2, 5, depth=1, key=key)
  rules = [
    LayerRule("layers/1/weight", NeuronAxes(0), role="output"),
    LayerRule(r"layers/\d+/weight", NeuronAxes(0)),
  ]
  report = describe(mlp, rules=rules)
  assert [(row.path, row.role, row.n, row.d) for row in report] == [
    ("layers/0/weight", "hidden", 5, 3),
    ("layers/1/weight", "output", 2, 5),
  ]
  assert "final_activation" not in report.skipped  # Functions are no parameters.


def test_a_layer_without_weights_does_not_spoil_the_report():
  report = describe({**PARAMS, "empty": {"kernel": np.zeros((0, 3))}}, rules=RULES)
  assert set(report) >= set(describe(PARAMS, rules=RULES))


# --- errors --------------------------------------------------------------------


def test_under_jit():
  with pytest.raises(TypeError, match=r"describe needs concrete.*'blocks/kernel'.*jit"):
    jax.jit(lambda p: describe(p)["head/kernel"].energy)(PARAMS)


def test_abstract_leaves():
  params = {**PARAMS, "body": {"kernel": jax.ShapeDtypeStruct((3, 4), jnp.float32)}}
  with pytest.raises(TypeError, match=r"describe needs concrete.*'body/kernel'"):
    describe(params)


def test_invalid_potential():
  with pytest.raises(TypeError, match="potential must be"):
    describe(PARAMS, 2.0)


def test_rule_that_matches_nothing():
  with pytest.raises(ValueError, match="'tail/kernel' matches no path"):
    describe(PARAMS, rules=[LayerRule("tail/kernel")])


def test_many_neurons_are_sampled_and_it_says_so():
  rng = np.random.default_rng(0)
  params = {
    "few": {"kernel": jnp.asarray(rng.normal(size=(8, 20)))},
    "many": {"kernel": jnp.asarray(rng.normal(size=(8, 300)))},
  }
  exact = describe(params, Riesz(1.0))
  sampled = describe(params, Sampled(Riesz(1.0), 32), key=jax.random.key(0))
  assert sampled["few/kernel"] == exact["few/kernel"]
  row = sampled["many/kernel"]
  assert row.sampled and not exact["many/kernel"].sampled
  assert row.relative_excess == pytest.approx(
    exact["many/kernel"].relative_excess, rel=0.2
  )
  assert np.isnan(row.smallest_angle)
  lines = str(sampled).splitlines()
  assert any("few" in line and "~" not in line for line in lines)
  assert any("many" in line and "~" in line and line.endswith("-") for line in lines)
  assert "~: an estimate" in str(sampled)
  excess = describe(
    params, RelativeExcess(Sampled(Riesz(1.0), 32)), key=jax.random.key(0)
  )
  assert excess["many/kernel"].sampled
  damaged = {"w": {"kernel": params["many"]["kernel"].at[0, 0].set(np.nan)}}
  assert describe(damaged, Sampled(Riesz(1.0), 32), key=jax.random.key(0)).damaged


def test_random_objectives_need_a_key():
  params = {"Dense_0": {"kernel": jnp.eye(3)}}
  with pytest.raises(ValueError, match="key must be a PRNG key for Sampled"):
    describe(params, Sampled(Riesz(1.0)))
