"""Every experiment runs at its smallest preset, and its statistics are right."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats

from experiments.statistics import paired_difference


def test_quickstart_writes_its_result_and_picture(tmp_path):
  command = [sys.executable, "-m", "experiments.quickstart", "--preset", "smoke"]
  result = subprocess.run(
    [*command, "--output", str(tmp_path)],
    check=False,
    capture_output=True,
    text=True,
    env={**os.environ, "PYTHONIOENCODING": "utf-8"},
  )
  assert result.returncode == 0, result.stderr
  assert "paired difference" in " ".join(result.stdout.split())
  data = json.loads((tmp_path / "quickstart.json").read_text())
  layers = {*(f"conv{i}/kernel" for i in range(3)), "head/kernel"}
  for setting in data["settings"]:
    without, with_ = (setting["arms"][arm] for arm in ("without", "with"))
    assert [r["seed"] for r in without] == [r["seed"] for r in with_]
    for run, rival in zip(without, with_):
      assert 0 <= run["test_error"] <= 100
      assert set(run["excess"]) == layers
      # Pairs start from the same network, and end with different ones.
      head, rival_head = (r["excess"]["head/kernel"] for r in (run, rival))
      assert head[0] == rival_head[0]
      assert head[-1] > rival_head[-1]
  assert (tmp_path / "quickstart.png").read_bytes().startswith(b"\x89PNG")


def test_paired_difference_is_the_paired_t_interval():
  rng = np.random.default_rng(0)
  first = rng.normal(size=9)
  second = first + rng.normal(0.3, 0.1, size=9)
  paired = paired_difference(first, second)
  expected = scipy.stats.ttest_rel(second, first).confidence_interval(0.95)
  np.testing.assert_allclose((paired.low, paired.high), expected)
  assert paired.verdict == "worse"  # Larger is worse for an error.
  assert paired_difference(second, first).verdict == "better"


@pytest.mark.parametrize(("first", "second"), [([1.0], [2.0]), ([1.0, 2.0], [1.0])])
def test_paired_difference_needs_pairs(first, second):
  with pytest.raises(ValueError, match="two arms of the same length"):
    paired_difference(first, second)
