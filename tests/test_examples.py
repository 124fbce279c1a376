"""The examples of the documentation, as they stand."""

import pathlib
import re
import runpy
import sys

import jax
import pytest

FOLDER = pathlib.Path(__file__).parents[1] / "docs" / "examples"
ARGUMENTS = {"sharded_classifier": ["512"], "language_model": ["adamw"]}
LAYERS = {
  "arrays": {"hidden": "hidden", "head": "output"},
  "linen": {f"Conv_{i}/kernel": "hidden" for i in range(2)} | {"head/kernel": "output"},
  "nnx_model": {
    "first/kernel": "hidden", "second/kernel": "hidden", "head/kernel": "output",
  },
  "equinox_model": {
    "layers/0/weight": "hidden", "layers/1/weight": "hidden",
    "layers/2/weight": "output",
  },
  "language_model": {
    "embed/embedding": "hidden", "head/kernel": "output", "up0/kernel": "hidden",
  },
}  # fmt: skip


def test_all_examples_are_tested():
  assert {file.stem for file in FOLDER.glob("*.py")} == {*LAYERS, "sharded_classifier"}


@pytest.mark.parametrize("name", [*LAYERS, "sharded_classifier"])
def test_example(name, monkeypatch, capsys):
  """It trains, tells the layers, and their roles."""
  file = FOLDER / f"{name}.py"
  monkeypatch.setattr(sys, "argv", [str(file), *ARGUMENTS.get(name, [])])
  with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
    runpy.run_path(str(file))
  printed = capsys.readouterr().out
  losses = [float(x) for x in re.findall(r"loss (\d+\.\d+)", printed)]
  assert losses[-1] < (0.9 * losses[0] if len(losses) > 1 else 0.5), losses
  rows = {row[0]: row[2] for row in map(_cells, printed.splitlines()) if len(row) == 8}
  for path, role in LAYERS.get(name, {}).items():
    assert rows[path] == role
  if name == "sharded_classifier":
    excess = [float(x) for x in re.findall(r"relative excess (\d+\.\d+)", printed)]
    assert excess[-1] < 0.7 * excess[0]
    assert f"({512 // jax.device_count()}, 64)" in printed


def _cells(line):
  return re.split(r"\s{2,}", line.strip())
