"""What the documentation says runs, and claims only what committed results hold."""

import dataclasses
import json
import math
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
from experiments.classification.plan import sweeps_of as classification_sweeps
from experiments.classification.presets import Config
from experiments.faces import report as faces_report
from experiments.faces.plan import sweeps_of as faces_sweeps
from experiments.gan import report as gan_report
from experiments.gan.plan import sweeps_of as gan_sweeps
from experiments.numerics import accuracy_tables, precision
from experiments.report.answers import answered
from experiments.report.cells import difference, mean_and_spread
from experiments.report.columns import Column, columns_of
from experiments.report.pages import fill, fill_pages
from experiments.report.statistics import paired_difference
from experiments.runs.results import Results

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [
  "README.md",
  "docs/alternatives.md",
  "docs/combining.md",
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


def test_results_state_the_committed_quickstart():
  page = " ".join((ROOT / "docs" / "results.md").read_text().split())
  result, pilot = map(result_of, ("quickstart", "quickstart_pilot"))
  config, (setting,) = result["config"], result["settings"]
  assert (
    f"A CNN of {config['depth']} convolutions with {config['width']} channels on "
    f"{config['images_per_class']} handwritten digits per class, "
    f"{len(config['seeds'])} seeds, weight {config['weight']:g} in relative units:"
  ) in page
  first, rate = errors_by_arm(setting), setting["learning_rate"]
  told = {arm: f"{mean_and_spread(errors)}%" for arm, errors in first.items()}
  assert (
    f"{told['without']} without, {told['energy']} with energy, {told['orthonormal']} "
    "with orthonormality"
  ) in page
  (second,) = [s for s in pilot["settings"] if s["learning_rate"] == rate]
  third = {
    arm: result_of(f"alternatives/training_{arm}")["test_error"] for arm in first
  }
  draws = [first, errors_by_arm(second), third]
  counts = [len(draw["without"]) for draw in draws]
  assert (
    f"all {sum(counts)} committed pairs ({counts[0]} of these seeds, {counts[1]} of a "
    f"first run, {counts[2]} of"
  ) in page
  pooled = {arm: [x for draw in draws for x in draw[arm]] for arm in first}
  energy = paired_difference(pooled["without"], pooled["energy"])
  rival = paired_difference(pooled["without"], pooled["orthonormal"])
  between = paired_difference(pooled["orthonormal"], pooled["energy"])
  for paired, words in (
    (energy, "with energy {}"),
    (rival, "with orthonormality {}"),
    (between, f"energy minus orthonormality {{}}, P {between.p_value:.2f} if"),
  ):
    interval = f"({paired.low:+.2f} to {paired.high:+.2f})"
    assert words.format(f"{paired.difference:+.2f} {interval}") in page
  # Of the mean of as many new pairs: their own scatter, and that of the estimate.
  wider = math.sqrt(1.0 + energy.num_pairs / counts[0])
  half = wider * (energy.high - energy.difference)
  low, high = energy.difference - half, energy.difference + half
  assert f"between {low:.1f} and {high:+.1f} points with the energy" in page


def test_the_five_rows_say_what_the_tables_have():
  page = (ROOT / "docs" / "results.md").read_text()
  rows = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| ")]
  answers, cells = [row for row in rows if len(row) == 3][2:], {}
  assert len(answers) == 5
  for name, _, without, *energies, rival in (row for row in rows if len(row) == 7):
    found = [re.search(r"([+-]\d+\.\d+)\*{0,2} \(", cell) for cell in energies]
    change = [float(x[1]) if x else math.nan for x in found]
    orthonormal = re.search(r"([+-]\d+\.\d+)", rival)
    cells[name.split(";")[0].strip()] = (
      without.split()[0], change, orthonormal and float(orthonormal[1])
    )  # fmt: skip
  hard = [cells["deep and narrow, at the better of two rates"]]
  hard += [cells["less deep, with a warm-up"]]
  gains = [-x for _, change, _ in hard for x in change if not math.isnan(x)]
  levels = sorted(float(without) for without, _, _ in hard)
  assert (
    f"{min(gains):.1f} to {max(gains):.1f} points fewer errors, of {levels[0]:.0f} to "
    f"{levels[1]:.0f}%"
  ) in answers[0][1]
  rivals = sorted(-rival for _, _, rival in hard)
  assert f"{rivals[0]:.1f} to {rivals[1]:.1f} points" in answers[0][2]
  few = [-change[0] for name, (_, change, _) in cells.items() if "few images" in name]
  assert (
    f"{min(few):.1f} to {max(few):.1f} points with the paper's MHE" in answers[1][1]
  )
  _, rare, rival = cells["imbalanced CIFAR-10, errors of two rare classes"]
  assert f"{-max(rare):.0f} to {-min(rare):.0f} of 100 errors" in answers[1][1]
  assert f"{-rival:.0f} of 100 on rare classes" in answers[1][2]
  table = (ROOT / "docs" / "spread.md").read_text().split("<!-- language, confirmed")[1]
  adamw, spread, muon, both = re.findall(r"\| ([\d.]+) ± .*\| (.*) \|", table)
  assert spread[1].startswith(f"**-{float(adamw[0]) - float(spread[0]):.3f}**")
  assert (
    f"{-float(spread[1][2:8]):.2f} nats a byte of {float(adamw[0]):.2f}"
    in answers[2][1]
  )
  assert f"Muon: {float(adamw[0]) - float(muon[0]):.2f} nats" in answers[2][2]
  assert "**" not in both[1]
  (case,) = [
    case
    for case in result_of("alternatives/minima")["cases"]
    if (case["n"], case["start"], case["space"]) == (32, "random", "half")
  ]
  closest = {
    name: math.degrees(-np.mean(ends["smallest angle"]))
    for name, ends in case["ends"].items()
  }
  assert (
    f"{case['n']} directions in {case['d']} dimensions: the closest two lines are "
    f"{closest['energy, s = 2']:.0f} degrees apart, after `Orthonormality()` "
    f"{closest['orthonormality']:.0f} "
  ) in answers[4][1]


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
  products = precision.table(result_of("precision"))
  check_page("numerics.md", [products, *tables], claims)


def test_many_neurons_states_the_committed_measurements():
  page = (ROOT / "docs" / "many.md").read_text()
  low = sampled_tables.errors(result_of("benchmark_sampled_low")["errors"])
  texts = sampled_tables.tables(result_of("benchmark_sampled"))
  assert fill(page, texts | {"sampled-errors-low": low}) == page


def test_benchmarks_states_the_committed_measurements():
  result = result_of("benchmark_energy")
  claims = [
    *benchmark_tables.claims(result),
    *train_step.summarize(result_of("benchmark_train_step")),
  ]
  check_page("benchmarks.md", benchmark_tables.tables(result), claims)


def check_generated(texts, *names):
  """Pages are what a report makes of its results."""
  pages = {path: path.read_text() for path in (ROOT / f"docs/{n}.md" for n in names)}
  assert fill_pages(pages, texts) == pages
  assert "".join(pages.values()).count("<!-- end of ") == len(texts)


def test_classification_is_what_the_report_generates():
  texts = report.blocks("cpu", Results(report.RESULTS, Config))
  check_generated(texts, *report.PAGES)
  results = (ROOT / "docs" / "results.md").read_text()
  assert fill(results, {"summary": texts["summary"]}) == results


def test_the_rivals_differences_that_are_told_are_in_the_results():
  results, sweeps = Results(report.RESULTS, Config), classification_sweeps("cpu")
  page = " ".join((ROOT / "docs/classification.md").read_text().split())
  relative = "half-space MHE, s = 2, relative"
  for name, title, rival, energy in (
    (
      "confirm",
      "CNN-15, 500 steps of warm-up",
      "orthonormal, relative, weight 0.1, rate 0.1",
      f"{relative}, weight 0.1, rate 0.1",
    ),
    (
      "warm",
      "CNN-9, 500 steps of warm-up",
      "orthonormal, weight 10",
      "half-space MHE, s = 2, weight 10",
    ),
    ("imbalance", "multiple, errors of the classes", "orthonormal", relative),
  ):
    arms = {arm.row: arm for arm in sweeps[name].arms if arm.column == title}
    column = Column(results, [arms[rival], arms[energy]], sweeps[name].seeds)
    errors = {row: column.values(row) for row in column.arms}
    paired = paired_difference(errors[rival], errors[energy])
    interval = f"{paired.low:+.2f} to {paired.high:+.2f}; P {paired.p_value:.2f}"
    assert f"{paired.difference:+.2f} ({interval})" in page
    assert paired.verdict == "no significant difference"


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
  check_generated(faces_report.blocks("cpu", results), "faces")


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


def test_what_is_said_of_third_seeds_of_faces_is_in_their_results():
  results = Results(faces_report.RESULTS, faces_report.Config)
  sweep, found = faces_sweeps("cpu")["weights"], {}
  baselines = {arm.column: arm for arm in reversed(sweep.arms)}
  others = [arm for arm in sweep.arms if arm is not baselines[arm.column]]
  for arm in others:
    pair = Column(results, [baselines[arm.column], arm], sweep.seeds)
    if len(pair.seeds) == 3:
      found[arm.column, arm.row] = difference(*(pair.values(row) for row in pair.arms))
  small = [
    float(x.strip("*").split()[0].strip("*"))
    for (_, row), x in found.items()
    if float(row) <= 1
  ]
  better = {key: x.replace("**", "") for key, x in found.items() if "**-" in x}
  assert set(better) == {("MHE", "10"), ("mini-batch MHE", "1")}
  words = " ".join((ROOT / "docs" / "faces.md").read_text().split())
  assert (
    f"In {len(found)} of its {len(others)} cells with an energy a third is finished; "
    f"with it the differences of weights up to 1 are {min(small):+.2f} to "
    f"{max(small):+.2f}, and two intervals below zero exclude it, uncorrected: MHE at "
    f"10, {better['MHE', '10']}, and mini-batch MHE at 1, "
    f"{better['mini-batch MHE', '1']}."
  ) in words


def test_gan_is_what_the_report_generates():
  results = Results(gan_report.RESULTS, gan_report.Config)
  drawn = {
    path.stem.removeprefix("gan_") for path in (ROOT / "docs/images").glob("gan_*.png")
  }
  texts = gan_report.blocks("cpu", results) | gan_report.pictures(drawn)
  check_generated(texts, "gan")


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
