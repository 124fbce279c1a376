"""Every experiment runs at its smallest preset, and its statistics are right."""

import itertools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats

from experiments.numerics.accuracy import (
  POTENTIALS,
  Config,
  draw,
  exact,
  values_and_gradients,
)
from experiments.numerics.precision import ALGORITHMS, emulated
from experiments.report.statistics import holm, paired_difference
from mhe_jax import hyperspherical_energy


def run_smoke(experiment, output):
  """Standard output, of a process of its own."""
  command = [sys.executable, "-m", f"experiments.{experiment}", "--preset", "smoke"]
  result = subprocess.run(
    [*command, "--output", str(output)],
    check=False,
    capture_output=True,
    text=True,
    env={**os.environ, "PYTHONIOENCODING": "utf-8"},
  )
  assert result.returncode == 0, result.stderr
  return " ".join(result.stdout.split())


def test_quickstart_writes_its_result_and_picture(tmp_path):
  assert "paired difference" in run_smoke("quickstart", tmp_path)
  data = json.loads((tmp_path / "quickstart.json").read_text())
  layers = {*(f"conv{i}/kernel" for i in range(3)), "head/kernel"}
  for setting in data["settings"]:
    without, with_ = (setting["arms"][arm] for arm in ("without", "energy"))
    assert [r["seed"] for r in without] == [r["seed"] for r in with_]
    for run, rival in zip(without, with_):
      assert 0 <= run["test_error"] <= 100
      assert set(run["excess"]) == layers
      # Pairs start from the same network, and end with different ones.
      head, rival_head = (r["excess"]["head/kernel"] for r in (run, rival))
      assert head[0] == rival_head[0]
      assert head[-1] > rival_head[-1]
  assert (tmp_path / "quickstart.png").read_bytes().startswith(b"\x89PNG")


def test_accuracy_measures_what_rounding_and_softening_do(tmp_path):
  assert "worst of 2 random draws" in run_smoke("numerics.accuracy", tmp_path)
  data = json.loads((tmp_path / "accuracy.json").read_text())
  softened, close, wide, _ = data["pair"]
  for name in data["config"]["potentials"]:
    assert softened["float32"][name]["gradient"]["worst"] == 1.0
    assert close["float32"][name]["gradient"]["worst"] < 2e-2
    assert close["tf32"][name]["gradient"]["worst"] > 0.1
    assert wide["float32"][name]["gradient"]["worst"] < 2e-6
    (pair,) = data["bfloat16_pair"]
    errors = [pair[kind][name]["value"]["worst"] for kind in ("computation", "storage")]
    assert errors[0] < 1e-6 < errors[1] < 2e-2
    for case in data["norms"]:
      assert case["float32"][name]["gradient"]["worst"] < 1e-4
  assert data["layers"][0]["excess_error"] < 1e-4


def test_precision_measures_what_products_of_parts_do(tmp_path):
  assert "bfloat16 x 6" in run_smoke("numerics.precision", tmp_path)
  data = json.loads((tmp_path / "precision.json").read_text())
  errors = {name: each["emulated"][1] for name, each in data["errors"].items()}
  assert data["exact"][1] < errors["float32"] < 2e-2 < 0.1 < errors["TF32"]
  for name in ("bfloat16 x 9", "bfloat16 x 6", "TF32 x 3"):
    assert errors[name] < 2 * errors["float32"]
  assert errors["bfloat16"] > 2 * errors["TF32"]
  assert data["errors"]["float32"]["compiled"][1] < 2 * errors["float32"]


@pytest.mark.parametrize("name", ("bfloat16", "TF32", "TF32 x 3", "bfloat16 x 6"))
def test_products_of_parts_are_what_they_say(name):
  """By hand: parts, and the products that are taken, in float64."""
  algorithm = ALGORITHMS[name]

  def parts(x):
    for _ in range(algorithm.parts):
      mantissa, exponent = np.frexp(x)
      scale = 2.0 ** (algorithm.bits + 1)
      part = np.ldexp(np.round(mantissa * scale) / scale, exponent)
      yield part
      x = x - part

  x, y = np.random.default_rng(0).normal(size=(2, 5, 5)).astype(np.float32)
  taken = {"bfloat16 x 6": 3, "TF32 x 3": 2}.get(name, 1)
  pairs = itertools.product(enumerate(parts(x)), enumerate(parts(y)))
  products = [p.astype(float) @ q for (i, p), (j, q) in pairs if i + j < taken]
  assert len(products) == {3: 6, 2: 3, 1: 1}[taken] == len(algorithm.terms)
  found = emulated(x, y, algorithm)
  np.testing.assert_allclose(found, sum(products), rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", POTENTIALS)
def test_the_reference_of_accuracy_is_exact(name):
  """Close pairs against the closed form, sets against the library in float64."""
  potential = POTENTIALS[name]
  for angle in (1e-6, 1e-2, 1.0, np.pi - 1e-2, np.pi - 1e-4):
    (pair,) = draw(Config(draws=1), 2, angle)
    value, gradient = exact(pair, potential)
    assert value == pytest.approx(float(potential.at_angle(angle)), rel=1e-9)
    z = angle if potential.metric == "geodesic" else 2 * np.sin(angle / 2)
    z_by_angle = 1.0 if potential.metric == "geodesic" else np.cos(angle / 2)
    force = (potential.s or 1.0) * z ** (-potential.s - 1) * z_by_angle
    np.testing.assert_allclose(np.linalg.norm(gradient, axis=1), force, rtol=1e-9)
  w = draw(Config(draws=1, d=8), 32, None)
  ((value, gradient),) = [exact(x, potential) for x in w]
  values, gradients = values_and_gradients(hyperspherical_energy, potential, w)
  assert float(values[0]) == pytest.approx(value, rel=1e-12)
  gradients = np.asarray(gradients) * np.linalg.norm(w, axis=-1, keepdims=True)
  np.testing.assert_allclose(gradients[0], gradient, atol=1e-12)


def test_paired_difference_is_the_paired_t_interval():
  rng = np.random.default_rng(0)
  first = rng.normal(size=9)
  second = first + rng.normal(0.3, 0.1, size=9)
  paired = paired_difference(first, second)
  expected = scipy.stats.ttest_rel(second, first).confidence_interval(0.95)
  np.testing.assert_allclose((paired.low, paired.high), expected)
  assert paired.verdict == "worse"  # Larger is worse for an error.
  assert paired.p_value == pytest.approx(scipy.stats.ttest_rel(second, first).pvalue)
  assert paired_difference(second, first).verdict == "better"


def test_equal_differences_have_an_interval_of_no_width():
  """Also where they are equal but for rounding; and none of it warns."""
  assert paired_difference([1.0, 3.0], [2.0, 4.0]) == (1.0, 0.0, 1.0, 1.0, 2, 0.0)
  assert paired_difference([1.0, 3.0], [1.0, 3.0]) == (0.0, 0.0, 0.0, 0.0, 2, 1.0)
  paired = paired_difference([0.1, 0.2, 0.3], [0.2, 0.3, 0.4])
  np.testing.assert_allclose((paired.low, paired.high), 0.1)
  assert paired.verdict == "worse" and paired.p_value < 1e-9


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_diverged_run_is_no_comparison(bad):
  for first, second in (
    ([bad, 2.0, 3.0], [1.0, 2.0, 4.0]), ([1.0, 2.0, 4.0], [1.0, 2.0, bad]),
    ([bad, 2.0], [bad, 2.0]), ([bad, bad], [1.0, 2.0]),
  ):  # fmt: skip
    paired = paired_difference(first, second)
    assert np.isnan(paired[:4]).all() and np.isnan(paired.p_value)
    assert paired.verdict == "no significant difference"


def test_holm_corrects_step_by_step():
  """The example of two small ones, a large one, and one held up by the one before."""
  np.testing.assert_allclose(holm([0.01, 0.9, 0.02, 0.015]), [0.04, 0.9, 0.045, 0.045])
  assert holm([0.6, 0.7]) == [1.0, 1.0]
  assert holm([0.02, 0.5, 0.02]) == [0.06, 0.5, 0.06]
  assert holm([]) == []


@pytest.mark.parametrize("place", range(4))
def test_holm_leaves_out_what_is_no_comparison(place):
  """Wherever it stands."""
  p_values, expected = [0.01, 0.9, 0.02], [0.03, 0.9, 0.04]
  p_values.insert(place, np.nan)
  expected.insert(place, np.nan)
  np.testing.assert_allclose(holm(p_values), expected)
  assert np.isnan(holm([np.nan, np.nan])).all()


@pytest.mark.parametrize(("first", "second"), [([1.0], [2.0]), ([1.0, 2.0], [1.0])])
def test_paired_difference_needs_pairs(first, second):
  with pytest.raises(ValueError, match="two arms of the same length"):
    paired_difference(first, second)
