"""Runs of GANs: what they record, how they resume and diverge; critic and report."""

import dataclasses
import json
import math
import pathlib
import re
import shutil
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
from experiments.gan import report
from experiments.gan import task as gan_task
from experiments.gan.critic import Critic, held_out, judge
from experiments.gan.figures import FIGURES, draw_all
from experiments.gan.images import decoded, encoded, squares
from experiments.gan.plan import SWEEPS, sweeps_of
from experiments.gan.presets import PRESETS, Config, preset
from experiments.gan.report import blocks
from experiments.gan.task import TASK, Run, start
from experiments.gan.training import discriminator_loss
from experiments.models.gan import Discriminator
from experiments.regularizers import Regularizer
from experiments.runs.plan import runs_of
from experiments.runs.results import Results
from experiments.runs.task import Diverged
from experiments.runs.train import train
from mhe_jax import Riesz, hyperspherical_energy, network_energy


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


@pytest.mark.parametrize("fault", ["empty", "cut", "other shapes", "less"])
def test_a_critic_that_cannot_be_read_is_named(tmp_path, monkeypatch, as_users, fault):
  def spoil(path):
    with np.load(path) as arrays:
      found = dict(arrays)
    if fault == "empty":
      path.write_bytes(b"")
    elif fault == "cut":
      path.write_bytes(path.read_bytes()[:3000])
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


def test_sweeps_differ_in_the_discriminator_alone_and_confirm_on_other_seeds():
  for name in PRESETS:
    sweeps = sweeps_of(name)
    for sweep in sweeps.values():
      for arm in sweep.arms:
        assert arm.measure == "frechet" and arm.paper is None
        (dataset,) = {a.config.dataset for a in sweep.arms if a.column == arm.column}
        plain = dataclasses.replace(
          arm.config, regularizer=Regularizer(), spectral_norm=False
        )
        assert plain == preset(name, dataset)
    four = sweeps["four"]
    rows = {(arm.row, arm.column) for arm in four.arms}
    for ask in four.asks:
      assert {(ask.row, ask.column), (ask.against, ask.column)} <= rows
    if name != "smoke":
      assert len(four.seeds) == 5
      assert not {*four.seeds} & {*sweeps["forms"].seeds, *sweeps["weight"].seeds}
      assert len(four.asks) == 4
  assert set(SWEEPS) == {"four", "forms", "weight"}


@pytest.mark.parametrize(
  "row, with_norm, factor", [("MHE", False, 1e-6), ("SN + MHE", True, 1e-7)]
)
def test_paper_has_the_authors_weight_which_hardly_moves(row, with_norm, factor):
  arms = {arm.row: arm.config for arm in sweeps_of("paper")["four"].arms}
  weight = arms[row].regularizer.weight
  n = 512
  w = np.random.default_rng(0).normal(size=(n, 24))
  z2 = 2.0 - 2.0 * (w @ w.T) / np.outer(*2 * [np.linalg.norm(w, axis=1)])
  theirs = 2.0 * factor / n**2 * np.sum(np.log(1.0 / z2[np.triu_indices(n, 1)]))
  ours = weight * float(hyperspherical_energy(w, Riesz(0.0)))
  assert theirs == pytest.approx(ours, rel=1.01 / n)

  network = Discriminator(PRESETS["paper"].width, with_norm)
  images = np.random.default_rng(1).uniform(-1, 1, (2, 4, 32, 32, 3)).astype("f")
  variables = network.init(jax.random.key(0), images[0])
  params = jax.tree.map(
    lambda x: x * (0.02 / x.std()) if x.ndim > 1 else x, variables["params"]
  )
  spectral = variables.get("batch_stats", {})
  data = jax.grad(lambda p: discriminator_loss(network, p, spectral, *images)[0])(
    params
  )
  energy = jax.grad(lambda p: network_energy(p, Riesz(0.0)))(params)
  for layer in filter(lambda name: name.startswith("conv"), params):
    of_energy, of_data = (np.linalg.norm(g[layer]["kernel"]) for g in (energy, data))
    assert weight * of_energy < 1e-5 * of_data


def synthetic(config, rng, critic="c"):
  """A finished run of made-up numbers."""
  layers = [f"conv{i}/kernel" for i in range(7)]
  names = ("frechet", "classifier_score", "precision", "recall")
  return {
    "config": dataclasses.asdict(config),
    "data": {"fingerprint": config.dataset, "critic": critic},
    "history": [
      {
        "step": step,
        "frechet": rng.uniform(10.0, 20.0),
        "excess": dict(zip(layers, rng.uniform(0.1, 2.0, 7))),
        "samples": encoded(np.zeros((256, 256, 1), np.uint8)),
      }
      for step in (0, config.steps)
    ],
    **{f"error_of_{name}": 0.3 for name in names},
    **{f"real_{name}": 0.8 for name in names},
    **dict(zip(names, (rng.uniform(10.0, 20.0), 5.0, 0.5, 0.4))),
    "noise_frechet": 90.0,
    "critic_error": 2.0,
    "collapsed": 0.0,
  }


def test_the_report_counts_what_collapsed_and_diverged_and_draws_everything(tmp_path):
  rng = np.random.default_rng(0)
  folder = tmp_path / "runs"
  folder.mkdir()
  four = sweeps_of("cpu")["four"]
  mhe = {arm.row: arm.config for arm in four.arms if arm.column == "digits"}["MHE"]
  for config in runs_of(sweeps_of("cpu").values()):
    result = synthetic(config, rng)
    if config == dataclasses.replace(mhe, seed=1):
      result["collapsed"] = 1.0
    if config.seed == 1:
      result["data"]["critic"] = "another"
    if config == dataclasses.replace(mhe, seed=2):
      result = {k: result[k] for k in ("config", "data", "history")}
      result["history"] = result["history"][:1]
      result["diverged"] = "it did"
    (folder / f"{config.name}.json").write_text(json.dumps(result))
  found = Results(folder, Config)
  texts = blocks("cpu", found)
  assert set(texts) == {x for name in SWEEPS for x in (name, f"scores of {name}")}
  assert "Not run yet." not in texts.values()
  (line,) = (
    x for x in texts["scores of four"].splitlines() if x.startswith("| digits | MHE |")
  )
  assert line.endswith(
    "| 0.500 ± 0.000 (0.300) | 0.400 ± 0.000 (0.300) | 1 of 5 | 1 of 5 |"
  )
  assert "1 of 5 do not converge" in texts["four"]
  assert "scored by 2 different classifiers" in texts["scores of four"]
  assert texts["scores of four"].count("*real images* | 0.80 | 0.80 | 0.800") == 2
  assert texts["four"].count("SN + MHE against SN") == 2
  page = pathlib.Path(report.__file__).parents[2] / "docs" / "gan.md"
  shutil.copy(page, tmp_path)
  report.main("cpu", folder, tmp_path)
  text = (tmp_path / "gan.md").read_text()
  assert "Not run yet." not in text
  assert all(block in text for block in texts.values())
  drawn = {path.name for path in (tmp_path / "images").iterdir()}
  assert drawn == {f"gan_{name}.png" for name in FIGURES}
  assert set(re.findall(r"\(images/(.*?)\)", text)) == drawn


def test_where_every_run_with_energy_diverged_the_pictures_are_drawn(tmp_path):
  rng = np.random.default_rng(0)
  for config in runs_of(sweeps_of("cpu").values()):
    result = synthetic(config, rng)
    if config.regularizer.kind != "none":
      result = {k: result[k] for k in ("config", "data", "history")} | {"diverged": "x"}
    (tmp_path / f"{config.name}.json").write_text(json.dumps(result))
  report.main("cpu", tmp_path, tmp_path / "page")
  assert "5 of 5 |" in (tmp_path / "page" / "gan.md").read_text()


def test_runs_that_are_compared_have_one_critic(tmp_path):
  rng = np.random.default_rng(0)
  for i, config in enumerate(runs_of([sweeps_of("cpu")["four"]])):
    result = synthetic(config, rng, critic=f"{i}") | {"name": f"x{config.seed}"}
    (tmp_path / f"{config.name}.json").write_text(json.dumps(result))
  with pytest.raises(InputError, match="must be scored by one critic, got x0, x0"):
    blocks("cpu", Results(tmp_path, Config))


def test_without_results_there_are_no_pictures_and_every_block_says_so(tmp_path):
  found = Results(tmp_path, Config)
  assert set(blocks("cpu", found).values()) == {"Not run yet."}
  assert draw_all("cpu", found, tmp_path) == []
