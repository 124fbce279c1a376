"""What the page of GANs says of CIFAR-10 in words is what the results say."""

import functools
import json
import pathlib

import numpy as np
import pytest

from experiments.gan.plan import sweeps_of
from experiments.gan.presets import Config
from experiments.gan.report import RESULTS
from experiments.report.answers import answered
from experiments.runs.results import Results

ROOT = pathlib.Path(__file__).parent.parent
ARMS = {
  "baseline": "w16_baseline",
  "SN": "w16-sn_baseline",
  "MHE": "w16_half-mhe-s2-relative",
  "SN + MHE": "w16-sn_half-mhe-s2-relative",
}


@functools.cache
def runs(row):
  """Of the seeds that confirm, in their order."""
  paths = RESULTS.glob(f"cifar10_gan-{ARMS[row]}_seed[0-4]_*")
  found = [json.loads(path.read_text()) for path in paths]
  return sorted(found, key=lambda run: run["config"]["seed"])


def values(row, measure="frechet"):
  return np.array([run[measure] for run in runs(row)])


def final_excess(row):
  return np.array([[*run["history"][-1]["excess"].values()] for run in runs(row)])


def best_step(run):
  return min(run["history"], key=lambda entry: entry["frechet"])["step"]


def exploring():
  (path,) = RESULTS.glob("cifar10_gan-w16_baseline_seed100_*")
  return json.loads(path.read_text())


def words_of(name):
  return " ".join((ROOT / name).read_text().split())


def test_how_much_better_samples_are():
  without, norm = values("baseline"), values("SN")
  alone, beside = values("MHE") - without, values("SN + MHE") - norm
  assert len(without) == 4
  assert (alone < 0).all() and (beside < 0).sum() == 3
  assert (values("SN + MHE", "recall") > values("SN", "recall")).all()
  assert norm.mean() < without.mean() / 2
  assert alone.mean() / without.mean() == pytest.approx(-1 / 6, abs=0.01)
  assert beside.mean() / norm.mean() == pytest.approx(-1 / 14, abs=0.005)
  first, second = (
    x.p_value
    for x in answered(sweeps_of("cpu")["four"], Results(RESULTS, Config))
    if x.ask.column == "CIFAR-10"
  )
  assert (
    f"of {without.mean():.2f} fall by {-alone.mean():.2f}, and beside spectral "
    f"normalization of {norm.mean():.2f} by {-beside.mean():.2f}; four seeds, P "
    f"{first:.2f} and {second:.2f} when corrected"
  ) in words_of("docs/results.md")


def test_when_they_are_best():
  assert {best_step(run) for run in runs("SN") + runs("SN + MHE")} == {20_000}
  for run in runs("baseline") + runs("MHE"):
    assert 12_000 <= best_step(run) <= 18_000


def test_what_becomes_redundant():
  *others, second, last = final_excess("SN").T
  assert np.max(others) < 1
  assert second.mean() == pytest.approx(4, abs=0.5)
  assert last.mean() == pytest.approx(12, abs=0.5)
  assert np.max([final_excess("MHE"), final_excess("SN + MHE")]) < 1


def test_the_fifth_baseline_is_as_good_as_the_energy():
  fifth = exploring()
  assert np.ptp(values("baseline")) < 0.8
  assert (fifth["frechet"] < values("MHE")).sum() == 3
  assert fifth["frechet"] < values("MHE").mean()
  assert (
    f"distance of {fifth['frechet']:.1f}, precision {fifth['precision']:.2f} and "
    f"recall {fifth['recall']:.2f}"
  ) in words_of("docs/gan.md")


def test_what_is_in_no_table():
  narrow = [json.loads(path.read_text()) for path in RESULTS.glob("cifar10_gan-w8*")]
  assert len(narrow) == 4
  assert all(run["collapsed"] and run["recall"] < 0.01 for run in narrow)
  (path,) = (RESULTS / "diverged").iterdir()
  diverged = json.loads(path.read_text())
  assert "at step 12000" in diverged["diverged"]
  assert diverged["history"][-1]["step"] == 10_000
  assert (RESULTS / path.name).exists()  # Begun again.
