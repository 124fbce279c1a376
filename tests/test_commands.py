"""Commands: what they tell of what cannot be done as asked, and of their own faults."""

import dataclasses
import re
import subprocess
import sys

import pytest
import tyro
from rich.console import Console

import experiments.classification.__main__ as classification
from experiments import quickstart
from experiments.benchmarks import energy, train_step
from experiments.classification import report, sweep
from experiments.classification.arms import MHE
from experiments.classification.presets import PRESETS, Config, preset
from experiments.classification.task import TASK
from experiments.errors import InputError, told_in_a_line
from experiments.numerics import accuracy
from experiments.runs import commands
from experiments.runs.results import settings_of


def test_a_fault_of_the_report_has_its_traceback(tmp_path, monkeypatch):
  (tmp_path / "results").mkdir()

  def summary(*_):
    raise ValueError("its own fault")

  monkeypatch.setattr(report, "summary", summary)
  with pytest.raises(ValueError, match="its own fault"):
    report.main(results=tmp_path / "results", output=tmp_path)


def call(module, arguments, monkeypatch):
  """The command, in this process; its exit code."""
  monkeypatch.setattr(sys, "argv", ["command", *arguments])
  command = module.main
  try:
    if module in (classification, sweep):
      command()  # They read their arguments themselves.
    else:
      tyro.cli(command)
  except SystemExit as stop:
    return stop.code
  return 0


UNWRITABLE = "output must be a folder that can be written, got {file}"
NOWHERE = ("--data-root", "nowhere", "--output", "{folder}")


@pytest.mark.parametrize(
  ("module", "arguments", "message"),
  [
    (classification, NOWHERE, "folder of the data must exist, got nowhere/cifar100."),
    (classification, ("--repeat", "no.json"), "no.json is not the result of a run"),
    (
      classification,
      ("--output", "{file}/a"),
      UNWRITABLE,
    ),
    (classification, ("--dataset", "svhn"), "dataset must be one of digits, cifar10"),
    (
      sweep,
      ("--output", "{file}"),
      UNWRITABLE,
    ),
    (sweep, ("[b]",), "must be of rate, headline, variants"),
    (report, ("--results", "nowhere"), "folder of the results must exist"),
    (report, ("--readme", "nowhere"), "readme must be a file, got nowhere."),
    (
      report,
      ("--output", "{file}"),
      UNWRITABLE,
    ),
  ],
)
def test_what_cannot_be_done_is_told_in_a_line(
  module, arguments, message, tmp_path, monkeypatch, capsys
):
  file = tmp_path / "file"
  file.touch()
  names = {"file": file, "folder": tmp_path}
  assert call(module, [str(x).format(**names) for x in arguments], monkeypatch) == 2
  text = capsys.readouterr().out
  (line,) = [line for line in text.splitlines() if message.format(**names) in line]
  assert text.strip().endswith(line.strip())


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (("--regularizer.kind", "mhe", "--regularizer.s", "-1"), "s must be at least 0"),
    (("--model", "cnn-7x"), "model must be cnn-N with N a multiple of 3"),
    (("--learning-rate", "nan"), "learning_rate must be a finite number"),
    (("--steps", "5"), "steps must be a multiple of measurements, got 5 and 10"),
    (("--preset", "cpu", "--repeat", "a"), "--preset and --repeat are not allowed"),
  ],
)
def test_a_bad_setting_is_named(arguments, message, monkeypatch, capsys):
  assert call(classification, arguments, monkeypatch) == 2
  captured = capsys.readouterr()
  assert message in " ".join((captured.out + captured.err).replace("│", " ").split())


def test_only_errors_of_input_lose_their_traceback(capsys):
  console = Console()
  with pytest.raises(SystemExit) as caught, told_in_a_line(console):
    raise InputError("x must be [1], got [2].")
  assert caught.value.code == 2
  assert capsys.readouterr().out == "x must be [1], got [2].\n"
  with pytest.raises(ValueError, match="other"), told_in_a_line(console):
    raise ValueError("other")


MODULES = (
  *(accuracy, classification, quickstart, report, sweep),
  *(energy, train_step),
)


@pytest.mark.parametrize("module", MODULES)
def test_help_has_every_option_that_the_docstring_has(module, capsys, monkeypatch):
  assert call(module, ["--help"], monkeypatch) == 0
  text = capsys.readouterr().out
  shown = set(re.findall(r"--[a-z.-]+[a-z]", text.partition("options")[2]))
  assert {"--preset", "--output", *re.findall(r"--[a-z.-]+[a-z]", module.__doc__)} <= (
    shown
  )
  assert "--repeat" in shown or module is not classification


RESULT = report.RESULTS / "cifar10_cnn-9-w16_half-mhe-s1_seed0_b9dc2bed.json"
SETTINGS = settings_of(RESULT, Config)
COMMANDS = {
  "": PRESETS["cpu"],
  "--preset smoke": PRESETS["smoke"],
  "--preset paper": PRESETS["paper"],
  "--preset paper --regularizer.kind mhe --regularizer.no-half-space": (
    dataclasses.replace(PRESETS["paper"], regularizer=MHE)
  ),
  "--preset cpu --dataset cifar10 --seed 1 --regularizer.kind mhe "
  "--regularizer.no-half-space --regularizer.weight 10": dataclasses.replace(
    preset("cpu", "cifar10"), seed=1, regularizer=dataclasses.replace(MHE, weight=10.0)
  ),
  f"--repeat {RESULT}": SETTINGS,
  f"--steps=4010 --repeat={RESULT}": dataclasses.replace(SETTINGS, steps=4010),
  f"--repeat {RESULT} --dataset cifar100": dataclasses.replace(
    SETTINGS, dataset="cifar100"
  ),
}


@pytest.mark.parametrize("arguments", COMMANDS)
def test_settings_are_of_a_preset_or_a_result(arguments, tmp_path, monkeypatch):
  trained = []

  def train(task, config, *_):
    assert task is TASK
    trained.append(config)
    return dict.fromkeys(("test_error", "train_error", "seconds"), 0.0)

  monkeypatch.setattr(commands, "train", train)
  options = [*arguments.split(), "--output", str(tmp_path)]
  assert call(classification, options, monkeypatch) == 0
  assert trained == [COMMANDS[arguments]]


@pytest.mark.parametrize(
  "module", ["quickstart", "classification", "benchmarks.energy"]
)
def test_without_the_extra_it_says_what_to_install(module):
  program = (
    "import runpy, sys; sys.modules.update(tyro=None, rich=None)\n"
    f"runpy.run_module('experiments.{module}', run_name='__main__')"
  )
  done = subprocess.run(
    [sys.executable, "-c", program], check=False, capture_output=True, text=True
  )
  last = done.stderr.strip().splitlines()[-1]
  assert done.returncode and "the experiments need rich, tyro: pip install -e " in last
