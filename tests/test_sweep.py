"""Sweeps of classification: which runs they have, and what is shown of them."""

import dataclasses
import json
import re

import numpy as np
from processes import finish, start

from experiments import models
from experiments.classification import sweep as command
from experiments.classification.arms import BASELINE
from experiments.classification.details import rounding
from experiments.classification.figures import FIGURES, draw_all
from experiments.classification.plan import SWEEPS, sweeps_of
from experiments.classification.presets import PRESETS, Config, preset
from experiments.classification.report import blocks
from experiments.report.tables import table
from experiments.runs.plan import runs_of
from experiments.runs.results import Results

SWEEP, REPORT = "classification.sweep", "classification.report"


def test_pairs_of_a_sweep_differ_in_the_regularizer_alone():
  for name_of_preset in PRESETS:
    for name, sweep in sweeps_of(name_of_preset).items():
      if name in ("rate", "rates", "noise"):
        continue
      first = sweep.arms[0].row
      baselines = {arm.column: arm for arm in sweep.arms if arm.row == first}
      for arm in sweep.arms:
        rival = baselines[arm.column].config
        assert rival.regularizer == BASELINE
        # The rival that one would try first: another rate.
        others = name in ("warm", "confirm")
        rate = rival.learning_rate if others else arm.config.learning_rate
        plain = dataclasses.replace(
          arm.config, regularizer=BASELINE, learning_rate=rate
        )
        assert plain == rival, name


def test_the_command_for_one_run_makes_a_cell_of_the_tables():
  first = {}
  for arm in sweeps_of("cpu")["variants"].arms:
    first.setdefault(arm.config.dataset, arm.config)
  assert first == {name: preset("cpu", name) for name in ("cifar10", "cifar100")}
  assert preset("paper", "cifar10") == dataclasses.replace(
    PRESETS["paper"], dataset="cifar10"
  )


def test_runs_of_sweeps_go_seed_by_seed_and_those_of_imagenet_come_last():
  sweeps = sweeps_of("paper")
  configs = runs_of([sweeps["imagenet"], sweeps["layers"]])
  assert [config.dataset for config in configs] == ["cifar100"] * 30 + ["imagenet"] * 8
  assert [config.seed for config in configs[:30]] == [i // 6 for i in range(30)]


def test_sweeps_run_and_the_report_shows_them(tmp_path):
  folder = tmp_path / "runs"
  # All but those which differ in nothing but the form of the energy, or its weight.
  sweeps = {
    name: sweep
    for name, sweep in sweeps_of("smoke").items()
    if name not in ("variants", "weight")
  }
  arguments = ("--preset", "smoke", "--seeds", 0, 100, "--output", folder)
  finish(start(SWEEP, *sweeps, *arguments))  # By one worker: it compiles once.
  assert set(folder.iterdir()) == {
    folder / f"{config.name}.json" for config in runs_of(sweeps.values(), (0, 100))
  }
  for path in list(folder.glob("*.json")):  # Or a table would not be shown.
    result = json.loads(path.read_text())
    result["config"]["seed"] += 1
    (folder / f"{Config.from_json(result['config']).name}.json").write_text(
      json.dumps(result)
    )
  options = ("--preset", "smoke", "--results", folder, "--output", tmp_path)
  finish(start(REPORT, *options))
  page = (tmp_path / "classification.md").read_text()
  for name, sweep in sweeps.items():
    if name == "noise":  # What counts is their spread.
      assert rounding(sweep, Results(folder, Config)) in page
      continue
    text = table(sweep, Results(folder, Config))
    assert text in page
    assert all(f"\n| {arm.row} |" in text for arm in sweep.arms)
  pictures = {path.stem for path in (tmp_path / "images").glob("*.png")}
  expected = {"curves", "start", "energies", "deep", "rates"}  # The others need seeds.
  assert pictures == {f"classification_{name}" for name in expected}


def test_all_pictures_are_drawn_of_a_finished_preset(tmp_path):
  rng = np.random.default_rng(0)
  layers = [*(f"conv{i}/kernel" for i in range(4)), models.OUTPUT]
  folder = tmp_path / "runs"
  folder.mkdir()
  of_paper = sweeps_of("paper")["whole"]
  for config in runs_of([*sweeps_of("cpu").values(), of_paper]):
    numbers = rng.uniform(0.1, 3.0, (2, 2, len(layers)))
    steps = (0, config.steps)
    result = {
      "config": dataclasses.asdict(config),
      "data": {"fingerprint": config.dataset},
      "history": [
        {
          "step": step, "train_loss": rng.random() if step else None,
          "test_error": rng.random(),
          "excess": dict(zip(layers, excess)), "norm": dict(zip(layers, norm)),
        }
        for step, excess, norm in zip(steps, *numbers.tolist())
      ],
      **dict.fromkeys(("test_loss", "train_loss"), 1.0),
      **dict.fromkeys(("train_error", "validation_error", "feature_rank"), 20.0),
      **{f"test_error_class_{label}": 30.0 for label, _ in config.dropped},
      "test_error": rng.uniform(40.0, 60.0),
    }  # fmt: skip
    (folder / f"{config.name}.json").write_text(json.dumps(result))
  found = Results(folder, Config)
  pictures = draw_all("cpu", found, tmp_path)
  assert {path.stem for path in pictures} == {f"classification_{x}" for x in FIGURES}
  texts = blocks("cpu", found)
  assert "Not run yet." not in texts.values()


def test_the_help_has_every_sweep():
  words = set(re.findall(r"\w+", command.__doc__))
  assert set(SWEEPS) <= words
