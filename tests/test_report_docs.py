"""docs/checkpoints.md: its examples run, and its commands are those that there are."""

import dataclasses
import doctest
import pathlib
import re
import shlex
import subprocess
import sys

from mhe_jax import report
from mhe_jax.report.command import Arguments, rule_of

PAGE = (pathlib.Path(__file__).parent.parent / "docs" / "checkpoints.md").read_text()


def test_examples_of_the_page_and_of_the_docstrings(tmp_path):
  blocks = "\n".join(re.findall(r"^```pycon\n(.*?)^```", PAGE, re.M | re.S))
  examples = tmp_path / "examples.txt"
  examples.write_text(blocks)
  program = (
    "import doctest, sys\n"
    "from mhe_jax.report import command, make\n"
    f"results = [doctest.testfile({str(examples)!r}, module_relative=False),\n"
    "  *(doctest.testmod(module) for module in (command, make))]\n"
    "assert all(r.attempted for r in results)\n"
    "sys.exit(sum(r.failed for r in results))"
  )
  # In a process of its own: a reader's session is not as strict as this one.
  result = subprocess.run(
    [sys.executable, "-c", program], check=False, capture_output=True, text=True
  )
  assert result.returncode == 0, result.stdout + result.stderr
  assert len(doctest.DocTestParser().get_examples(blocks)) > 10


def test_commands_of_the_page():
  options = {f"--{f.name.replace('_', '-')}" for f in dataclasses.fields(Arguments)}
  assert {*re.findall(r"(?<![\w-])--[a-z][a-z-]*", PAGE)} <= options
  commands = re.findall(r"(?:\$ |`)(mhe_jax [^`\n]*)", PAGE)
  rules = []
  for command in commands:
    words = shlex.split(command)
    rules += [words[i + 1] for i, word in enumerate(words) if word == "--rule"]
  assert len(rules) > 3 and all(map(rule_of, rules))


def test_public_docstrings_are_complete():
  for name in report.__all__:
    public = getattr(report, name)
    doc = public.__doc__ or ""
    if not isinstance(public, type):
      assert all(part in doc for part in ("Args:", "Returns:", "Raises:", ">>> ")), name
    elif dataclasses.is_dataclass(public):
      assert all(f"{f.name}:" in doc for f in dataclasses.fields(public)), name
