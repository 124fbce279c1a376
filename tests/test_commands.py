"""Commands: what they tell of what cannot be done as asked, and of their own faults."""

import dataclasses
import re
import subprocess
import sys

import pytest
import tyro
from processes import environment, finish, start

from experiments import quickstart
from experiments.benchmarks import energy, input_pipeline, train_step
from experiments.classification import report, sweep, task
from experiments.classification.paper import MHE
from experiments.classification.presets import PRESETS, preset, settings_of
from experiments.errors import InputError, told_in_a_line
from experiments.numerics import accuracy

# A step of training fails in JAX, in processes of workers, too.
FAULTY = """
import jax
import jax.numpy as jnp
import tyro
from experiments.classification import training, {module}

broken = jax.jit(lambda state, images, labels: jnp.broadcast_to(labels, (3, 5)))
training.make_update = lambda *_: broken
if __name__ == "__main__":
  {call}
"""


@pytest.mark.parametrize(
  ("module", "call", "arguments"),
  [
    ("task", "task.main()", ()),
    ("sweep", "tyro.cli(sweep.main)", ("layers", "--seeds", "0")),
  ],
)
def test_a_fault_of_the_program_has_its_traceback(module, call, arguments, tmp_path):
  script = tmp_path / "faulty.py"
  script.write_text(FAULTY.format(module=module, call=call))
  process = subprocess.Popen(
    [sys.executable, script, *arguments, "--preset", "smoke", "--output", tmp_path],
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    env=environment(),
  )
  text = finish(process, 1)
  assert "ValueError: Incompatible types for broadcasting" in text
  assert "Traceback (most recent call last)" in text and "jnp.broadcast_to" in text


def test_a_fault_of_the_report_has_its_traceback(tmp_path, monkeypatch):
  (tmp_path / "results").mkdir()

  def blocks(*_):
    raise ValueError("its own fault")

  monkeypatch.setattr(report, "blocks", blocks)
  with pytest.raises(ValueError, match="its own fault"):
    report.main(results=tmp_path / "results", output=tmp_path)


SWEEP, REPORT = "classification.sweep", "classification.report"
NOWHERE = ("--data-root", "nowhere", "--output", "{folder}")


@pytest.mark.parametrize(
  ("module", "arguments", "message"),
  [
    ("classification", NOWHERE, "folder of the data must exist, got nowhere/cifar100."),
    ("classification", ("--repeat", "no.json"), "no.json is not the result of a run"),
    ("classification", ("--output", "{file}/a"), "output must be a folder, got {file}"),
    ("classification", ("--dataset", "svhn"), "dataset must be one of digits, cifar10"),
    ("classification", ("--model", "cnn-7x"), "model must be cnn-N with N a multiple"),
    ("classification", ("--learning-rate", "nan"), "learning_rate must be a finite"),
    (
      "classification.sweep",
      ("--output", "{file}"),
      "output must be a folder, got {file}",
    ),
    (SWEEP, ("[b]",), "must be of rate, headline, variants"),
    (
      "classification.report",
      ("--results", "nowhere"),
      "folder of the results must exist",
    ),
    (
      "classification.report",
      ("--readme", "nowhere"),
      "readme must be a file, got nowhere.",
    ),
    (
      "classification.report",
      ("--output", "{file}"),
      "output must be a folder, got {file}",
    ),
  ],
)
def test_what_cannot_be_done_is_told_in_a_line(module, arguments, message, tmp_path):
  file = tmp_path / "file"
  file.touch()
  names = {"file": file, "folder": tmp_path}
  process = start(module, *(str(x).format(**names) for x in arguments))
  text, _ = process.communicate(timeout=600)
  assert process.returncode == 2, text
  assert "Traceback" not in text
  (line,) = [line for line in text.splitlines() if message.format(**names) in line]
  assert text.strip().endswith(line.strip())


def test_only_errors_of_input_lose_their_traceback(capsys):
  console = report.Console()
  with pytest.raises(SystemExit) as caught, told_in_a_line(console):
    raise InputError("x must be [1], got [2].")
  assert caught.value.code == 2
  assert capsys.readouterr().out == "x must be [1], got [2].\n"
  with pytest.raises(ValueError, match="other"), told_in_a_line(console):
    raise ValueError("other")


def call(module):
  """The command, in this process."""
  if module is task:
    task.main()
  else:
    tyro.cli(module.main)


MODULES = (
  *(accuracy, task, quickstart, report, sweep),
  *(energy, input_pipeline, train_step),
)


@pytest.mark.parametrize("module", MODULES)
def test_help_has_every_option_that_the_docstring_has(module, capsys, monkeypatch):
  monkeypatch.setattr(sys, "argv", ["command", "--help"])
  with pytest.raises(SystemExit) as caught:
    call(module)
  assert caught.value.code == 0
  text = capsys.readouterr().out
  shown = set(re.findall(r"--[a-z.-]+[a-z]", text.partition("options")[2]))
  assert {"--preset", "--output", *re.findall(r"--[a-z.-]+[a-z]", module.__doc__)} <= (
    shown
  )
  assert "--repeat" in shown or module is not task


RESULT = report.RESULTS / "cifar10_cnn-9-w16_half-mhe-s1_seed0_b9dc2bed.json"
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
  f"--repeat {RESULT}": settings_of(RESULT),
  f"--steps=4010 --repeat={RESULT}": dataclasses.replace(
    settings_of(RESULT), steps=4010
  ),
  f"--repeat {RESULT} --dataset cifar100": dataclasses.replace(
    settings_of(RESULT), dataset="cifar100"
  ),
}


@pytest.mark.parametrize("arguments", COMMANDS)
def test_settings_are_of_a_preset_or_a_result(arguments, tmp_path, monkeypatch):
  trained = []

  def train(config, *_):
    trained.append(config)
    return dict.fromkeys(("test_error", "train_error", "seconds"), 0.0)

  monkeypatch.setattr(task, "train", train)
  argv = ["command", *arguments.split(), "--output", str(tmp_path)]
  monkeypatch.setattr(sys, "argv", argv)
  task.main()
  assert trained == [COMMANDS[arguments]]


def test_settings_are_not_of_both(capsys, monkeypatch):
  argv = ["command", "--preset", "cpu", "--repeat", str(RESULT)]
  monkeypatch.setattr(sys, "argv", argv)
  with pytest.raises(SystemExit) as caught:
    task.main()
  assert caught.value.code == 2
  assert "--preset and --repeat are not allowed together" in capsys.readouterr().err


def test_a_bad_regularizer_is_named(capsys, monkeypatch):
  options = ("--regularizer.kind", "mhe", "--regularizer.s", "-1")
  monkeypatch.setattr(sys, "argv", ["command", *options])
  with pytest.raises(SystemExit) as caught:
    task.main()
  assert caught.value.code == 2
  assert "s must be at least 0, got -1.0." in capsys.readouterr().err
