"""Runs of classification: what they train, and how they resume."""

import dataclasses
import json
import signal
import time

import filelock
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from processes import VOLATILE, finish, result_in, start
from rich.console import Console

from experiments.classification.presets import PRESETS
from experiments.classification.sweep import sweep as work_through
from experiments.classification.task import Run, train
from experiments.data import Data, Split

SMOKE = PRESETS["smoke"]


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
  path.write_text("{}")
  text = finish(start("classification", *arguments), 2)
  assert "is not the result of a run: KeyError('config')" in text
