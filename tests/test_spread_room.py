"""The experiments of spread: forms, runs, text, tables, and what their page says."""

import functools
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.benchmarks import gpt_step
from experiments.errors import InputError
from experiments.language import __main__ as language_command
from experiments.language import plan, text
from experiments.language import report as language_report
from experiments.language.training import optimizer, train
from experiments.report.pages import fill
from experiments.spread import __main__ as command
from experiments.spread import report
from experiments.spread.networks import problem
from experiments.spread.presets import FORMS, NETWORKS, PRESETS, STARTS, VARIANTS, Cell
from experiments.spread.training import transformation
from experiments.spread.variants import Variant, turned_by
from mhe_jax import LayerRule, neuron_matrices, spread

ROOT = pathlib.Path(__file__).parent.parent
RULES = (LayerRule("head/kernel", role="output"),)


def tree(seed, size=1.0, d=12, n=9):
  keys = jax.random.split(jax.random.key(seed), 2)
  shapes = {"body": (d, n), "head": (n, 4)}
  return {
    name: {"kernel": size * jax.random.normal(key, shape)}
    for key, (name, shape) in zip(keys, shapes.items())
  }


def updates_of(tx, params, steps=3):
  """Of some steps, with updates that are given."""
  state, updates = tx.init(params), None
  for i in range(steps):
    updates, state = jax.jit(tx.update)(tree(i + 1, 0.1), state, params)
    params = optax.apply_updates(params, updates)
  return updates, params


# --- Forms.


def test_the_variant_of_the_defaults_is_spread(as_users):
  """Two programs of one formula: in float64 they are the same."""
  params = tree(0)
  found = updates_of(turned_by(Variant(), optax.sgd(0.5), RULES), params)
  expected = updates_of(spread(optax.sgd(0.5), rules=RULES), params)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-12),
    found,
    expected,
  )


def test_every_other_variant_does_something_else(as_users):
  # Better than random directions, or what fades would not.
  params, results = tree(0, 0.15), {}
  for leaf in params.values():
    leaf["kernel"] += jnp.eye(*leaf["kernel"].shape)
  for name, variant in VARIANTS.items():
    _, after = updates_of(turned_by(variant, optax.sgd(0.5), RULES), params, steps=2)
    results[name] = np.asarray(after["body"]["kernel"])
    assert np.isfinite(results[name]).all()
  # With more dimensions than neurons, both references of the pull are one; and neurons
  # that are no better than random directions do not let it fade.
  same = [
    {"spread", "fades below 4 sqrt(d) / n"},
    {"fades where the best is near", "never fades"},
  ]
  for name, result in results.items():
    for other, of_other in results.items():
      close = np.allclose(result, of_other, rtol=1e-9, atol=1e-12)
      assert close == (name == other or {name, other} in same), (name, other)


def test_variants_that_hold_norms_hold_them(as_users):
  params = tree(0)
  _, after = updates_of(turned_by(Variant(move="hold"), optax.sgd(0.5), RULES), params)
  for name, w in neuron_matrices(after, RULES).items():
    before = neuron_matrices(params, RULES)[name]
    norms = (np.linalg.norm(x, axis=-1) for x in (w, before))
    np.testing.assert_allclose(*norms, rtol=1e-9)


# --- Runs.


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_start_as_is_said(name, as_users):
  """Zeros where it is said, and neurons in every network, of both starts."""
  whole = problem(name)
  for start in STARTS:
    params = whole.init(jax.random.key(0), start)
    shapes = jax.tree.map(jnp.shape, neuron_matrices(params, whole.rules))
    assert len(shapes) > 2
    zeros = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim > 1]
    some = any(not np.any(leaf) for leaf in zeros)
    assert some == (start == "zero" and name != "resnet") or name == "lora"
  batch = whole.draw(np.random.default_rng(0))
  value = jax.eval_shape(whole.loss, params, batch)
  assert value.shape == ()


def test_smoke_preset_makes_tables_and_a_picture_and_stops(tmp_path, as_users):
  command.main("smoke", tmp_path)
  page = (tmp_path / "spread.md").read_text()
  assert (tmp_path / "spread.png").read_bytes().startswith(b"\x89PNG")
  assert all(title in page for title in report.TITLES.values())
  files = sorted(tmp_path.glob("*.json"))
  times = [file.stat().st_mtime_ns for file in files]
  assert len(files) == len(PRESETS["smoke"])
  command.main("smoke", tmp_path)
  assert times == [file.stat().st_mtime_ns for file in files]
  result = json.loads(files[0].read_text())
  assert {run["form"] for run in result["runs"]} == set(FORMS)
  assert all(run["excess"] and run["norm"] > 0 for run in result["runs"])
  result["config"]["steps"] += 1
  files[0].write_text(json.dumps(result))
  with pytest.raises(SystemExit):
    command.main("smoke", tmp_path)


def test_without_training_there_must_be_cells(tmp_path, capsys):
  with pytest.raises(SystemExit):
    command.main("cpu", tmp_path, train=False)
  assert "output must have cells of this preset" in capsys.readouterr().out


# --- Tables of results.


def cell(losses, excess):
  """A result of two forms and one start, of given losses of two seeds."""
  config = Cell("mlp", "sgd", ("without", "spread"), ("zero",), (0, 1)).as_json()
  runs = [
    {
      "form": form,
      "start": "zero",
      "seed": seed,
      "loss": losses[form][seed],
      "excess": {"a": excess, "b": 2 * excess, "c": 90.0},
    }
    for form in ("without", "spread")
    for seed in (0, 1)
  ]
  return {"config": config, "runs": runs}


def test_ratios_are_of_geometric_means_and_excess_is_the_median():
  plain, turned = report.settings_of(
    [cell({"without": [1.0, 4.0], "spread": [1.0, 1.0]}, 0.25)]
  )
  assert plain.loss == pytest.approx(2.0) and plain.ratio == pytest.approx(1.0)
  assert turned.ratio == pytest.approx(0.5) and turned.excess == pytest.approx(0.5)


def test_a_run_that_diverged_is_not_averaged_away():
  settings = report.settings_of(
    [cell({"without": [1.0, 4.0], "spread": [1.0, None]}, 0.25)]
  )
  assert math.isinf(settings[1].ratio)
  assert "| 1 of 1 | diverged |" in report.summary(settings)
  assert "**diverged**" in report.details(settings)


# --- The language model.


def test_halves_share_no_text_and_validation_is_apart():
  first, second = (text.read(half, 40) for half in (0, 1))
  parts = [bytes(x.astype(np.uint8)) for x in (*first[:2], *second[:2])]
  documents = [set(part.split(b"\n\n\n")) for part in parts]
  assert all(documents)
  for i, one in enumerate(documents):
    for other in documents[:i]:
      assert max(map(len, one & other), default=0) < 200
  assert first.digest != second.digest
  assert text.read(0, 40).digest == first.digest


def test_without_sources_one_line_says_so():
  with pytest.raises(InputError, match="scipy"):
    text.read(0, 0)


SMALL = {"width": 16, "blocks": 1, "length": 16, "batch_size": 2}


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_run_of_the_language_model(name, as_users):
  run = plan.Run(0, 3, name, "spread 1", 0.01, 0, **SMALL)
  result = train(run, text.read(0, 40))
  assert [point["step"] for point in result["history"]] == [1, 2, 3]
  assert all(np.isfinite(point["validation"]) for point in result["history"])
  # Bytes, before anything is learned.
  assert result["history"][0]["validation"] == pytest.approx(math.log(256), rel=0.02)


@pytest.mark.parametrize("form", language_report.TITLES)
def test_every_form_is_another_optimizer(form, as_users):
  """What it does to one step, beside what is done without it."""
  model_run = plan.Run(0, 10, "adamw", form, 0.01, 0, **SMALL)
  params = {
    "blocks": {"up0": tree(0)["body"]},
    "embed": {"embedding": jax.random.normal(jax.random.key(3), (20, 12))},
    "head": tree(0)["head"],
    "positions": jnp.zeros((3, 12)),
  }
  grads = jax.tree.map(jnp.ones_like, params)

  def second_step(run):
    tx = optimizer(run)
    state = jax.jit(tx.init)(params)
    _, state = tx.update(grads, state, params)
    return tx.update(grads, state, params)[0]

  plain = second_step(plan.Run(0, 10, "adamw", "without", 0.01, 0, **SMALL))
  found = second_step(model_run)
  # Compiled apart, equal up to rounding.
  close = functools.partial(np.allclose, rtol=1e-6, atol=1e-12)
  assert close(found["positions"], plain["positions"])
  same = all(jax.tree.leaves(jax.tree.map(np.array_equal, found, plain)))
  assert same == (form == "without")


def test_plans_hold_what_tables_need():
  for make in plan.PLANS.values():
    names = [run.name for run in make()]
    assert len(names) == len(set(names)) > 3
  assert {run.half for run in plan.confirming()} == {1}
  assert {run.half for run in plan.tuning()} == {0}
  rates = {(run.optimizer, run.rate) for run in plan.tuning()}
  assert {(optimizer, rate) for optimizer, _, rate in plan.BEST} <= rates


def test_language_command_trains_once_and_its_report_reads_it(
  tmp_path, monkeypatch, as_users
):
  runs = [plan.Run(half, 2, "adamw", "without", 0.01, 0, **SMALL) for half in (0, 1)]
  monkeypatch.setitem(plan.PLANS, "tuning", lambda: runs)
  monkeypatch.setattr(language_command, "read", lambda half: text.read(half, 40))
  for _ in range(2):
    language_command.main("tuning", tmp_path)
  assert {file.stem for file in tmp_path.glob("*.json")} == {run.name for run in runs}
  page = tmp_path / "language.md"
  language_report.main(tmp_path, page)
  results = language_report.read_results(tmp_path)
  assert f"{language_report.last(results[0]):.3f}" in page.read_text()


def test_a_folder_without_runs_is_named(tmp_path):
  with pytest.raises(InputError, match="results must be a folder of runs"):
    language_report.read_results(tmp_path)


# --- The cost, and the page.


def test_gpt_benchmark(tmp_path, as_users):
  gpt_step.main("smoke", tmp_path)
  result = json.loads((tmp_path / "benchmark_gpt_step.json").read_text())
  assert set(result["seconds"]) == set(result["compilation"]) == set(gpt_step.ARMS)
  assert all(min(x) > 0 for x in result["compilation"].values())
  assert "16 tokens a step" in gpt_step.in_words(result)
  assert gpt_step.table(result).count("\n") == 1 + len(gpt_step.ARMS)


COST = ROOT / "experiments/results/benchmark_gpt_step.json"


def results_of(folder):
  files = sorted((ROOT / "experiments/results" / folder).glob("*.json"))
  return [json.loads(file.read_text()) for file in files]


def test_the_page_is_what_the_reports_generate():
  page = (ROOT / "docs/spread.md").read_text()
  results = {f"{r['config']['network']}_{r['config']['optimizer']}": r
             for r in results_of("spread")}  # fmt: skip
  cells = [results[c.name] for c in PRESETS["cpu"] if c.name in results]
  assert len(cells) == len(results)
  assert [c["config"] for c in cells] == [
    c.as_json() for c in PRESETS["cpu"] if c.name in results
  ]
  texts = {
    **report.texts("cpu", cells),
    **language_report.texts(results_of("language")),
    **gpt_step.texts(json.loads(COST.read_text())),
  }
  assert fill(page, texts) == page
  assert page.count("<!-- end of ") == len(texts)


def test_results_are_of_revisions_that_are_known():
  cost = json.loads(COST.read_text())
  for result in (*results_of("spread"), *results_of("language"), cost):
    assert result["versions"]["clean"] and len(result["versions"]["revision"]) == 40


def test_transformations_are_told_apart(as_users):
  """A form's name is what is trained: each gives another step."""
  params, after = tree(0), {}
  for form in FORMS:
    tx = transformation(form, optax.sgd(0.5), RULES)
    _, new = updates_of(tx, params)
    after[form] = np.asarray(new["body"]["kernel"])
  assert len({x.tobytes() for x in after.values()}) == len(FORMS)
