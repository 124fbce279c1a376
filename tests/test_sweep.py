"""Sweeps: which runs they have, and how their processes live and die."""

import dataclasses
import os
import pathlib
import signal
import time

import filelock
from processes import finish, start

from experiments.classification import report
from experiments.classification.paper import (
  BASELINE,
  sweeps_of,
)
from experiments.classification.presets import PRESETS, preset
from experiments.classification.sweep import runs
from experiments.runs.results import Results

SWEEP, REPORT = "classification.sweep", "classification.report"


def test_workers_end_with_their_sweep(tmp_path):
  process = start(SWEEP, "--preset", "smoke", "--output", tmp_path, "--jobs", 1)
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
  # Jobs in the background ignore interrupts, and so does what they start.
  previous = signal.signal(signal.SIGINT, signal.default_int_handler)
  process = start(SWEEP, *arguments, "--jobs", 1)
  signal.signal(signal.SIGINT, previous)
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
    SWEEP, "layers", "--preset", "smoke", "--output", tmp_path, "--seeds", 0,
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
  assert text.count("failed: a worker ended, or was killed") == 1
  assert any(
    f"{lock.stem} failed: a worker ended, or was killed" in text for lock in locks
  )


def test_processes_share_the_runs_of_a_sweep(tmp_path):
  """What another one trains is left to it."""
  config, *_ = runs(("layers",), "smoke", (0,))
  with filelock.FileLock(tmp_path / f"{config.name}.lock"):
    process = start(
      SWEEP,
      "layers",
      "--preset",
      "smoke",
      "--output",
      tmp_path,
      "--seeds",
      0,
    )
    text = finish(process, 1)
  assert "not finished yet: 1; the same command goes on" in text
  assert "5 of 6 runs are in" in text and "Traceback" not in text


def children_of(pid):
  path = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
  return [int(child) for child in path.read_text().split()]


def command_of(pid):
  return pathlib.Path(f"/proc/{pid}/cmdline").read_text()


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


def test_every_sweep_runs_and_the_report_shows_it(tmp_path):
  """In two parts, of which the second skips what the first has done."""
  folder = tmp_path / "runs"
  arguments = ("--preset", "smoke", "--seeds", 0, "--output", folder)
  assert f"6 of 6 runs are in {folder}." in finish(start(SWEEP, "layers", *arguments))
  before = {path: path.stat().st_mtime_ns for path in folder.glob("*.json")}
  everything = (*arguments[:2], "--seeds", 0, 100, *arguments[4:])
  finish(start(SWEEP, *everything, "--jobs", 2))
  after = {path: path.stat().st_mtime_ns for path in folder.glob("*.json")}
  assert set(after) == {
    folder / f"{config.name}.json"
    for config in runs(tuple(sweeps_of("smoke")), "smoke", (0, 100))
  }
  assert before.items() < after.items()
  options = ("--preset", "smoke", "--results", folder, "--output", tmp_path)
  finish(start(REPORT, *options))
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
    SWEEP, "resnet", "--preset", "cpu", "--data-root", tmp_path, "--seeds", 0,
    "--output", tmp_path,
  )  # fmt: skip
  text = finish(process, 1)
  assert "0 of 6 runs" in text
  assert text.count("failed: the folder of the data must exist") == 6
  process = start(SWEEP, "headline", "--preset", "cpu", "--seeds", 0)
  assert "seeds must be of 3, 4, 5, 6, 7, those of the sweeps, got 0" in finish(
    process, 2
  )
  process = start(SWEEP, "layers", "--jobs", 0)
  assert "jobs must be at least 1, got 0" in finish(process, 2)
  process = start(SWEEP, "widths", "--preset", "cpu")
  assert "must be of rate, headline, variants" in finish(process, 2)


def test_the_command_for_one_run_makes_a_cell_of_the_tables():
  first = {}
  for arm in sweeps_of("cpu")["variants"].arms:
    first.setdefault(arm.config.dataset, arm.config)
  assert first == {name: preset("cpu", name) for name in ("cifar10", "cifar100")}
  assert preset("paper", "cifar10") == dataclasses.replace(
    PRESETS["paper"], dataset="cifar10"
  )
