"""What is reported of finished runs."""

import dataclasses
import json
import math

import numpy as np
import pytest
import scipy.stats

from experiments.classification.arms import (
  BASELINE,
  CONFIRMING,
  EXPLORING,
  HALF_MHE,
  MHE,
  RELATIVE,
)
from experiments.classification.plan import sweeps_of
from experiments.classification.presets import PRESETS, Config
from experiments.classification.report import blocks
from experiments.classification.summary import summary, variants
from experiments.errors import InputError
from experiments.report.answers import answers, table_and_answers
from experiments.report.columns import columns_of
from experiments.report.pages import fill, filled, filled_pages
from experiments.report.tables import table
from experiments.runs.plan import Arm, Sweep
from experiments.runs.results import Results

SMOKE = PRESETS["smoke"]


@pytest.mark.parametrize("name_of_preset", ["cpu", "paper"])
def test_seeds_that_confirm_are_in_no_other_table(name_of_preset, tmp_path):
  """Or what is seen would choose what is confirmed."""
  sweeps = sweeps_of(name_of_preset)
  new = set(sweeps["headline"].seeds)
  for name, sweep in sweeps.items():
    assert name == "headline" or new.isdisjoint(sweep.seeds), name
  for arm in sweeps["headline"].arms:
    if arm.config.regularizer == BASELINE:
      write_results(tmp_path, arm.config, dict.fromkeys(range(12), 1.0))
  for name, count in (("headline", 2), ("variants", 2), ("depth", 1)):
    columns = columns_of(sweeps[name], Results(tmp_path, Config))
    assert len(columns) == count
    assert all(column.seeds == list(sweeps[name].seeds) for column in columns)


def write_results(folder, config, errors, **measures):
  folder.mkdir(exist_ok=True)
  for seed, error in errors.items():
    run = dataclasses.replace(config, seed=seed)
    result = {
      "config": dataclasses.asdict(run),
      "test_error": error,
      "validation_error": error,
      "data": {"fingerprint": "same"},
      **measures,
    }
    (folder / f"{run.name}.json").write_text(json.dumps(result))


def test_tables_have_mean_spread_and_paired_interval(tmp_path):
  mhe = dataclasses.replace(SMOKE, regularizer=MHE)
  write_results(tmp_path, SMOKE, {0: 10.0, 1: 12.0, 2: 11.0, 7: 50.0})
  write_results(tmp_path, mhe, {0: 9.0, 1: 11.5, 2: 10.0})
  sweep = Sweep("title", "kind", [
    Arm("plain", "c", SMOKE, 8.0), Arm("mhe", "c", mhe, 7.5),
  ], range(10))  # fmt: skip
  text = table(sweep, Results(tmp_path, Config))
  header, _, plain, ours, _, seeds = text.splitlines()
  left_out = "1 runs of seeds that are not finished in all rows of their column."
  assert seeds == f"Runs of a cell: 3. Not shown: {left_out}"
  assert header == "| kind | c | against plain | paper |"
  assert plain == "| plain | 11.00 ± 1.00 |  | 8.00 |"
  first, second = [10.0, 12.0, 11.0], [9.0, 11.5, 10.0]  # Without seed 7.
  interval = scipy.stats.ttest_rel(second, first).confidence_interval()
  low, high = interval.low, interval.high
  expected = f"-0.83 ({low:+.2f} to {high:+.2f}) | 7.50 (-0.50) |"
  assert ours == f"| mhe | 10.17 ± {np.std(second, ddof=1):.2f} | {expected}".replace(
    "-0.83", "**-0.83**" if high < 0 else "-0.83"
  )


def test_a_column_of_one_seed_is_shown_where_there_are_to_be_no_others(tmp_path):
  write_results(tmp_path, SMOKE, {0: 10.0})
  sweep = Sweep("title", "kind", [Arm("plain", "c", SMOKE)], range(3))
  assert table_and_answers(sweep, Results(tmp_path, Config)) == ""
  whole = table_and_answers(sweep._replace(seeds=range(1)), Results(tmp_path, Config))
  assert "| plain | 10.00 |" in whole and "Runs of a cell: 1." in whole


def test_an_arm_that_has_just_begun_takes_no_seeds_from_others(tmp_path):
  mhe, half = (dataclasses.replace(SMOKE, regularizer=kind) for kind in (MHE, HALF_MHE))
  for config in (SMOKE, mhe):
    write_results(tmp_path, config, {0: 10.0, 1: 11.0, 2: 12.0})
  write_results(tmp_path, half, {1: 10.0})
  arms = [Arm("plain", "c", SMOKE), Arm("mhe", "c", mhe), Arm("half", "c", half)]
  sweep = Sweep("title", "kind", arms, range(3))
  (column,) = columns_of(sweep, Results(tmp_path, Config))
  assert (list(column.arms), column.seeds) == (["plain", "mhe"], [0, 1, 2])
  assert column.left_out == 1
  write_results(tmp_path, half, {2: 10.0})
  (column,) = columns_of(sweep, Results(tmp_path, Config))
  assert (list(column.arms), column.seeds) == (["plain", "mhe", "half"], [1, 2])


def test_runs_that_saw_their_images_in_another_order_are_not_compared(tmp_path):
  mhe = dataclasses.replace(SMOKE, regularizer=MHE)
  data = {"fingerprint": "same"}
  write_results(tmp_path, SMOKE, {0: 10.0, 1: 11.0}, data=data)
  write_results(tmp_path, mhe, {0: 10.0, 1: 11.0}, data={**data, "order": "another"})
  arms = [Arm("plain", "c", SMOKE), Arm("mhe", "c", mhe)]
  sweep = Sweep("title", "kind", arms, range(3))
  with pytest.raises(InputError, match="of c that are compared must see their images"):
    columns_of(sweep, Results(tmp_path, Config))


def test_a_table_says_which_of_its_rows_ran_on_another_device(tmp_path):
  mhe = dataclasses.replace(SMOKE, regularizer=MHE)
  sweep = Sweep("title", "kind", [
    Arm("plain", "c", SMOKE), Arm("mhe", "c", mhe),
  ], range(3))  # fmt: skip
  write_results(tmp_path, SMOKE, {0: 1.0, 1: 1.0, 2: 1.0}, device="cpu, 1 cores")
  write_results(tmp_path, mhe, {0: 1.0, 1: 1.0}, device="cpu, 2 cores")
  assert "device" not in table(sweep, Results(tmp_path, Config))
  write_results(tmp_path, mhe, {1: 1.0}, device="TPU v5, 1 cores")
  *_, last = table(sweep, Results(tmp_path, Config)).splitlines()
  assert last == "c is not all of one device: mhe on TPU v5, all else on cpu."


def test_a_sweep_of_which_arms_are_missing_is_named_and_has_no_table(tmp_path):
  sweep = sweeps_of("smoke")["noise"]
  first, *others = dict.fromkeys(arm.config for arm in sweep.arms)
  write_results(tmp_path, first, {0: 1.0, 1: 2.0})
  texts = blocks("smoke", Results(tmp_path, Config))
  assert "- `noise`: Rounding alone" in texts["unfinished"] and "noise" not in texts
  for config in others:
    write_results(tmp_path, config, {0: 1.0, 1: 3.0})
  texts = blocks("smoke", Results(tmp_path, Config))
  assert "`noise`" not in texts["unfinished"] and "1.00 to 3.00" in texts["noise"]


def test_the_summary_has_a_line_of_each_answer(tmp_path, monkeypatch):
  monkeypatch.setitem(EXPLORING, "smoke", range(3))
  monkeypatch.setitem(CONFIRMING, "smoke", range(3))
  errors = {0: 10.0, 1: 12.0, 2: 11.0}
  energies = {BASELINE: 0.0, MHE: -2.0, HALF_MHE: 0.0, RELATIVE: -1.0}
  for regularizer, change in energies.items():
    config = dataclasses.replace(SMOKE, regularizer=regularizer)
    wobble = {0: 0.1, 1: -0.1, 2: 0.0} if change else {0: 1.0, 1: -1.0, 2: 0.5}
    if regularizer == BASELINE:
      wobble = dict.fromkeys(errors, 0.0)
    found = {seed: error + change + wobble[seed] for seed, error in errors.items()}
    if regularizer == RELATIVE:
      del found[2]  # Of each pair, what both have.
    write_results(tmp_path, config, found)
  lines = summary("smoke", Results(tmp_path, Config)).splitlines()
  low, high = scipy.stats.ttest_1samp([1.0, -1.0, 0.5], 0.0).confidence_interval()
  ours = f"**-2.00** (-2.25 to -1.75) | +0.17 ({low:+.2f} to {high:+.2f})"
  relative = "-1.00 (2 pairs)"  # No interval: it is as wide as these happen to differ.
  few = "few images of CIFAR-100; weight 1"
  assert f"| {few} | 2 to 3 | 11.00 ± 1.00 | {ours} | {relative} |  |" in lines
  first = "few images of CIFAR-10; weight 1"  # It asks less.
  assert f"| {first} | 3 | 11.00 ± 1.00 | {ours} |  |  |" in lines
  assert lines[-1].startswith("  ") and "time of a training step" in "".join(lines[-3:])
  sweep = sweeps_of("smoke")["variants"]
  # The mean of both, seed by seed.
  both = scipy.stats.ttest_1samp([-0.45, -1.55, -0.75], 0.0).confidence_interval()
  assert (
    "- CIFAR-10, mean of 2 variants of the energy: -0.92 "
    f"({both.low:+.2f} to {both.high:+.2f})."
  ) in " ".join(variants(sweep, Results(tmp_path, Config)).split())
  (tmp_path / "none").mkdir()
  assert summary("smoke", Results(tmp_path / "none", Config)) == ""


def test_diverged_runs_have_no_error(tmp_path):
  mhe = dataclasses.replace(SMOKE, regularizer=MHE)
  write_results(tmp_path, SMOKE, {0: 90.0, 1: 90.0}, test_loss=None)
  write_results(tmp_path, mhe, {0: 9.0, 1: 11.0}, test_loss=0.1)
  sweep = Sweep("title", "kind", [
    Arm("plain", "c", SMOKE, math.nan), Arm("mhe", "c", mhe, 7.5),
  ], range(2))  # fmt: skip
  _, _, plain, ours, *_ = table(sweep, Results(tmp_path, Config)).splitlines()
  assert plain == "| plain | no convergence | no convergence |"
  assert ours == "| mhe | 10.00 ± 1.41 | 7.50 |"
  write_results(tmp_path, SMOKE, {0: 9.0, 1: 9.0}, test_loss=0.1, train_error=1.0)
  write_results(tmp_path, mhe, {0: 9.0}, test_loss=0.1, train_error=1.0)
  write_results(tmp_path, mhe, {1: 90.0}, test_loss=None, train_error=1.0)
  headline = answers(sweeps_of("smoke")["headline"], Results(tmp_path, Config))
  assert (
    "| MHE, s = 2 against baseline | CIFAR-10 | 2 | no convergence |  |" in headline
  )
  # It is no difference, and is not passed over.
  text = summary("smoke", Results(tmp_path, Config))
  assert "| not compared: error 1 of 2 do not converge, others 9.00 |" in text
  *_, ours, _, _ = table(sweep, Results(tmp_path, Config)).splitlines()
  assert ours == "| mhe | 1 of 2 do not converge, others 9.00 | 7.50 |"


def test_a_table_without_its_baseline_has_no_differences(tmp_path):
  mhe = dataclasses.replace(SMOKE, regularizer=MHE)
  write_results(tmp_path, mhe, {0: 9.0, 1: 11.0})
  sweep = Sweep("title", "kind", [
    Arm("plain", "c", SMOKE, 8.0), Arm("mhe", "c", mhe, 7.5),
  ], range(2))  # fmt: skip
  header, _, ours, *_ = table(sweep, Results(tmp_path, Config)).splitlines()
  assert (header, ours) == ("| kind | c | paper |", "| mhe | 10.00 ± 1.41 | 7.50 |")


def test_results_of_different_images_are_not_mixed(tmp_path):
  write_results(tmp_path, SMOKE, {0: 9.0}, data={"fingerprint": "a"})
  write_results(tmp_path, SMOKE, {1: 9.0}, data={"fingerprint": "b"})
  with pytest.raises(ValueError, match=r"must have the data of the results beside"):
    Results(tmp_path, Config)


def test_results_with_a_damaged_file_name_it(tmp_path):
  (tmp_path / "x.json").write_text("{")
  with pytest.raises(ValueError, match=r"x\.json is not the result of a run"):
    Results(tmp_path, Config)
  (tmp_path / "x.json").write_text('{"config": {"regularizer": {}}}')
  with pytest.raises(InputError, match=r"x\.json must have the fingerprint"):
    Results(tmp_path, Config)
  with pytest.raises(ValueError, match="must exist"):
    Results(tmp_path / "nowhere", Config)
  write_results(tmp_path / "twice", SMOKE, {0: 1.0})
  (path,) = (tmp_path / "twice").glob("*.json")
  (tmp_path / "twice" / "zz.json").write_text(path.read_text())
  with pytest.raises(ValueError, match=r"zz\.json has the settings of another result"):
    Results(tmp_path / "twice", Config)


def test_only_what_is_generated_is_replaced_in_a_page():
  page = "before\n<!-- a -->\nold\n<!-- end of a -->\nafter"
  assert fill(page, {"a": "new"}) == page.replace("old", "new")
  with pytest.raises(ValueError, match="must have <!-- b -->"):
    fill(page, {"b": "new"})


def test_a_page_that_is_not_there_is_made(tmp_path):
  path = tmp_path / "page.md"
  text = filled(path, "Title", {"a": "one", "b": "two"})
  assert text.startswith("# Title\n") and "<!-- b -->\ntwo\n<!-- end of b -->" in text
  path.write_text(text)
  assert filled(path, "Title", {"a": "three"}) == text.replace("one", "three")


def test_a_block_is_on_the_one_of_several_pages_that_has_its_marks(tmp_path):
  first, second, none = (tmp_path / f"{name}.md" for name in "abc")
  first.write_text("# A\n<!-- x -->\nold\n<!-- end of x -->\n")
  second.write_text("# B\n<!-- y -->\nold\n<!-- end of y -->\n")
  pages = filled_pages([first, second, none], "Title", {"x": "one", "y": "two"})
  assert pages[first] == first.read_text().replace("old", "one")
  assert pages[second] == second.read_text().replace("old", "two")
  assert set(pages) == {first, second}
  with pytest.raises(InputError, match=r"a\.md or \S*b\.md must have <!-- z -->"):
    filled_pages([first, second], "Title", {"z": "three"})
  second.write_text(first.read_text())
  with pytest.raises(InputError, match=r"must have <!-- x --> .* once"):
    filled_pages([first, second], "Title", {"x": "one"})
  (page,) = filled_pages([none, tmp_path / "d.md"], "Title", {"x": "one"}).items()
  assert page == (none, filled(none, "Title", {"x": "one"}))
