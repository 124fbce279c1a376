"""Runs of classification: what they train, and how they resume."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from processes import VOLATILE, finish, result_in, start

from experiments import models
from experiments.classification.presets import PRESETS
from experiments.classification.task import TASK, Run
from experiments.data import Data, Split
from experiments.excess import excess, hidden_excess
from experiments.regularizers import Regularizer
from experiments.runs.train import train
from mhe_jax import Riesz, relative_excess

SMOKE = PRESETS["smoke"]


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
    "feature_rank": None,  # Of a blank network they are all the same.
    "validation_error": 100 * 14 / 20,
    "test_error_class_0": 100.0,
  }, abs=1e-4)  # fmt: skip
  measurement = run.measure(0)
  assert measurement["test_error"] == pytest.approx(100 * 3 / 7, abs=1e-4)
  assert measurement["train_loss"] is None  # There was no step yet.


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


def test_a_run_that_is_stopped_ends_with_the_same_numbers(tmp_path, as_users):
  """Also with a regularizer whose state is part of the optimizer's."""
  config = dataclasses.replace(
    SMOKE, steps=300, measurements=10, warmup=20,
    regularizer=Regularizer("mhe", weight=20.0),
  )  # fmt: skip

  def stop(step):
    if step == 155:
      raise InterruptedError

  with pytest.raises(InterruptedError):
    train(TASK, config, tmp_path / "stopped", on_step=stop)
  results = [train(TASK, config, tmp_path / name) for name in ("stopped", "whole")]
  stopped, whole = (
    {name: value for name, value in result.items() if name not in VOLATILE}
    for result in results
  )
  assert stopped == whole
  history = whole["history"]
  assert [entry["step"] for entry in history] == list(range(0, 301, 30))
  assert history[-1]["train_loss"] < history[1]["train_loss"]
  excess = [entry["excess"] for entry in history]
  assert set(excess[0]) == {
    *(f"conv{i}_0/kernel" for i in range(3)), "features/kernel", "score/kernel",
  }  # fmt: skip
  assert excess[-1]["features/kernel"] < 0.8 * excess[0]["features/kernel"]


def test_the_excess_of_all_layers_but_the_output_is_in_half_space(key):
  kernel = jax.random.normal(key, (6, 9))  # Nine neurons of six dimensions.
  found = excess({name: {"kernel": kernel} for name in ("conv", "score")})
  for path, half_space in (("conv/kernel", True), (models.OUTPUT, False)):
    expected = relative_excess(kernel.T, Riesz(2.0), half_space=half_space)
    assert float(found.pop(path)) == pytest.approx(float(expected))
  assert not found
  entry = {"a": 1.0, "b": 2.0, "c": 60.0, models.OUTPUT: 7.0}
  assert hidden_excess(entry) == 2.0
  assert np.isnan(hidden_excess({"a": None, models.OUTPUT: 7.0}))


def test_a_result_can_be_repeated(tmp_path):
  arguments = ("--preset", "smoke", "--regularizer.kind", "mhe", "--dropped", 1, 0.5)
  text = finish(start("classification", *arguments, "--output", tmp_path / "a"))
  assert "test error" in text
  (path,) = (tmp_path / "a").glob("*.json")
  finish(start("classification", "--repeat", path, "--output", tmp_path / "b"))
  assert result_in(tmp_path / "a") == result_in(tmp_path / "b")
