"""Commands: what they tell of what cannot be done as asked, and of their own faults."""

import subprocess
import sys

import pytest
from processes import environment, finish, start

from experiments import report
from experiments.errors import InputError, told_in_a_line

# A step of training fails in JAX, in processes of workers, too.
FAULTY = """
import jax
import jax.numpy as jnp
import tyro
from experiments import training, {module}

broken = jax.jit(lambda state, images, labels: jnp.broadcast_to(labels, (3, 5)))
training.make_update = lambda *_: broken
if __name__ == "__main__":
  {call}
"""


@pytest.mark.parametrize(
  ("module", "call", "arguments"),
  [
    ("classification", "classification.main()", ()),
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


NOWHERE = ("--data-root", "nowhere", "--output", "{folder}")


@pytest.mark.parametrize(
  ("module", "arguments", "message"),
  [
    ("classification", NOWHERE, "folder of the data must exist, got nowhere/cifar100."),
    ("classification", ("--repeat", "no.json"), "no.json is not the result of a run"),
    ("classification", ("--output", "{file}/a"), "output must be a folder, got {file}"),
    ("classification", ("--dropped", 100, 0.5, *NOWHERE), "of the data must exist"),
    ("sweep", ("--output", "{file}"), "output must be a folder, got {file}"),
    ("sweep", ("[b]",), "must be of rate, headline, variants"),
    ("report", ("--results", "nowhere"), "folder of the results must exist"),
    ("report", ("--readme", "nowhere"), "readme must be a file, got nowhere."),
    ("report", ("--output", "{file}"), "output must be a folder, got {file}"),
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
