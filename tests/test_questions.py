"""What sweeps ask, and what of their runs is reported beside the errors."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from experiments import environment, models
from experiments.classification import details, training
from experiments.classification.arms import BASELINE, MHE
from experiments.classification.plan import sweeps_of
from experiments.classification.presets import PRESETS, Config
from experiments.excess import effective_rank, full_space_floor, norms
from experiments.report.answers import answers
from experiments.report.columns import columns_of
from experiments.report.statistics import holm
from experiments.runs.plan import Arm, Comparison, Sweep
from experiments.runs.results import Results
from mhe_jax import Riesz, relative_excess

SMOKE = PRESETS["smoke"]
PLAIN, OURS = SMOKE, dataclasses.replace(SMOKE, regularizer=MHE)


def write(folder, config, errors, **measures):
  """Results of some seeds; a measure may be a number for each."""
  for seed, error in errors.items():
    run = dataclasses.replace(config, seed=seed)
    own = {k: v[seed] if isinstance(v, dict) else v for k, v in measures.items()}
    result = {
      "config": dataclasses.asdict(run), "test_error": error,
      "data": {"fingerprint": "same"}, **own,
    }  # fmt: skip
    (folder / f"{run.name}.json").write_text(json.dumps(result))


@pytest.mark.parametrize("name_of_preset", list(PRESETS))
def test_every_question_is_of_cells_that_there_are(name_of_preset):
  for sweep in sweeps_of(name_of_preset).values():
    cells = {(arm.row, arm.column) for arm in sweep.arms}
    assert len(cells) == len(sweep.arms)
    for ask in sweep.asks:
      assert {(ask.row, ask.column), (ask.against, ask.column)} <= cells
  assert all(sweeps_of(name_of_preset)[name].asks for name in ("warm", "few", "claims"))


def test_answers_use_all_pairs_of_both_rows_and_correct_for_their_number(tmp_path):
  errors = {0: 10.0, 1: 12.0, 2: 11.0, 3: 9.5}
  ours = {0: 9.0, 1: 11.5, 2: 10.0, 3: 9.0}
  other = dataclasses.replace(SMOKE, steps=8)
  write(tmp_path, PLAIN, errors)
  write(tmp_path, OURS, ours)
  write(tmp_path, other, {0: 10.1, 1: 11.7})  # Its seeds do not take any from others.
  arms = [Arm("plain", "c", PLAIN), Arm("ours", "c", OURS), Arm("other", "c", other)]
  asks = (Comparison("ours", "plain", "c"), Comparison("other", "plain", "c"))
  sweep = Sweep("title", "kind", arms, range(10), asks=asks)
  *_, first, second = answers(sweep, Results(tmp_path, Config)).splitlines()
  p_values = [
    scipy.stats.ttest_rel(list(new.values()), [errors[seed] for seed in new]).pvalue
    for new in (ours, {0: 10.1, 1: 11.7})
  ]
  corrected = holm(p_values)
  assert first.startswith("| ours against plain | c | 4 | **-0.75** (")
  assert first.endswith(f"| {corrected[0]:.2f} |")
  assert second.startswith("| other against plain | c | 2 | -0.10 (")
  assert second.endswith(f"| {corrected[1]:.2f} |")


def test_there_is_no_answer_without_two_pairs_and_none_of_diverged_runs(tmp_path):
  arms = [Arm("plain", "c", PLAIN), Arm("ours", "c", OURS)]
  asks = (Comparison("ours", "plain", "c"),)
  sweep = Sweep("title", "kind", arms, range(10), asks=asks)
  write(tmp_path, PLAIN, {0: 10.0, 1: 11.0})
  write(tmp_path, OURS, {0: 9.0})
  assert answers(sweep, Results(tmp_path, Config)) == ""
  write(tmp_path, OURS, {1: 90.0}, test_loss=None)
  assert answers(sweep, Results(tmp_path, Config)).endswith("| no convergence |  |")


def test_an_error_of_several_measures_is_their_mean(tmp_path):
  measure = ("test_error", "validation_error")
  write(tmp_path, PLAIN, {0: 10.0}, validation_error=13.0)
  sweep = Sweep("title", "kind", [Arm("plain", "c", PLAIN, measure=measure)], range(1))
  (column,) = columns_of(sweep, Results(tmp_path, Config))
  assert column.values("plain") == [11.5]
  assert column.values("plain", "test_error") == [10.0]


def test_what_is_inside_is_told_of_every_cell(tmp_path):
  def history(excess, norm):
    layers = {"a/kernel": excess, "b/kernel": 2 * excess, "c/kernel": 10 * excess}
    entry = {"excess": {**layers, models.OUTPUT: 99.0}}
    peak = {"excess": {name: 3 * value for name, value in entry["excess"].items()}}
    entry["norm"] = {**dict.fromkeys(layers, norm), models.OUTPUT: 99.0}
    return [{"excess": dict.fromkeys(entry["excess"], 50.0)}, peak, entry]

  seeds = {0: 40.0, 1: 42.0}
  write(
    tmp_path, PLAIN, seeds, train_error={0: 30.0, 1: 31.0}, feature_rank=20.0,
    history=history(2.0, 2.0),
  )  # fmt: skip
  write(
    tmp_path, OURS, seeds, train_error={0: 30.0, 1: 31.0}, feature_rank=30.4,
    history=history(0.1, 4.0),
  )  # fmt: skip
  arms = [Arm("plain", "c", PLAIN), Arm("ours", "c", OURS)]
  text = details.inside(
    Sweep("title", "kind", arms, range(2)), Results(tmp_path, Config)
  )
  *_, plain, ours = text.splitlines()
  shared = "30.50 | +10.50 |"
  assert plain == f"| c | plain | {shared} 12.00 | 4.00 | 60.00 | 20.00 | 20 |  |"
  assert ours == f"| c | ours | {shared} 0.60 | 0.20 | 3.00 | 1.00 | 30 | 0.25 |"
  # Of runs that do not converge there is nothing inside to compare.
  dead = {1: 99.0}
  measures = {"train_error": 98.0, "feature_rank": None, "history": history(50.0, None)}
  write(tmp_path, OURS, dead, **measures)
  sweep = Sweep("title", "kind", arms, range(2))
  *_, plain, ours = details.inside(sweep, Results(tmp_path, Config)).splitlines()
  assert plain == f"| c | plain | {shared} 12.00 | 4.00 | 60.00 | 20.00 | 20 |  |"
  assert ours == (
    "| c | ours (1 of 2 converge) | 30.00 | +10.00 | 0.60 | 0.20 | 3.00 | 1.00 | 30 | "
    "0.25 |"
  )
  write(tmp_path, OURS, {0: 99.0, **dead}, **measures)
  *_, ours = details.inside(sweep, Results(tmp_path, Config)).splitlines()
  assert ours == "| c | ours | no convergence |  |  |  |  |  |  |  |"


def test_the_spread_of_rounding_is_that_of_all_runs_of_a_seed(tmp_path):
  arms = []
  for number, error in ((1, 40.0), (2, 42.0), (3, 41.0)):
    config = dataclasses.replace(SMOKE, rounding=number)
    write(tmp_path, config, {0: error})
    arms.append(Arm(f"{number}", "c", config))
  text = details.rounding(
    Sweep("title", "rounding", arms, range(1)), Results(tmp_path, Config)
  )
  assert text.splitlines()[-1] == "| c | 3 | 40.00 to 42.00 | 1.00 | 1.41 | 34 |"
  # Of that many, the mean of the differences has an interval of half a point.
  of_34, of_33 = (scipy.stats.t.ppf(0.975, n - 1) * math.sqrt(2 / n) for n in (34, 33))
  assert of_34 < 0.5 < of_33
  write(tmp_path, arms[0].config, {0: 90.0})  # Errors that scatter by 28 points.
  text = details.rounding(
    Sweep("title", "rounding", arms, range(1)), Results(tmp_path, Config)
  )
  assert text.splitlines()[-1].endswith(" | over 9,999 |")


def test_rounding_moves_every_parameter_to_a_neighbour_and_by_its_seed():
  params = {"a": jnp.array([1.0, -2.0, 0.5, 3e-5], jnp.float32), "b": jnp.ones(999)}
  moved, again, other = (training.rounded_otherwise(params, x) for x in (1, 1, 2))
  for name, x in jax.tree.map(np.asarray, params).items():
    up, down = np.nextafter(x, np.inf), np.nextafter(x, -np.inf)
    y = np.asarray(moved[name])
    assert y.dtype == x.dtype
    assert np.all((y == up) | (y == down))
    np.testing.assert_array_equal(y, again[name])
  assert 400 < np.sum(np.asarray(moved["b"]) > 1) < 600
  assert np.any(moved["b"] != other["b"])


def test_the_effective_rank_of_equal_directions_is_their_number():
  rng = np.random.default_rng(0)
  basis = np.linalg.qr(rng.normal(size=(300, 5)))[0]
  basis -= basis.mean(0)
  basis = np.linalg.qr(basis)[0]  # Five directions of the same size, without a mean.
  features = 3.0 + basis @ np.linalg.qr(rng.normal(size=(20, 20)))[0][:5]
  assert effective_rank(features) == pytest.approx(5.0, rel=1e-6)
  assert effective_rank(features[:, :1]) == pytest.approx(1.0)
  assert math.isnan(effective_rank(np.ones((4, 3))))
  assert math.isnan(effective_rank(np.full((4, 3), np.nan)))


def test_the_floor_of_full_space_is_that_of_a_simplex():
  for n, d in ((16, 27), (5, 5), (9, 8)):
    simplex = np.eye(n) - 1.0 / n
    axes = np.linalg.svd(simplex)[2][: n - 1]  # They span what it lies in.
    neurons = np.pad(simplex @ axes.T, ((0, 0), (0, d - n + 1)))
    expected = relative_excess(jnp.asarray(neurons), Riesz(2.0), half_space=True)
    np.testing.assert_allclose(full_space_floor(n, d), expected, rtol=1e-6)
  assert full_space_floor(2, 3) == math.inf
  for n in (1, 5):
    with pytest.raises(ValueError, match=rf"n must be 2 to d \+ 1 = 4 .* got {n}"):
      full_space_floor(n, 3)


def test_norms_are_those_of_the_neurons():
  kernel = jnp.array([[3.0, 0.0], [4.0, 1.0]])  # Columns are neurons: 5 and 1.
  found = norms({"a": {"kernel": kernel, "bias": jnp.ones(2)}})
  assert found == {"a/kernel": pytest.approx(math.sqrt(13.0))}


@pytest.mark.parametrize("name", ["cnn-3", "resnet-8"])
def test_features_are_what_the_classifier_is_given(name, key, as_users):
  model = models.build(name, width=2, num_classes=3)
  images = jax.random.randint(key, (5, 8, 8, 3), 0, 256).astype(jnp.uint8)
  params, stats = training.init(model, 1, key, images)
  x = training.features(model, 1, "score", params, stats, images)
  logits = model.apply(
    {"params": params, "batch_stats": stats}, training.standardize(images, 1)
  )
  score = jax.tree.map(np.asarray, params["score"])
  expected = np.asarray(x) @ score["kernel"] + score["bias"]
  np.testing.assert_allclose(expected, logits, rtol=1e-4, atol=1e-5)


def test_the_processor_is_told_where_linux_tells_it(tmp_path, monkeypatch):
  text = (
    "processor\t: 0\nmodel name\t: A Chip\nmodel\t\t: 17\nflags\t\t: fpu avx2 fma\n\n"
  )
  (tmp_path / "cpuinfo").write_text(text + text.replace("A Chip", "Another"))
  found = environment._first_of_cpuinfo(tmp_path / "cpuinfo")
  assert (found["model name"], found["model"]) == ("A Chip", "17")
  assert environment._first_of_cpuinfo(tmp_path / "nowhere") == {}
  assert environment.processor()


def test_names_have_the_weight():
  relative = dataclasses.replace(MHE, relative=True, weight=0.1)
  assert BASELINE.weighted_name == "baseline"
  assert relative.weighted_name == "MHE, s = 2, relative, weight 0.1"


def test_the_authors_loss_is_flat_where_a_network_is_sure_and_wrong():
  """0 to 4 right of 128, the others sure of a wrong class: as in the authors' logs."""
  classes, images = 100, 128
  numbers = np.arange(images)
  labels = jax.nn.one_hot(numbers % classes, classes)
  targets = optax.smooth_labels(labels, 0.01)
  found = []
  for right in range(5):
    said = (numbers + np.where(numbers < right, 0, 1)) % classes
    logits = 1e3 * jax.nn.one_hot(said, classes)
    found.append(float(training.cross_entropy(logits, targets, 1e-4)))
    slope = jax.grad(training.cross_entropy)(logits, targets, 1e-4)
    assert not np.any(slope)
    assert np.any(jax.grad(training.cross_entropy)(logits, targets, 0.0))
  np.testing.assert_allclose(found, [9.2094, 9.1382, 9.0669, 8.9957, 8.9245], atol=6e-5)
