"""The runner, with a task of the tests' own: it needs nothing of any other."""

import dataclasses
import json
import math
import os
import pathlib
import pickle
import re
import signal
import subprocess
import sys
import time

import counting
import filelock
import numpy as np
import pytest
from counting import PRESETS, TASK, Config, Stride, sweeps_of
from processes import VOLATILE, environment, finish, result_in
from rich.console import Console

from experiments import runs
from experiments.environment import environment as made_with
from experiments.errors import InputError
from experiments.report.cells import mean_and_spread
from experiments.report.columns import columns_of
from experiments.runs import train as runner
from experiments.runs.checkpoints import Checkpoints
from experiments.runs.plan import Arm, Sweep, runs_of
from experiments.runs.results import Results, settings_of
from experiments.runs.sweep import sweep
from experiments.runs.train import OccupiedError, is_finished, train

SMOKE, SLOW = PRESETS["smoke"], PRESETS["cpu"]


@pytest.fixture(autouse=True)
def saving_at_every_measurement(monkeypatch):
  """However fast a run is; of processes of their own, it is the first that counts."""
  monkeypatch.setattr(runner, "SAVING", math.inf)


def start(*arguments):
  """The command of the task, as a process."""
  return subprocess.Popen(
    [sys.executable, counting.__file__, *map(str, arguments)],
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    env=environment() | {"PYTHONPATH": os.pathsep.join(sys.path)},
  )


@pytest.fixture
def call(monkeypatch, capsys):
  """The command of the task in this process, in much less time: what it prints."""

  def call(*arguments, code=0):
    is_sweep = arguments[0] == "sweep"
    options = arguments[1:] if is_sweep else arguments
    monkeypatch.setattr(sys, "argv", ["counting", *map(str, options)])
    found = 0
    try:
      if is_sweep:
        counting.sweep_command(TASK, sweeps_of, counting.__doc__)
      else:
        counting.run_command(TASK, counting.__doc__)
    except SystemExit as stop:
      found = stop.code or 0
    text = " ".join(capsys.readouterr().out.split())
    assert found == code, text
    return text

  return call


def wait_for(process, folder, pattern, count=1):
  deadline = time.monotonic() + 300
  while len(found := list(folder.glob(pattern))) < count:
    assert time.monotonic() < deadline and process.poll() is None
    time.sleep(0.01)
  return found


def without_volatile(result):
  return {k: v for k, v in result.items() if k not in VOLATILE}


def test_the_runner_imports_no_task():
  rooms = {"runs", "errors", "environment", "kept"}
  for path in pathlib.Path(runs.__file__).parent.glob("*.py"):
    imported = re.findall(
      r"^\s*(?:from|import) experiments\.?(\w*)", path.read_text(), re.M
    )
    assert set(imported) <= rooms, path


# --- One run.


def test_a_run_has_a_json(tmp_path):
  config = dataclasses.replace(SMOKE, seed=3, stride=Stride(2.0))
  result = train(TASK, config, tmp_path)
  (path,) = tmp_path.iterdir()
  assert path.name == f"{config.name}.json" and json.loads(path.read_text()) == result
  assert result["command"] == f"python -m counting --repeat {path.name}"
  assert result["name"] == config.name
  assert result["data"] == {"from": "nowhere", "fingerprint": "none"}
  assert result["config"] == dataclasses.asdict(config)
  assert [entry["step"] for entry in result["history"]] == [0, 2, 4, 6]
  assert [entry["since"] for entry in result["history"]] == [0, 2, 2, 2]
  last = result["history"][-1]["sum"]
  assert result["test_error"] == pytest.approx(sum(map(abs, last)), abs=1e-5)
  assert {name: result[name] for name in made_with()} == made_with()
  assert result["environments"] == [made_with()]
  assert settings_of(path, Config) == config
  assert Results(tmp_path, Config).of(SMOKE) == {}
  assert Results(tmp_path, Config).of(dataclasses.replace(config, seed=0)) == {
    3: result
  }


def stop_at(last, seen):
  def on_step(step):
    seen.append(step)
    if step == last:
      raise InterruptedError

  return on_step


@pytest.mark.parametrize("last", [3, 5, 6])
def test_a_run_that_is_stopped_goes_on_from_its_last_measurement(tmp_path, last):
  seen = []
  with pytest.raises(InterruptedError):
    train(TASK, SMOKE, tmp_path / "a", on_step=stop_at(last, seen))
  assert seen == list(range(1, last + 1))
  assert not list((tmp_path / "a").glob("*.json"))
  del seen[:]
  stopped = train(TASK, SMOKE, tmp_path / "a", on_step=seen.append)
  assert seen == [*range((last - 1) // 2 * 2 + 1, 7), 6]
  whole = train(TASK, SMOKE, tmp_path / "whole")
  assert without_volatile(stopped) == without_volatile(whole)
  assert [path.suffix for path in (tmp_path / "a").iterdir()] == [".json"]


def test_a_run_does_not_go_on_with_other_data(tmp_path):
  with pytest.raises(InterruptedError):
    train(TASK, SMOKE, tmp_path, on_step=stop_at(5, []))
  begun = TASK.start

  def start_elsewhere(config, root):
    run = begun(config, root)
    run.data_source = {**run.data_source, "fingerprint": "another"}
    return run

  elsewhere = dataclasses.replace(TASK, start=start_elsewhere)
  with pytest.raises(InputError, match=r"must be of the data of the run, .*'another'"):
    train(elsewhere, SMOKE, tmp_path)
  assert train(TASK, SMOKE, tmp_path)["data"] == {
    "from": "nowhere", "fingerprint": "none",
  }  # fmt: skip


def test_saving_takes_its_share_of_the_time_and_no_more(tmp_path, monkeypatch):
  """A run that is faster than that goes on from an earlier measurement."""
  monkeypatch.setattr(runner, "SAVING", 1e-9)
  with pytest.raises(InterruptedError):
    train(TASK, SMOKE, tmp_path, on_step=stop_at(5, []))
  seen = []
  stopped = train(TASK, SMOKE, tmp_path, on_step=seen.append)
  assert seen == [3, 4, 5, 6, 6]  # Its first measurement is saved in any case.
  whole = train(TASK, SMOKE, tmp_path / "whole")
  assert without_volatile(stopped) == without_volatile(whole)


def test_a_run_that_goes_on_elsewhere_lists_both_environments(tmp_path, monkeypatch):
  with pytest.raises(InterruptedError):
    train(TASK, SMOKE, tmp_path, on_step=stop_at(5, []))
  here = made_with()
  there = here | {"versions": here["versions"] | {"revision": "0" * 40}}
  monkeypatch.setattr(runner, "environment", lambda: there)
  result = train(TASK, SMOKE, tmp_path)
  assert result["environments"] == [here, there]
  assert result["versions"] == there["versions"]


def test_a_run_that_is_killed_ends_with_the_same_numbers(tmp_path):
  arguments = ("--preset", "cpu", "--stride.scale", 2.5)
  killed = start(*arguments, "--output", tmp_path / "killed")
  wait_for(killed, tmp_path / "killed", "*.checkpoint/[1-9]*/log")
  killed.send_signal(signal.SIGKILL)
  killed.communicate()
  assert not list((tmp_path / "killed").glob("*.json"))
  text = finish(start(*arguments, "--output", tmp_path / "killed"))
  whole = train(TASK, dataclasses.replace(SLOW, stride=Stride(2.5)), tmp_path / "whole")
  assert f"walked {whole['test_error']:.2f}, " in text
  assert result_in(tmp_path / "killed") == without_volatile(whole)
  assert not list((tmp_path / "killed").glob("*.checkpoint"))


def test_a_run_is_trained_by_one_process(tmp_path):
  with (
    filelock.FileLock(tmp_path / f"{SMOKE.name}.lock"),
    pytest.raises(OccupiedError, match="is being trained by another process"),
  ):
    train(TASK, SMOKE, tmp_path)
  assert train(TASK, SMOKE, tmp_path)["name"] == SMOKE.name


def test_a_failing_run_leaves_no_result_and_raises_its_own_fault(tmp_path):
  config = dataclasses.replace(SMOKE, fails=5)
  for _ in range(2):  # It goes on from its measurement, and fails again.
    with pytest.raises(ValueError, match="step 5 is its own fault"):
      train(TASK, config, tmp_path)
  assert not list(tmp_path.glob("*.json"))
  with pytest.raises(InputError, match="the folder of the data must exist"):
    train(TASK, SMOKE, tmp_path, tmp_path / "nowhere")


def test_a_run_that_diverges_says_so_and_keeps_its_last_good_state(tmp_path):
  config = dataclasses.replace(SMOKE, diverges=4)
  result = train(TASK, config, tmp_path)
  assert result["diverged"] == "step 4 led nowhere; try a smaller stride."
  assert "test_error" not in result
  assert [entry["step"] for entry in result["history"]] == [0, 2]
  kept = tmp_path / f"{config.name}.checkpoint"
  state, log = Checkpoints(kept).restore(TASK.start(config, None).state)
  np.testing.assert_array_equal(state["sum"], result["history"][-1]["sum"])
  assert log["history"] == result["history"]
  assert is_finished(TASK, config, tmp_path)
  assert train(TASK, config, tmp_path) == result and kept.exists()


def test_commands_count_runs_that_diverge(tmp_path, call):
  arguments = ("--preset", "smoke", "--diverges", 3, "--output", tmp_path)
  text = call(*arguments, code=1)
  assert "Diverged: step 3 led nowhere; try a smaller stride. The last saved" in text
  (path,) = tmp_path.glob("*.json")
  arms = [Arm("walk", "c", dataclasses.replace(SMOKE, diverges=3))]
  plan = Sweep("title", "kind", arms, range(1))
  (column,) = columns_of(plan, Results(tmp_path, Config))
  assert math.isnan(*column.values("walk")) and math.isnan(*column.values("walk", "x"))
  assert mean_and_spread(column.values("walk")) == "no convergence"
  text = call("sweep", "lost", "--output", tmp_path)
  assert f"Diverged, and count as such: 1 ({path.stem})." in text
  assert "1 of 1 runs are in" in text


def test_the_command_tells_what_was_there_and_what_was_saved(tmp_path, call):
  command = ("--preset", "smoke", "--output", tmp_path)
  assert "; wrote " in call(*command)
  assert "already, of data from nowhere." in call(*command)
  text = call(*command, "--diverges", 1, code=1)
  assert "No state was saved before" in text
  text = call("sweep", "--seeds", "--output", tmp_path, code=2)
  assert "seeds must be one or more, got none." in text


def test_leftovers_of_a_finished_run_are_removed_and_it_is_not_trained_again(tmp_path):
  result = train(TASK, SMOKE, tmp_path)
  (tmp_path / f"{SMOKE.name}.checkpoint").mkdir()
  seen = []
  assert train(TASK, SMOKE, tmp_path, on_step=seen.append) == result
  assert seen == [SMOKE.steps]
  assert [path.suffix for path in tmp_path.iterdir()] == [".json"]


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", '{"config": []}'])
def test_what_is_no_result_does_not_cost_the_saved_state(tmp_path, text):
  with pytest.raises(InterruptedError):
    train(TASK, SMOKE, tmp_path, on_step=stop_at(5, []))
  (tmp_path / f"{SMOKE.name}.json").write_text(text)
  with pytest.raises(InputError, match="is not the result of a run"):
    train(TASK, SMOKE, tmp_path)
  assert (tmp_path / f"{SMOKE.name}.checkpoint").is_dir()


def test_a_saved_state_that_is_damaged_is_named(tmp_path):
  with pytest.raises(InterruptedError):
    train(TASK, SMOKE, tmp_path, on_step=stop_at(5, []))
  (log,) = tmp_path.glob("*.checkpoint/*/log/metadata")
  log.write_text("nothing")
  with pytest.raises(InputError, match=r"\.checkpoint cannot be read; delete it, and"):
    train(TASK, SMOKE, tmp_path)


def test_no_state_is_saved_where_it_could_not_be_read(tmp_path):
  with pytest.raises(InputError, match=r"output must have no '\[' in its path"):
    train(TASK, SMOKE, tmp_path / "run[1]")


def test_what_was_made_with_other_settings_is_no_answer(tmp_path):
  """As if a default had changed since."""
  result = train(TASK, SMOKE, tmp_path / "finished")
  result["config"]["stride"]["scale"] = 7.0
  (tmp_path / "finished" / f"{SMOKE.name}.json").write_text(json.dumps(result))
  message = r"must have the settings of the run, .*, got .*scale=7\.0"
  with pytest.raises(InputError, match=message):
    train(TASK, SMOKE, tmp_path / "finished")
  with pytest.raises(InputError, match=message):
    sweep(TASK, [SMOKE], tmp_path / "finished", None, 1, Console())
  with pytest.raises(InterruptedError):
    train(TASK, SMOKE, tmp_path / "stopped", on_step=stop_at(5, []))
  (log,) = (tmp_path / "stopped").glob("*.checkpoint/*/log/metadata")
  assert '"scale": 1.0' in log.read_text()
  log.write_text(log.read_text().replace('"scale": 1.0', '"scale": 7.0'))
  with pytest.raises(InputError, match=message):
    train(TASK, SMOKE, tmp_path / "stopped")


def test_the_command_trains_and_repeats(tmp_path, call):
  text = finish(start("--preset", "smoke", "--seed", 4, "--output", tmp_path / "a"))
  (path,) = (tmp_path / "a").glob("*.json")
  result = json.loads(path.read_text())
  assert f"walked {result['test_error']:.2f}, " in text
  assert settings_of(path, Config) == dataclasses.replace(SMOKE, seed=4)
  arguments = ("--repeat", path, "--output", tmp_path / "b")
  call(*arguments)
  assert result_in(tmp_path / "b") == without_volatile(result)
  assert "does not hold the run yet" in call(*arguments, code=2)
  text = finish(start("--preset", "smoke", "--fails", 2, "--output", tmp_path), 1)
  assert "ValueError: step 2 is its own fault" in text and "Traceback" in text


# --- Sweeps.


def test_a_task_can_be_sent_to_workers():
  assert pickle.loads(pickle.dumps(TASK)) == TASK


def test_runs_of_sweeps_are_unique_and_go_seed_by_seed():
  sweeps = sweeps_of("smoke")
  configs = runs_of([sweeps["far"], sweeps["near"], sweeps["other"]])
  assert [(c.seed, c.stride.scale) for c in configs] == [
    (0, 1), (0, 2), (1, 1), (1, 2), (1, 3), (2, 1), (2, 3), (0, 100), (1, 100),
  ]  # fmt: skip
  assert {c.seed for c in runs_of(sweeps.values(), (2, 1))} == {1, 2}


def test_a_sweep_goes_on_and_tells_what_fails(tmp_path, call):
  """In two parts, of which the second skips what the first has done."""
  arguments = ("sweep", "--output", tmp_path)
  assert f"4 of 4 runs are in {tmp_path}." in call(*arguments, "near")
  before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
  text = finish(start(*arguments, "--seeds", 0, 1, "--jobs", 2), 1)
  (name,) = (arm.config.name for arm in sweeps_of("smoke")["faulty"].arms[1:])
  assert "8 of 9 runs" in text and text.count("failed:") == 1
  assert f"{name} failed: Traceback" in text and "step 3 is its own fault" in text
  after = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
  assert before.items() < after.items() and len(after) == 8
  missing = ("--data-root", tmp_path / "nowhere", "--output", tmp_path / "b")
  text = call("sweep", "near", *missing, code=1)
  assert "0 of 4 runs" in text and "Traceback" not in text
  assert text.count("failed: the folder of the data must exist") == 4


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (("near", "--seeds", "2"), "seeds must be of 0, 1, those of the sweeps, got 2."),
    (("near", "--jobs", "0"), "jobs must be at least 1, got 0."),
    (
      ("[b]",),
      "sweeps of preset 'smoke' must be of far, near, other, lost, faulty, got",
    ),
  ],
)
def test_a_sweep_that_cannot_be_is_told(
  arguments, message, tmp_path, monkeypatch, capsys
):
  options = (*arguments, "--output", str(tmp_path))
  monkeypatch.setattr(sys, "argv", ["command", *options])
  with pytest.raises(SystemExit) as caught:
    counting.sweep_command(TASK, sweeps_of, None)
  assert caught.value.code == 2 and message in capsys.readouterr().out


def test_processes_share_the_runs_of_a_sweep(tmp_path, call):
  """What another one trains is left to it."""
  config, *_ = runs_of([sweeps_of("smoke")["near"]])
  with filelock.FileLock(tmp_path / f"{config.name}.lock"):
    text = call("sweep", "near", "--output", tmp_path, code=1)
  assert "not finished yet: 1; the same command goes on" in text
  assert "3 of 4 runs are in" in text and "Traceback" not in text


def start_slow(folder, jobs):
  return start("sweep", "near", "--preset", "cpu", "--output", folder, "--jobs", jobs)


def test_workers_end_with_their_sweep(tmp_path):
  process = start_slow(tmp_path, 1)
  wait_for(process, tmp_path, "*.json")
  process.kill()
  process.communicate(timeout=60)  # Ends when all have closed their output.
  count = len(list(tmp_path.glob("*.json")))
  time.sleep(4.0)  # Enough for another run.
  assert len(list(tmp_path.glob("*.json"))) == count < 4


def test_an_interrupt_stops_a_sweep_at_once(tmp_path):
  # Jobs in the background ignore interrupts, and so does what they start.
  previous = signal.signal(signal.SIGINT, signal.default_int_handler)
  process = start_slow(tmp_path, 1)
  signal.signal(signal.SIGINT, previous)
  wait_for(process, tmp_path, "*.json")
  process.send_signal(signal.SIGINT)
  assert "Stopped; the same command goes on." in finish(process, 130)
  assert len(list(tmp_path.glob("*.json"))) < 4


def test_a_killed_worker_ends_its_own_run_alone(tmp_path):
  """The run of the other worker ends well, and a new worker does the rest."""
  process = start_slow(tmp_path, 2)
  locks = wait_for(process, tmp_path, "*.lock", 2)
  worker, _ = [
    child for child in children_of(process.pid) if "spawn_main" in command_of(child)
  ]
  os.kill(worker, signal.SIGKILL)
  text = finish(process, 1)
  assert "3 of 4 runs are in" in text
  assert text.count("failed: a worker ended, or was killed") == 1
  assert any(
    f"{lock.stem} failed: a worker ended, or was killed" in text for lock in locks
  )


def children_of(pid):
  path = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
  return [int(child) for child in path.read_text().split()]


def command_of(pid):
  return pathlib.Path(f"/proc/{pid}/cmdline").read_text()
