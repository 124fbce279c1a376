"""What the documentation says runs, and claims only what committed results hold."""

import dataclasses
import json
import pathlib
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest

import mhe_jax
from experiments.benchmarks import sampled_tables, train_step
from experiments.benchmarks import tables as benchmark_tables
from experiments.classification import report
from experiments.classification.presets import Config
from experiments.faces import report as faces_report
from experiments.faces.plan import sweeps_of as faces_sweeps
from experiments.gan import report as gan_report
from experiments.gan.plan import sweeps_of as gan_sweeps
from experiments.numerics import accuracy_tables
from experiments.report.answers import answered
from experiments.report.cells import difference, mean_and_spread
from experiments.report.columns import columns_of
from experiments.report.pages import fill
from experiments.report.statistics import paired_difference
from experiments.runs.results import Results

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [
  "README.md",
  "docs/alternatives.md",
  "docs/concepts.md",
  "docs/directions.md",
  "docs/features.md",
  "docs/frameworks.md",
  "docs/layers.md",
  "docs/many.md",
  "docs/models.md",
  "docs/monitoring.md",
  "docs/objectives.md",
  "docs/optimizers.md",
  "docs/recipes.md",
  "docs/spread.md",
  "docs/start.md",
]
NO_TABLE = {
  "docs/concepts.md": "best",
  "docs/directions.md": "distance",
  "docs/features.md": "loss",
  "docs/optimizers.md": "energy",
}


@pytest.mark.parametrize("page", PAGES)
def test_code_blocks_run_as_they_stand(page, tmp_path):
  text = (ROOT / page).read_text()
  blocks = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
  assert blocks
  # In a process of its own: a reader's session is not as strict as this one.
  output = run("-c", "\n".join(blocks), cwd=tmp_path)
  assert NO_TABLE.get(page, "relative excess") in output  # By a describe() table.
  shown = re.findall(r"^<!-- output.*\n```text\n(.*?)^```", text, re.M | re.S)
  for line in "".join(shown).splitlines():
    assert any(same_up_to_rounding(line, printed) for printed in output.splitlines())
  for command in re.findall(r"^mhe_jax (\S+\.safetensors.*)$", text, re.M):
    if page == "docs/start.md":  # Which has saved these files.
      arguments = shlex.split(command)
      assert "layers" in run("-m", "mhe_jax.report", *arguments, cwd=tmp_path)


def run(*arguments, cwd):
  result = subprocess.run(
    [sys.executable, *arguments],
    check=False,
    capture_output=True,
    text=True,
    cwd=cwd,
  )
  assert result.returncode == 0, result.stderr
  return result.stdout


def same_up_to_rounding(line, other):
  """Equal but for blanks and the digits of decimal numbers, which machines round."""
  line, other = (" ".join(text.split()) for text in (line, other))
  number = r"-?\d+\.\d+"
  if re.split(number, line) != re.split(number, other):
    return False
  pairs = zip(re.findall(number, line), re.findall(number, other))
  return all(float(a) == pytest.approx(float(b), rel=0.2, abs=0.02) for a, b in pairs)


def test_every_page_with_code_is_run():
  pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
  with_code = [p for p in pages if "```python" in p.read_text()]
  assert {str(p.relative_to(ROOT)) for p in with_code} == set(PAGES)


def test_every_public_name_is_in_the_reference_and_the_reverse():
  reference = (ROOT / "docs" / "api.md").read_text()
  listed = re.findall(r"^\.\. auto\w+:: (\w+)", reference, re.M)
  assert sorted(listed) == sorted(mhe_jax.__all__)


@pytest.mark.parametrize("name", mhe_jax.__all__)
def test_public_docstrings_are_complete(name):
  public = getattr(mhe_jax, name)
  doc = public.__doc__
  if isinstance(public, mhe_jax.Objective):  # RECOMMENDED: a value, not a call.
    assert name in doc
  elif isinstance(public, type):
    has_nothing = dataclasses.is_dataclass(public) and not dataclasses.fields(public)
    assert has_nothing or "Args:" in doc or "Attributes:" in doc or "subclass" in doc
  else:
    assert "Args:" in doc
    assert "Returns:" in doc
    assert ">>> " in doc


def test_results_state_the_committed_result():
  page = " ".join((ROOT / "docs" / "results.md").read_text().split())
  result, pilot = map(result_of, ("quickstart", "quickstart_pilot"))
  config, (setting,) = result["config"], result["settings"]
  assert (
    f"A CNN of {config['depth']} convolutions with {config['width']} channels on "
    f"{config['images_per_class']} handwritten digits per class, "
    f"{len(config['seeds'])} seeds, weight {config['weight']:g} in relative units;"
  ) in page
  errors = errors_by_arm(setting)
  told = f"Learning rate {setting['learning_rate']:g}: "
  told += f"{mean_and_spread(errors['without'])}% without."
  assert told in page
  others = errors_by_arm(
    next(s for s in pilot["settings"] if s["learning_rate"] == setting["learning_rate"])
  )
  pairs = len(errors["without"]) + len(others["without"])
  assert f"With {len(others['without'])} other seeds" in page
  pooled = []
  for arm, name, verdict, said in (
    ("energy", "with energy", "not told apart", "not told apart from zero"),
    ("orthonormal", "orthonormality", "better", "fewer errors"),
  ):
    paired = paired_difference(errors["without"], errors[arm])
    assert paired.verdict == verdict
    assert (
      f"{name.capitalize()}: {mean_and_spread(errors[arm])}%, {paired.difference:+.2f} "
      f"points ({paired.low:+.2f} to {paired.high:+.2f}), {said}."
    ) in page
    paired = paired_difference(
      errors["without"] + others["without"], errors[arm] + others[arm]
    )
    interval = f"{paired.low:+.2f} to {paired.high:+.2f}"
    pooled.append(f"{name} {paired.difference:+.2f} ({interval})")
  assert f"all {pairs} pairs: {', '.join(pooled)}" in page


def errors_by_arm(setting):
  return {
    arm: [run["test_error"] for run in runs] for arm, runs in setting["arms"].items()
  }


def check_page(page, tables, claims):
  """The tables of a page are these, in this order, and it has these sentences."""
  text = (ROOT / "docs" / page).read_text()
  assert re.findall(r"(?:^\|.*\n)+", text, re.M) == [table + "\n" for table in tables]
  words = " ".join(text.split())
  for claim in claims:
    assert claim in words


def result_of(experiment):
  return json.loads((ROOT / "experiments/results" / f"{experiment}.json").read_text())


def test_numerics_states_the_committed_measurements():
  result = result_of("accuracy")
  tables, claims = accuracy_tables.tables(result), accuracy_tables.claims(result)
  check_page("numerics.md", tables, claims)


def test_many_neurons_states_the_committed_measurements():
  page = (ROOT / "docs" / "many.md").read_text()
  assert fill(page, sampled_tables.tables(result_of("benchmark_sampled"))) == page


def test_benchmarks_states_the_committed_measurements():
  result = result_of("benchmark_energy")
  claims = [
    *benchmark_tables.claims(result),
    *train_step.summarize(result_of("benchmark_train_step")),
  ]
  check_page("benchmarks.md", benchmark_tables.tables(result), claims)


def check_generated(name, texts):
  """A page is what a report makes of its results."""
  page = (ROOT / f"docs/{name}.md").read_text()
  assert fill(page, texts) == page
  assert page.count("<!-- end of ") == len(texts)


def test_classification_is_what_the_report_generates():
  texts = report.blocks("cpu", Results(report.RESULTS, Config))
  check_generated("classification", texts)
  results = (ROOT / "docs" / "results.md").read_text()
  assert fill(results, {"summary": texts["summary"]}) == results


def test_what_the_page_says_of_the_order_is_in_its_results():
  errors = json.loads((ROOT / "experiments/results/order.json").read_text())["errors"]
  page = " ".join((ROOT / "docs/classification.md").read_text().split())
  for other, words in (
    (
      "grain",
      "the eight seeds of the first round end {:.1f} points higher in the order",
    ),
    ("another", "six of them {:.1f} points higher than in another draw of today's"),
  ):
    seeds = errors[other].keys() & errors["numpy"].keys()
    changes = [errors["numpy"][seed] - errors[other][seed] for seed in seeds]
    assert len(seeds) == {"grain": 8, "another": 6}[other]
    assert words.format(sum(changes) / len(changes)) in page


def test_faces_is_what_the_report_generates():
  results = Results(faces_report.RESULTS, faces_report.Config)
  check_generated("faces", faces_report.blocks("cpu", results))


def test_what_is_said_of_faces_in_words_is_in_their_results():
  results = Results(faces_report.RESULTS, faces_report.Config)
  page = " ".join((ROOT / "docs" / "results.md").read_text().split())
  column, *_ = columns_of(faces_sweeps("cpu")["best"], results)
  rival, excess = column.values(column.rival), {}
  for row in column.arms:
    excess[row] = np.mean([run["class_excess"] for run in column.runs(row)])
  people = column.runs(column.rival)[0]["classes"]
  effects = [
    f"{column.arms[row].config.energy.name} {difference(rival, column.values(row))}, "
    f"excess {excess[row]:.2f}"
    for row in column.arms
    if row != column.rival
  ]
  assert (
    f"SphereFace+ on LFW, {people} people to train on, {len(column.seeds)} new seeds: "
    f"verification errors of {mean_and_spread(rival)}% without MHE, where the class "
    f"weights have a relative excess of {excess[column.rival]:.2f}. In points of "
    f"difference, and excess with it: {'; '.join(effects)}."
  ) in page
  found = [
    (paired_difference(x.first, x.second), np.mean(x.first))
    for x in answered(faces_sweeps("cpu")["best"], results)
    if x.ask.column == "verification"
  ]
  changes = [paired.difference for paired, _ in found]
  assert min(paired.low for paired, _ in found) > -1.2
  assert (
    f"errors of {found[0][1]:.1f}% change by {min(changes):+.1f} to "
    f"{max(changes):+.1f} points; six seeds exclude gains of 1.2"
  ) in page


def test_gan_is_what_the_report_generates():
  results = Results(gan_report.RESULTS, gan_report.Config)
  drawn = {
    path.stem.removeprefix("gan_") for path in (ROOT / "docs/images").glob("gan_*.png")
  }
  texts = gan_report.blocks("cpu", results) | gan_report.pictures(drawn)
  check_generated("gan", texts)


def test_what_is_said_of_gans_in_words_is_in_their_results():
  results = Results(gan_report.RESULTS, gan_report.Config)
  page = " ".join((ROOT / "docs" / "results.md").read_text().split())
  for column in columns_of(gan_sweeps("cpu")["four"], results):
    effects = [
      f"{mean_and_spread(column.values(rival))} of {rival}, {row} "
      f"{difference(column.values(rival), column.values(row))}"
      for row, rival in (("MHE", "baseline"), ("SN + MHE", "SN"))
    ]
    told = f"{column.title}, {len(column.seeds)} seeds: {'; '.join(effects)}."
    assert told in page
