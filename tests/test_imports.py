"""What an import costs: nothing is loaded that is not used."""

import json
import subprocess
import sys

import pytest

PROGRAM = """
import json, sys
import jax, optax
before = {*sys.modules}
%s
print(json.dumps(sorted({*sys.modules} - before)))
"""


def loaded(code):
  """What code loads beside jax and optax, in a process of its own."""
  result = subprocess.run(
    [sys.executable, "-c", PROGRAM % code], check=True, capture_output=True, text=True
  )
  return json.loads(result.stdout)


@pytest.mark.parametrize(
  "code",
  [
    "import mhe_jax, mhe_jax.report.command",
    "import numpy, mhe_jax; mhe_jax.describe({'up': {'kernel': numpy.eye(8)}})",
  ],
  ids=["import", "describe"],
)
def test_libraries_are_loaded_where_they_are_used(code):
  modules = loaded(code)
  libraries = {name.split(".")[0] for name in modules} - {*sys.stdlib_module_names}
  # jax loads what reads its own arrays; Flax, Equinox and Haiku are the user's to load.
  assert "mhe_jax" in libraries
  assert not libraries & {"flax", "equinox", "haiku", "matplotlib", "rich", "tyro"}
  # Half a second, of which closed forms need a part here and there.
  heavy = {f"scipy.{part}" for part in ("special", "integrate", "optimize", "stats")}
  assert "scipy" in libraries and not heavy & {*modules}


def test_the_parts_of_scipy_are_there_when_they_are_needed():
  code = "from mhe_jax import *; uniform_energy(5, Riesz(1.0, 'geodesic'))"
  assert "scipy.integrate" in loaded(code)
