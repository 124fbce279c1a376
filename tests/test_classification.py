"""Runs of classification: what they train, how they resume, what is reported."""

import dataclasses
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import time

import filelock
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from PIL import Image
from rich.console import Console

from experiments import models, report
from experiments.batches import GRAY
from experiments.classification import Run, train
from experiments.config import PRESETS, Config, preset
from experiments.data import Data, Split, load
from experiments.paper import (
  BASELINE,
  CONFIRMING,
  EXPLORING,
  HALF_MHE,
  MHE,
  Arm,
  Sweep,
  sweeps_of,
)
from experiments.regularizers import Regularizer, authors_energy, orthonormality
from experiments.runs import Results, columns_of
from experiments.sweep import runs
from experiments.sweep import sweep as work_through
from mhe_jax import Riesz, hyperspherical_energy, network_energy

SMOKE = PRESETS["smoke"]
VOLATILE = ("seconds", "device", "versions", "environments")


@pytest.fixture
def as_users():
  """Flax's pooling and the schedules of optax promote dtypes."""
  with jax.numpy_dtype_promotion("standard"):
    yield


def start(module, *arguments):
  """A process of an experiment, without the fake devices of this one."""
  environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
  return subprocess.Popen(
    [sys.executable, "-m", f"experiments.{module}", *map(str, arguments)],
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    env={**environment, "PYTHONIOENCODING": "utf-8"},
  )


def finish(process, code=0):
  """What it printed."""
  text, _ = process.communicate(timeout=600)
  assert process.returncode == code, text
  return " ".join(text.split())


def result_in(folder):
  (path,) = folder.glob("*.json")
  result = json.loads(path.read_text())
  assert path.stem == result["name"]
  return {name: value for name, value in result.items() if name not in VOLATILE}


def test_a_run_that_is_killed_ends_with_the_same_numbers(tmp_path):
  """Also with a regularizer whose state is part of the optimizer's."""
  arguments = [
    "--preset", "smoke", "--steps", 300, "--measurements", 30, "--warmup", 20,
    "--regularizer.kind", "mhe", "--regularizer.weight", 10,
  ]  # fmt: skip
  whole = start("classification", *arguments, "--output", tmp_path / "whole")
  finish(whole)
  killed = start("classification", *arguments, "--output", tmp_path / "killed")
  deadline = time.monotonic() + 300
  while not list((tmp_path / "killed").glob("*.checkpoint/[1-9]*/log")):
    assert time.monotonic() < deadline and killed.poll() is None
    time.sleep(0.01)
  killed.send_signal(signal.SIGKILL)
  killed.communicate()
  assert not list((tmp_path / "killed").glob("*.json"))
  text = finish(start("classification", *arguments, "--output", tmp_path / "killed"))
  assert "test error" in text
  expected = result_in(tmp_path / "whole")
  assert result_in(tmp_path / "killed") == expected
  assert not list((tmp_path / "killed").glob("*.checkpoint"))
  history = expected["history"]
  assert [entry["step"] for entry in history] == list(range(0, 301, 10))
  assert history[-1]["train_loss"] < history[1]["train_loss"]
  excess = [entry["excess"] for entry in history]
  assert set(excess[0]) == {
    *(f"conv{i}_0/kernel" for i in range(3)), "features/kernel", "score/kernel",
  }  # fmt: skip
  assert excess[-1]["features/kernel"] < 0.8 * excess[0]["features/kernel"]


def test_a_run_is_trained_by_one_process(tmp_path):
  with filelock.FileLock(tmp_path / f"{SMOKE.name}.lock"):
    process = start("classification", "--preset", "smoke", "--output", tmp_path)
    assert "is being trained by another process" in finish(process, 2)


def test_workers_end_with_their_sweep(tmp_path):
  process = start("sweep", "--preset", "smoke", "--output", tmp_path, "--jobs", 1)
  deadline = time.monotonic() + 300
  while not list(tmp_path.glob("*.json")):
    assert time.monotonic() < deadline and process.poll() is None
    time.sleep(0.1)
  process.kill()
  process.communicate(timeout=60)  # Ends when all have closed their output.
  count = len(list(tmp_path.glob("*.json")))
  time.sleep(10.0)  # Enough for another run.
  assert len(list(tmp_path.glob("*.json"))) == count


def test_an_interrupt_stops_a_sweep_at_once(tmp_path):
  arguments = ("--preset", "smoke", "--output", tmp_path)
  process = start("sweep", *arguments, "--jobs", 1)
  deadline = time.monotonic() + 300
  while not list(tmp_path.glob("*.json")):
    assert time.monotonic() < deadline and process.poll() is None
    time.sleep(0.1)
  process.send_signal(signal.SIGINT)
  assert "Stopped; the same command goes on." in finish(process, 130)
  assert len(list(tmp_path.glob("*.json"))) < len(
    runs(tuple(sweeps_of("smoke")), "smoke")
  )


def test_a_killed_worker_ends_its_own_run_alone(tmp_path):
  """The run of the other worker ends well, and a new worker does the rest."""
  process = start(
    "sweep", "layers", "--preset", "smoke", "--output", tmp_path, "--seeds", 0,
    "--jobs", 2,
  )  # fmt: skip
  deadline = time.monotonic() + 300
  while len(locks := list(tmp_path.glob("*.lock"))) < 2:
    assert time.monotonic() < deadline and process.poll() is None
    time.sleep(0.01)
  worker, _ = [
    child for child in children_of(process.pid) if "spawn_main" in command_of(child)
  ]
  os.kill(worker, signal.SIGKILL)
  text = finish(process, 1)
  assert "5 of 6 runs are in" in text
  assert text.count("failed: a worker was killed") == 1
  assert any(f"{lock.stem} failed: a worker was killed" in text for lock in locks)


def test_processes_share_the_runs_of_a_sweep(tmp_path):
  """What another one trains is left to it."""
  config, *_ = runs(("layers",), "smoke", (0,))
  with filelock.FileLock(tmp_path / f"{config.name}.lock"):
    process = start(
      "sweep", "layers", "--preset", "smoke", "--output", tmp_path, "--seeds", 0
    )
    text = finish(process, 1)
  assert "not finished yet: 1; the same command goes on" in text
  assert "5 of 6 runs are in" in text and "Traceback" not in text


def children_of(pid):
  path = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
  return [int(child) for child in path.read_text().split()]


def command_of(pid):
  return pathlib.Path(f"/proc/{pid}/cmdline").read_text()


def test_bad_settings_are_named(tmp_path):
  arguments = ("--preset", "cpu", "--data-root", tmp_path, "--output", tmp_path)
  text = finish(start("classification", *arguments), 2)
  assert "the folder of the data must exist" in text and "Traceback" not in text
  text = finish(start("classification", *arguments, "--steps", 5), 2)
  assert "multiple of measurements, got 5 and 10" in text and "Traceback" not in text
  with pytest.raises(ValueError, match=r"model must be cnn-N .* got 'vgg-16'"):
    models.build("vgg-16", width=8, num_classes=10)
  with pytest.raises(ValueError, match=r"'none' has no weight, got 2\.0"):
    Regularizer(weight=2.0)
  with pytest.raises(ValueError, match=r"shrink must divide .* \(28, 28\), got 8"):
    Run(dataclasses.replace(SMOKE, shrink=8), load("digits"))


@pytest.mark.parametrize(
  ("setting", "value", "message"),
  [
    ("width", 0, "width must be at least 1, got 0"),
    ("images_per_class", -5, "images_per_class must be at least 0, got -5"),
    ("warmup", -3, "warmup must be at least 0"),
    ("weight_decay", -1.0, "weight_decay must be at least 0"),
    ("label_smoothing", 5.0, "label_smoothing must be 0 to 1, got 5"),
    ("learning_rate", 0.0, "learning_rate must be positive"),
    ("decay_at", (0.5, 1.5), "decay_at must be shares from 0 to 1"),
    ("dropped", ((1, 0.5), (1, 0.9)), "dropped must name each class once"),
  ],
)
def test_each_bad_setting_is_named(setting, value, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(SMOKE, **{setting: value})


def blank_run(config, data):
  """A run whose network says class 1 of every image, with logits (0, 1, 0)."""
  run = Run(config, data)
  params = jax.tree.map(jnp.zeros_like, run.state.params)
  params["score"]["bias"] = jnp.array([0.0, 1.0, 0.0], jnp.float32)
  run.state = run.state._replace(params=params)
  return run


def test_errors_and_losses_are_those_of_all_images_and_of_the_dropped_class(as_users):
  rng = np.random.default_rng(0)

  def split(labels):
    images = rng.integers(0, 256, (len(labels), 8, 8, 3)).astype(np.uint8)
    return Split(images, np.array(labels, np.int32))

  train = split([0] * 10 + [1] * 10 + [2] * 10)
  data = Data(train, split([0, 1, 1, 2, 1, 0, 1]), ("a", "b", "c"), "here")
  config = dataclasses.replace(SMOKE, images_per_class=4, dropped=((0, 0.5),))
  run = blank_run(config, data)
  measures = run.final_measures()
  log_sum = np.log(2.0 + np.e)
  assert measures == pytest.approx({
    "test_error": 100 * 3 / 7,
    "test_loss": log_sum - 4 / 7,
    "train_error": 100 * 6 / 10,  # 2, 4 and 4 of the classes are trained on.
    "train_loss": log_sum - 4 / 10,
    "validation_error": 100 * 14 / 20,
    "test_error_class_0": 100.0,
  }, abs=1e-4)  # fmt: skip
  measurement = run.measure(0)
  assert measurement["test_error"] == pytest.approx(100 * 3 / 7, abs=1e-4)
  assert measurement["train_loss"] is None  # There was no step yet.


def test_a_run_that_is_stopped_goes_on_from_its_last_measurement(tmp_path, as_users):
  config = dataclasses.replace(SMOKE, steps=6, measurements=3)
  seen = []

  def stop_at(last):
    def on_step(step):
      seen.append(step)
      if step == last:
        raise InterruptedError

    return on_step

  with pytest.raises(InterruptedError):
    train(config, tmp_path / "a", on_step=stop_at(5))
  assert seen == [1, 2, 3, 4, 5]
  with pytest.raises(InterruptedError):  # Before the last measurement.
    train(config, tmp_path / "b", on_step=stop_at(6))
  del seen[:]
  stopped = train(config, tmp_path / "a", on_step=seen.append)
  assert seen == [5, 6, 6]
  whole = train(config, tmp_path / "whole")
  for folder, result in (("a", stopped), ("b", train(config, tmp_path / "b"))):
    assert {k: v for k, v in result.items() if k not in VOLATILE} == {
      k: v for k, v in whole.items() if k not in VOLATILE
    }
    assert [path.suffix for path in (tmp_path / folder).iterdir()] == [".json"]


def test_leftovers_of_a_finished_run_are_removed_and_it_is_not_trained_again(
  tmp_path, as_users
):
  result = train(SMOKE, tmp_path)
  (tmp_path / f"{SMOKE.name}.checkpoint").mkdir()
  seen = []
  assert train(SMOKE, tmp_path, on_step=seen.append) == result
  assert seen == [SMOKE.steps]
  assert [path.suffix for path in tmp_path.iterdir()] == [".json"]


def test_a_network_for_imagenet_trains_on_class_folders(tmp_path):
  rng = np.random.default_rng(0)
  for split in ("train", "val"):
    for label in range(2):
      for i in range(2):
        path = tmp_path / "imagenet" / split / f"n{label}" / f"{i}.jpeg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (230 + 20 * i, 250, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(path)
  finish(start(
    "classification", "--preset", "smoke", "--dataset", "imagenet", "--data-root",
    tmp_path, "--model", "resnet-18", "--steps", 2, "--batch-size", 2,
    "--output", tmp_path / "runs", "--regularizer.kind", "mhe",
  ))  # fmt: skip
  result = result_in(tmp_path / "runs")
  assert result["test_error"] in (0.0, 25.0, 50.0, 75.0, 100.0)
  assert len(result["history"][0]["excess"]) == 1 + 16 + 3 + 1


def test_names_of_runs_tell_all_settings_apart():
  configs = [
    SMOKE,
    dataclasses.replace(SMOKE, seed=1),
    dataclasses.replace(SMOKE, steps=8),
    dataclasses.replace(SMOKE, regularizer=MHE),
    dataclasses.replace(SMOKE, regularizer=HALF_MHE),
    dataclasses.replace(SMOKE, dropped=((0, 0.5),)),
  ]
  assert len({config.name for config in configs}) == len(configs)


def test_settings_survive_the_json():
  configs = [arm.config for sweep in sweeps_of("cpu").values() for arm in sweep.arms]
  for config in configs:
    settings = json.loads(json.dumps(dataclasses.asdict(config)))
    assert Config.from_json(settings) == config


def test_a_new_setting_renames_no_run():
  """The digest is of what differs from the defaults."""
  assert Config().name == "cifar100_cnn-9-w64_baseline_seed0_44136fa3"  # Of "{}".


def test_a_finished_run_of_other_settings_is_no_answer(tmp_path, as_users):
  """As if a default had changed since."""
  result = train(SMOKE, tmp_path)
  result["config"]["weight_decay"] = 0.1
  (tmp_path / f"{SMOKE.name}.json").write_text(json.dumps(result))
  message = r"must have the settings of the run, .*, got .* weight_decay=0\.1"
  with pytest.raises(ValueError, match=message):
    train(SMOKE, tmp_path)
  with pytest.raises(ValueError, match=message):
    work_through([SMOKE], tmp_path, None, 1, Console())


def test_a_result_can_be_repeated(tmp_path):
  arguments = ("--preset", "smoke", "--regularizer.kind", "mhe", "--dropped", 1, 0.5)
  finish(start("classification", *arguments, "--output", tmp_path / "a"))
  (path,) = (tmp_path / "a").glob("*.json")
  arguments = ("--repeat", path, "--output", tmp_path / "b")
  finish(start("classification", *arguments))
  assert result_in(tmp_path / "a") == result_in(tmp_path / "b")
  assert "does not hold the run yet" in finish(start("classification", *arguments), 2)
  finish(start("classification", *arguments, "--seed", 1))
  assert len(list((tmp_path / "b").glob("*.json"))) == 2
  path.write_text("{}")
  text = finish(start("classification", *arguments), 2)
  assert "is not the result of a run: KeyError('config')" in text


def test_the_command_for_one_run_makes_a_cell_of_the_tables():
  first = {}
  for arm in sweeps_of("cpu")["variants"].arms:
    first.setdefault(arm.config.dataset, arm.config)
  assert first == {name: preset("cpu", name) for name in ("cifar10", "cifar100")}
  assert preset("paper", "cifar10") == dataclasses.replace(
    PRESETS["paper"], dataset="cifar10"
  )


def test_the_schedule_of_the_paper(as_users):
  """Learning rate 0.1, divided by 10 after 20, 30 and 37.5 thousand steps."""
  rate = PRESETS["paper"].learning_rate_at
  for step, expected in (
    (0, 0.1), (19999, 0.1), (20000, 0.01), (30000, 1e-3), (37500, 1e-4), (42499, 1e-4),
  ):  # fmt: skip
    np.testing.assert_allclose(rate(jnp.asarray(step)), expected, rtol=1e-5)
  rate = dataclasses.replace(PRESETS["paper"], warmup=10).learning_rate_at
  np.testing.assert_allclose(rate(jnp.asarray(4)), 0.05, rtol=1e-6)


def test_all_but_biases_decay(as_users):
  model = models.build("cnn-3", width=2, num_classes=3)
  params = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1), jnp.float32))["params"]
  config = dataclasses.replace(SMOKE, learning_rate=1.0, weight_decay=0.5)
  tx = config.optimizer()
  zeros = jax.tree.map(jnp.zeros_like, params)
  ones = jax.tree.map(jnp.ones_like, params)
  updates, _ = tx.update(zeros, tx.init(ones), ones)
  assert float(abs(updates["score"]["bias"]).max()) == 0.0
  for leaf in (updates["score"]["kernel"], updates["norm0_0"]["scale"]):
    np.testing.assert_allclose(leaf, -0.5, rtol=1e-6)


@pytest.mark.parametrize(
  ("name", "size", "classes", "millions"),
  [("resnet-18", 224, 1000, 11.69), ("resnet-34", 224, 1000, 21.80)],
)
def test_networks_for_imagenet_have_their_known_size(name, size, classes, millions):
  model = models.build(name, width=64, num_classes=classes)
  image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
  params = jax.eval_shape(model.init, jax.random.key(0), image)["params"]
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  assert round(count / 1e6, 2) == millions


@pytest.mark.parametrize("authors", [False, True])
def test_details_of_the_authors_network(authors, as_users):
  """No bias in the classifier; running averages of 1,000 batches; epsilon 1e-3."""
  model = models.build("cnn-3", width=2, num_classes=3, authors=authors)
  images = 100.0 * jax.random.normal(jax.random.key(1), (4, 8, 8, 1), jnp.float32)
  variables = model.init(jax.random.key(0), images)
  assert ("bias" in variables["params"]["score"]) != authors
  _, new = model.apply(variables, images, train=True, mutable=["batch_stats"])
  # The variance goes from 1 to that of the batch, by a share of 0.1 or 0.001.
  x = jax.lax.conv_general_dilated(
    images, variables["params"]["conv0_0"]["kernel"], (1, 1), "SAME",
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )  # fmt: skip
  share = 0.001 if authors else 0.1
  np.testing.assert_allclose(
    new["batch_stats"]["norm0_0"]["var"], 1 + share * (x.var((0, 1, 2)) - 1), rtol=1e-4
  )
  zeros = jax.tree.map(jnp.zeros_like, variables)
  zeros["params"]["norm0_0"]["scale"] = jnp.ones(2, jnp.float32)
  _, states = model.apply(
    zeros | {"params": zeros["params"] | {"conv0_0": variables["params"]["conv0_0"]}},
    images,
    capture_intermediates=lambda module, _: module.name == "norm0_0",
    mutable=["intermediates"],
  )
  (normed,) = states["intermediates"]["norm0_0"]["__call__"]
  epsilon = 1e-3 if authors else 1e-5
  np.testing.assert_allclose(normed, x / math.sqrt(epsilon), rtol=1e-4, atol=1e-2)


def test_the_paper_preset_has_the_details_of_the_authors(as_users):
  assert PRESETS["paper"].authors and not PRESETS["cpu"].authors
  share_of_gray = {}
  for authors in (False, True):
    run = Run(dataclasses.replace(SMOKE, authors=authors), load("digits"))
    assert ("bias" in run.state.params["score"]) != authors
    batches = training_batches_of(run)
    share_of_gray[authors] = np.mean([images == GRAY for images, _ in batches])
  assert share_of_gray[False] > 0.05 > 0.02 > share_of_gray[True]


def training_batches_of(run):
  """What its update is given."""
  batches = []

  def update(state, images, labels):
    batches.append((images, labels))
    return state

  run._update = update
  list(run.steps(0, 2))
  return batches


def params_of_a_network():
  keys = jax.random.split(jax.random.key(1), 2)
  return {
    "features": {"kernel": jax.random.normal(keys[0], (7, 5))},
    "score": {"kernel": jax.random.normal(keys[1], (5, 4)), "bias": jnp.zeros(4)},
  }


def added(regularizer):
  """What it adds to zero gradients."""
  params = params_of_a_network()
  tx = regularizer.transformation()
  zeros = jax.tree.map(jnp.zeros_like, params)
  updates, _ = tx.update(zeros, tx.init(params), params)
  return updates


def test_none_adds_nothing():
  assert all(not x.any() for x in jax.tree.leaves(added(BASELINE)))


@pytest.mark.parametrize("kind", ["mhe", "authors", "orthonormal"])
@pytest.mark.parametrize("layers", ["hidden", "output", "both"])
def test_only_the_chosen_layers_are_regularized(kind, layers):
  updates = added(Regularizer(kind, layers=layers))
  assert bool(updates["features"]["kernel"].any()) == (layers != "output")
  assert bool(updates["score"]["kernel"].any()) == (layers != "hidden")


def test_mhe_is_the_gradient_of_the_network_energy():
  regularizer = Regularizer("mhe", 1.0, "geodesic", weight=3.0)

  def energy(params):
    return 3.0 * network_energy(
      params, Riesz(1.0, "geodesic"), rules=models.OUTPUT_RULES
    )

  expected = jax.grad(energy)(params_of_a_network())
  for x, y in zip(jax.tree.leaves(added(regularizer)), jax.tree.leaves(expected)):
    np.testing.assert_allclose(x, y, rtol=1e-12)


@pytest.mark.parametrize("half_space", [False, True])
def test_the_authors_energy_is_the_papers_up_to_its_constants(half_space, key):
  w = 10.0 * jax.random.normal(key, (6, 9))
  for s, factor in ((0.0, 2.0), (1.0, 1.0), (2.0, 1.0)):  # -log d^2 is twice -log d.
    ours = hyperspherical_energy(w, Riesz(s), half_space=half_space)
    theirs = authors_energy(w, s, "chordal", half_space=half_space)
    np.testing.assert_allclose(theirs, factor * ours, rtol=1e-5)
  for s in (1.0, 2.0):  # Angles in units of pi.
    ours = hyperspherical_energy(w, Riesz(s, "geodesic"), half_space=half_space)
    theirs = authors_energy(w, s, "geodesic", half_space=half_space)
    np.testing.assert_allclose(theirs, np.pi**s * ours, rtol=2e-3)


@pytest.mark.parametrize("half_space", [False, True])
@pytest.mark.parametrize("metric", ["chordal", "geodesic"])
@pytest.mark.parametrize("s", [0.0, 1.0, 2.0])
def test_the_authors_constants_are_there(s, metric, half_space, key):
  """Pair by pair in NumPy, on rows so small and close that each epsilon counts."""
  w = np.asarray(0.01 * (1.0 + 0.01 * jax.random.normal(key, (5, 7))))
  rows = np.concatenate([w, -w]) if half_space else w
  total, count = 0.0, 0
  for i, x in enumerate(rows):
    for y in rows[:i]:
      cosine = x @ y / math.sqrt((x @ x + 1e-4) * (y @ y + 1e-4))
      if metric == "geodesic":
        z = math.acos(cosine) / math.pi + 1e-4
        total += -math.log(z) if s == 0 else z**-s
      else:
        squared = 2.0 - 2.0 * cosine
        total += -math.log(squared) if s == 0 else squared ** (-s / 2)
      count += 1
  energy = authors_energy(jnp.asarray(w), s, metric, half_space=half_space)
  np.testing.assert_allclose(energy, total / count, rtol=1e-9)


@pytest.mark.parametrize(
  ("s", "metric", "hidden", "output"),
  [
    (0.0, "chordal", 1.0, 10.0),
    (1.0, "chordal", 1.0, 10.0),
    (2.0, "chordal", 1.0, 10.0),
    (0.0, "geodesic", 1.0, 10.0),
    (1.0, "geodesic", 0.1, 1.0),
    (2.0, "geodesic", 0.1, 1.0),
  ],
)
def test_the_authors_multipliers(s, metric, hidden, output):
  params = params_of_a_network()
  updates = added(Regularizer("authors", s, metric))
  for name, factor, half_space in (
    ("features", hidden, True), ("score", output, False),
  ):  # fmt: skip
    gradient = jax.grad(
      lambda w, half_space=half_space: authors_energy(
        w.T, s, metric, half_space=half_space
      )
    )(params[name]["kernel"])
    np.testing.assert_allclose(updates[name]["kernel"], factor * gradient, rtol=1e-10)


@pytest.mark.parametrize("kind", ["mhe", "authors", "orthonormal"])
def test_a_single_neuron_is_left_alone(kind):
  params = params_of_a_network() | {"features": {"kernel": jnp.ones((4, 1))}}
  tx = Regularizer(kind).transformation()
  zeros = jax.tree.map(jnp.zeros_like, params)
  updates, _ = tx.update(zeros, tx.init(params), params)
  assert not updates["features"]["kernel"].any()
  assert bool(updates["score"]["kernel"].any())


def test_orthonormality_is_0_of_orthogonal_and_1_of_equal_neurons():
  np.testing.assert_allclose(orthonormality(jnp.eye(4)), 0.0, atol=1e-12)
  np.testing.assert_allclose(orthonormality(jnp.ones((4, 7))), 1.0)
  x = jnp.array([[1.0, 0.0], [1.0, 1.0]])
  np.testing.assert_allclose(orthonormality(x), 0.5)


def test_pairs_of_a_sweep_differ_in_the_regularizer_alone():
  for name_of_preset in PRESETS:
    for name, sweep in sweeps_of(name_of_preset).items():
      if name == "rate":
        continue
      first = sweep.arms[0].row
      baselines = {arm.column: arm for arm in sweep.arms if arm.row == first}
      for arm in sweep.arms:
        rival = baselines[arm.column].config
        assert rival.regularizer == BASELINE
        assert dataclasses.replace(arm.config, regularizer=BASELINE) == rival, name


def test_runs_of_sweeps_are_unique_and_go_seed_by_seed():
  configs = runs(tuple(sweeps_of("cpu")), "cpu", (3, 1))
  assert len(set(configs)) == len(configs)
  seeds = [config.seed for config in configs]
  assert seeds == sorted(seeds)
  assert set(seeds) == {1, 3}
  assert {c.seed for c in runs(("rate", "layers"), "cpu")} == {0, 1, 2, 100}
  datasets = [config.dataset for config in runs(("imagenet", "layers"), "paper")]
  assert datasets == ["cifar100"] * 30 + ["imagenet"] * 8


@pytest.mark.parametrize("name_of_preset", ["cpu", "paper"])
def test_seeds_that_confirm_are_in_no_other_table(name_of_preset, tmp_path):
  """Or what is seen would choose what is confirmed."""
  sweeps = sweeps_of(name_of_preset)
  new = set(sweeps["headline"].seeds)
  for name, sweep in sweeps.items():
    assert name == "headline" or new.isdisjoint(sweep.seeds)
  for arm in sweeps["headline"].arms:
    if arm.config.regularizer == BASELINE:
      write_results(tmp_path, arm.config, dict.fromkeys(range(12), 1.0))
  for name, count in (("headline", 2), ("variants", 2), ("depth", 1)):
    columns = columns_of(sweeps[name], Results(tmp_path))
    assert len(columns) == count
    assert all(column.seeds == list(sweeps[name].seeds) for column in columns)


def test_every_sweep_runs_and_the_report_shows_it(tmp_path):
  """In two parts, of which the second skips what the first has done."""
  folder = tmp_path / "runs"
  arguments = ("--preset", "smoke", "--seeds", 0, "--output", folder)
  assert f"6 of 6 runs are in {folder}." in finish(start("sweep", "layers", *arguments))
  before = {path: path.stat().st_mtime_ns for path in folder.glob("*.json")}
  everything = (*arguments[:2], "--seeds", 0, 100, *arguments[4:])
  finish(start("sweep", *everything, "--jobs", 2))
  after = {path: path.stat().st_mtime_ns for path in folder.glob("*.json")}
  assert set(after) == {
    folder / f"{config.name}.json"
    for config in runs(tuple(sweeps_of("smoke")), "smoke", (0, 100))
  }
  assert before.items() < after.items()
  options = ("--preset", "smoke", "--results", folder, "--output", tmp_path)
  finish(start("report", *options))
  page = (tmp_path / "classification.md").read_text()
  for sweep in sweeps_of("smoke").values():
    table = report.table(sweep, Results(folder))
    assert table in page
    assert all(f"\n| {arm.row} |" in table for arm in sweep.arms)
  pictures = {path.stem for path in (tmp_path / "images").glob("*.png")}
  expected = {"differences", "curves", "start", "weights", "energies"}
  assert pictures == {f"classification_{name}" for name in expected}


def test_what_fails_in_a_sweep_is_told_and_the_rest_is_done(tmp_path):
  """CIFAR is not there."""
  process = start(
    "sweep", "resnet", "--preset", "cpu", "--data-root", tmp_path, "--seeds", 0,
    "--output", tmp_path,
  )  # fmt: skip
  text = finish(process, 1)
  assert "0 of 6 runs" in text
  assert text.count("failed: the folder of the data must exist") == 6
  process = start("sweep", "headline", "--preset", "cpu", "--seeds", 0)
  assert "seeds must be of 3, 4, 5, 6, 7, those of the sweeps, got 0" in finish(
    process, 2
  )
  process = start("sweep", "layers", "--jobs", 0)
  assert "jobs must be at least 1, got 0" in finish(process, 2)
  process = start("sweep", "widths", "--preset", "cpu")
  assert "must be of rate, headline, variants" in finish(process, 2)


def write_results(folder, config, errors, **measures):
  folder.mkdir(exist_ok=True)
  for seed, error in errors.items():
    run = dataclasses.replace(config, seed=seed)
    result = {
      "config": dataclasses.asdict(run),
      "test_error": error,
      "data": {"fingerprint": "same"},
      **measures,
    }
    (folder / f"{run.name}.json").write_text(json.dumps(result))


def test_tables_have_mean_spread_and_paired_interval(tmp_path):
  mhe = dataclasses.replace(SMOKE, regularizer=MHE)
  write_results(tmp_path, SMOKE, {0: 10.0, 1: 12.0, 2: 11.0, 7: 50.0})
  write_results(tmp_path, mhe, {0: 9.0, 1: 11.5, 2: 10.0})
  sweep = Sweep("title", "kind", [
    Arm("plain", "c", SMOKE, 8.0), Arm("mhe", "c", mhe, 7.5),
  ], range(10))  # fmt: skip
  table = report.table(sweep, Results(tmp_path))
  header, _, plain, ours, _, seeds = table.splitlines()
  left_out = "Not shown: seeds that are not finished in all rows of their column."
  assert seeds == f"Runs of a cell: 3. {left_out}"
  assert header == "| kind | c | against plain | paper |"
  assert plain == "| plain | 11.00 ± 1.00 |  | 8.00 |"
  first, second = [10.0, 12.0, 11.0], [9.0, 11.5, 10.0]  # Without seed 7.
  interval = scipy.stats.ttest_rel(second, first).confidence_interval()
  low, high = interval.low, interval.high
  expected = f"-0.83 ({low:+.2f} to {high:+.2f}) | 7.50 (-0.50) |"
  assert ours == f"| mhe | 10.17 ± {np.std(second, ddof=1):.2f} | {expected}".replace(
    "-0.83", "**-0.83**" if high < 0 else "-0.83"
  )


def test_the_summary_says_how_sure_it_is(tmp_path, monkeypatch):
  monkeypatch.setitem(EXPLORING, "smoke", range(3))
  monkeypatch.setitem(CONFIRMING, "smoke", range(3))
  errors = {0: 10.0, 1: 12.0, 2: 11.0}
  energies = {BASELINE: 0.0, MHE: -2.0, HALF_MHE: 0.0}
  for regularizer, change in energies.items():
    config = dataclasses.replace(SMOKE, regularizer=regularizer)
    wobble = {0: 0.1, 1: -0.1, 2: 0.0} if change else {0: 1.0, 1: -1.0, 2: 0.5}
    if regularizer == BASELINE:
      wobble = dict.fromkeys(errors, 0.0)
    write_results(tmp_path, config, {
      seed: error + change + wobble[seed] for seed, error in errors.items()
    }, train_error=1.0 if regularizer == BASELINE else 4.0)  # fmt: skip
  text = " ".join(report.summary("smoke", Results(tmp_path)).split())
  low, high = scipy.stats.ttest_1samp([1.0, -1.0, 0.5], 0.0).confidence_interval()
  assert (
    "| CIFAR-10, confirming | 3 | 11.00 ± 1.00 | **-2.00** (-2.25 to -1.75); of "
    f"training errors +3.00 | +0.17 ({low:+.2f} to {high:+.2f}); of training errors "
    "+3.00 |"
  ) in text
  # The mean of both, seed by seed.
  both = scipy.stats.ttest_1samp([-0.45, -1.55, -0.75], 0.0).confidence_interval()
  assert (
    "CIFAR-10, exploring on 3 seeds, mean of 2 variants of the energy: -0.92 "
    f"({both.low:+.2f} to {both.high:+.2f})."
  ) in text


def test_diverged_runs_have_no_error(tmp_path):
  mhe = dataclasses.replace(SMOKE, regularizer=MHE)
  write_results(tmp_path, SMOKE, {0: 90.0, 1: 90.0}, test_loss=None)
  write_results(tmp_path, mhe, {0: 9.0, 1: 11.0}, test_loss=0.1)
  sweep = Sweep("title", "kind", [
    Arm("plain", "c", SMOKE, math.nan), Arm("mhe", "c", mhe, 7.5),
  ], range(2))  # fmt: skip
  _, _, plain, ours, *_ = report.table(sweep, Results(tmp_path)).splitlines()
  assert plain == "| plain | no convergence | no convergence |"
  assert ours == "| mhe | 10.00 ± 1.41 | 7.50 |"
  write_results(tmp_path, SMOKE, {0: 9.0, 1: 9.0}, test_loss=0.1, train_error=1.0)
  write_results(tmp_path, mhe, {0: 9.0}, test_loss=0.1, train_error=1.0)
  write_results(tmp_path, mhe, {1: 90.0}, test_loss=None, train_error=1.0)
  assert "| no convergence |" in report.summary("smoke", Results(tmp_path))
  *_, ours, _, _ = report.table(sweep, Results(tmp_path)).splitlines()
  assert ours == "| mhe | 1 of 2 do not converge, others 9.00 | 7.50 |"


def test_a_table_without_its_baseline_has_no_differences(tmp_path):
  mhe = dataclasses.replace(SMOKE, regularizer=MHE)
  write_results(tmp_path, mhe, {0: 9.0, 1: 11.0})
  sweep = Sweep("title", "kind", [
    Arm("plain", "c", SMOKE, 8.0), Arm("mhe", "c", mhe, 7.5),
  ], range(2))  # fmt: skip
  header, _, ours, *_ = report.table(sweep, Results(tmp_path)).splitlines()
  assert (header, ours) == ("| kind | c | paper |", "| mhe | 10.00 ± 1.41 | 7.50 |")


def test_results_of_different_images_are_not_mixed(tmp_path):
  write_results(tmp_path, SMOKE, {0: 9.0}, data={"fingerprint": "a"})
  write_results(tmp_path, SMOKE, {1: 9.0}, data={"fingerprint": "b"})
  with pytest.raises(ValueError, match=r"must have the images of the results beside"):
    Results(tmp_path)


def test_results_with_a_damaged_file_name_it(tmp_path):
  (tmp_path / "x.json").write_text("{")
  with pytest.raises(ValueError, match=r"x\.json is not the result of a run"):
    Results(tmp_path)
  with pytest.raises(ValueError, match="must exist"):
    Results(tmp_path / "nowhere")
  write_results(tmp_path / "twice", SMOKE, {0: 1.0})
  (path,) = (tmp_path / "twice").glob("*.json")
  (tmp_path / "twice" / "zz.json").write_text(path.read_text())
  with pytest.raises(ValueError, match=r"zz\.json has the settings of another result"):
    Results(tmp_path / "twice")


def test_only_what_is_generated_is_replaced_in_a_page():
  page = "before\n<!-- a -->\nold\n<!-- end of a -->\nafter"
  assert report.fill(page, {"a": "new"}) == page.replace("old", "new")
  with pytest.raises(ValueError, match="must have <!-- b -->"):
    report.fill(page, {"b": "new"})


def test_the_second_step_has_momentum(as_users):
  """0.1 (1 + 0.9)."""
  config = dataclasses.replace(SMOKE, weight_decay=0.0)
  tx = config.optimizer()
  params = {"score": {"kernel": jnp.ones((2, 2)), "bias": jnp.zeros(2)}}
  grads = jax.tree.map(jnp.ones_like, params)
  state = tx.init(params)
  first, state = tx.update(grads, state, params)
  second, _ = tx.update(grads, state, optax.apply_updates(params, first))
  np.testing.assert_allclose(second["score"]["bias"], -0.19, rtol=1e-6)
