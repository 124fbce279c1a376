"""Runs of GANs: what they record, how they resume and diverge; and their critic."""

import dataclasses
import math
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import VOLATILE
from test_gan_models import FULL, SMOKE

from experiments.data import Data, Split, load
from experiments.errors import InputError
from experiments.gan import __main__ as command
from experiments.gan import critic as critics
from experiments.gan import task as gan_task
from experiments.gan.critic import Critic, held_out, judge
from experiments.gan.images import decoded, squares
from experiments.gan.task import TASK, Run, start
from experiments.runs.task import Diverged
from experiments.runs.train import train


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
  """One for this module, so that its critic is trained once."""
  folder = tmp_path_factory.getbasetemp() / "cache"
  monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
  return folder


def test_a_run_that_is_stopped_ends_with_the_same_numbers(tmp_path, as_users):
  def stop(step):
    if step == 5:
      raise InterruptedError

  with pytest.raises(InterruptedError):
    train(TASK, FULL, tmp_path / "stopped", on_step=stop)
  results = [train(TASK, FULL, tmp_path / name) for name in ("stopped", "whole")]
  stopped, whole = (
    {name: value for name, value in result.items() if name not in VOLATILE}
    for result in results
  )
  assert stopped == whole
  history = whole["history"]
  assert [entry["step"] for entry in history] == [0, 3, 6]
  assert history[0]["discriminator_loss"] is None
  for entry in history[1:]:  # Of networks that know nothing: 2 log 2 and log 2.
    assert entry["discriminator_loss"] == pytest.approx(2 * math.log(2), abs=0.3)
    assert entry["generator_loss"] == pytest.approx(math.log(2), abs=0.3)
  assert set(history[0]["excess"]) == {f"conv{i}/kernel" for i in range(7)}
  assert history[0]["excess"] != history[2]["excess"]
  shapes = [decoded(entry["samples"]).shape for entry in history]
  assert shapes == [(32, 256), (32, 256), (256, 256)]
  assert None not in whole.values()
  assert whole["noise_frechet"] > whole["real_frechet"] > 0
  assert min(whole["real_precision"], whole["real_recall"]) > 0.5
  assert 1.0 <= whole["classifier_score"] <= 10.0
  assert whole["error_of_frechet"] > 0
  assert f"Frechet distance {whole['frechet']:.2f}" in TASK.tell(whole)


class Broken(Run):
  """A run whose losses are not finite from step 4 on."""

  def steps(self, first, last):
    for step in super().steps(first, last):
      if step == 4:
        self.state = self.state._replace(losses=jnp.full(2, jnp.nan, jnp.float32))
      yield step


def broken(config, data_root):
  run = start(config, data_root)
  return Broken(config, run._data, run._judge)


def test_a_run_that_diverges_says_so(tmp_path, as_users):
  task = dataclasses.replace(TASK, start=broken)
  result = train(task, FULL, tmp_path)
  assert "no longer finite at step 6; try a smaller" in result["diverged"]
  assert [entry["step"] for entry in result["history"]] == [0, 3]
  assert "frechet" not in result
  run = start(FULL, None)
  params = run.state.generator
  bad = {**params, "image": {**params["image"], "bias": jnp.array([jnp.inf])}}
  run.state = run.state._replace(generator=bad)
  with pytest.raises(Diverged, match="no longer finite at step 0"):
    run.measure(0)
  # Infinite second moments, and Adam stands still where it is.
  run = start(FULL, None)
  moments = jax.tree.map(lambda x: x + jnp.inf if x.ndim else x, run.state.optimizers)
  run.state = run.state._replace(optimizers=moments)
  with pytest.raises(Diverged, match="moments of the optimizer were no longer finite"):
    run.measure(0)


def test_samples_follow_from_the_seed_and_few_are_the_first_of_many(as_users):
  run = start(FULL, None)
  few, many = run._samples(70), run._samples(501)
  np.testing.assert_array_equal(few, many[:70])
  assert many.shape == (501, 32, 32, 1) and many.dtype == np.uint8
  assert len(np.unique(many.reshape(501, -1), axis=0)) == 501
  other = start(dataclasses.replace(FULL, seed=1), None)._samples(70)
  assert (few != other).any()


def test_the_command_trains_a_run(tmp_path, as_users, monkeypatch, capsys):
  arguments = ("--preset", "smoke", "--spectral-norm", "--regularizer.kind", "mhe")
  more = ("--regularizer.relative", "--regularizer.weight", "3", "--seed", "1")
  folder = str(tmp_path / "runs")
  monkeypatch.setattr(sys, "argv", ["gan", *arguments, *more, "--output", folder])
  command.main()
  assert "Frechet distance" in capsys.readouterr().out
  (path,) = (tmp_path / "runs").glob("*.json")
  assert path.stem == dataclasses.replace(FULL, seed=1).name


def test_processes_share_a_critic_and_only_one_trains_it(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  trained = []

  def slow(settings, data):
    trained.append(settings)
    time.sleep(0.3)
    return made_of(np.float32(len(trained)))

  def made_of(x):
    return {"params": {"score": {"kernel": x}}, "batch_stats": {"mean": x}}

  monkeypatch.setattr(critics, "_initial", lambda *_: made_of(jnp.zeros((), "f")))
  monkeypatch.setattr(critics, "_trained", slow)
  split = Split(np.zeros((3, 32, 32, 1), np.uint8), np.zeros(3, np.int32))
  data = Data(split, split, ("a",), "here")
  found = []
  threads = [
    threading.Thread(target=lambda: found.append(judge(SMOKE.critic, data)))
    for _ in range(3)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(found) == 3 and len(trained) == 1
  assert len({x.fingerprint for x in found}) == 1
  # Of other settings, and of other data, it is another.
  judge(dataclasses.replace(SMOKE.critic, width=3), data)
  bright = Split(split.images + 1, split.labels)
  judge(SMOKE.critic, Data(bright, split, ("a",), "here"))
  assert len(trained) == 3
  (tmp_path / "file").touch()
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
  with pytest.raises(InputError, match="the cache of critics must be a folder"):
    judge(SMOKE.critic, data)


@pytest.mark.parametrize("fault", ["empty", "cut", "other shapes", "less", "nan"])
def test_a_critic_that_cannot_be_read_is_named(tmp_path, monkeypatch, as_users, fault):
  def spoil(path):
    with np.load(path) as arrays:
      found = dict(arrays)
    if fault == "empty":
      path.write_bytes(b"")
    elif fault == "cut":
      path.write_bytes(path.read_bytes()[:3000])
    elif fault == "nan":
      np.savez(path, allow_pickle=False, **{k: x * np.nan for k, x in found.items()})
    elif fault == "other shapes":
      np.savez(path, allow_pickle=False, **{k: x[..., :1] for k, x in found.items()})
    else:
      np.savez(path, allow_pickle=False, **dict([*found.items()][1:]))

  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  data = squares(load("digits"))
  settings = dataclasses.replace(SMOKE.critic, steps=1)
  judge(settings, data)
  (path,) = (tmp_path / "mhe_jax" / "critics").glob("*.npz")
  spoil(path)
  with pytest.raises(InputError, match=r"\.npz is not a readable critic: .* Delete it"):
    judge(settings, data)


def test_a_critic_that_diverged_is_not_kept(tmp_path, monkeypatch, as_users):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  settings = dataclasses.replace(SMOKE.critic, learning_rate=1e30)
  with pytest.raises(InputError, match=r"critic\.learning_rate must be smaller"):
    judge(settings, squares(load("digits")))
  assert not [*(tmp_path / "mhe_jax" / "critics").glob("*.npz")]


@pytest.mark.parametrize(
  ("split", "count", "name"), [("train", 9, "held-out training"), ("test", 3, "test")]
)
def test_too_few_images_are_named_before_any_training(monkeypatch, split, count, name):
  digits = load("digits")
  part = getattr(digits, split)
  few = {split: Split(part.images[:count], part.labels[:count])}
  data = dataclasses.replace(digits, **few)
  monkeypatch.setattr(gan_task, "load", lambda *_: data)
  gan_task._data_and_judge.cache_clear()
  with pytest.raises(InputError, match=f"more than 3 {name} images.*got 3"):
    TASK.start(SMOKE, None)
  gan_task._data_and_judge.cache_clear()


def test_the_critic_is_that_of_its_seed_and_sees_what_it_is_shown(as_users):
  run = start(FULL, None)
  own = run._judge
  rows = np.arange(600)  # More than a batch, and no multiple of it.
  images = run._data.test.images[rows]
  seen = own.look(images)
  assert seen.features.shape == (600, 256)
  np.testing.assert_allclose(seen.probabilities.sum(1), 1.0, rtol=1e-5)
  np.testing.assert_allclose(seen.features, own.reference.features[rows], atol=1e-4)
  variables = critics._trained(SMOKE.critic, run._data)
  again = critics.Judge(SMOKE.critic, variables, run._data)
  assert again.fingerprint == own.fingerprint
  assert own.error < 85.0  # 90 by chance: of 20 steps.


def test_the_critic_does_not_learn_from_the_held_out_images():
  data = load("digits")
  rows = held_out(data)
  assert len(rows) == 1000 and len(set(rows)) == 1000
  assert np.bincount(data.train.labels[rows]).min() > 70


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"model": "resnet-20"}, "model of a critic must be cnn-N, got 'resnet-20'"),
    ({"model": "cnn-4"}, "model must be cnn-N with N a multiple of 3"),
    ({"learning_rate": -1.0}, "learning_rate must be positive, got -1.0"),
  ],
)
def test_critics_that_cannot_be_are_named(changes, message):
  with pytest.raises(InputError, match=message):
    Critic(**changes)
