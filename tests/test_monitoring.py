"""Logs hold the energy, at no second evaluation."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from excess import excess_by_hand

from experiments import digits, monitoring, quickstart
from experiments.benchmarks.products import products_of
from experiments.benchmarks.timing import ratio
from experiments.report.cells import difference, mean_and_spread
from experiments.report.pages import fill
from experiments.report.statistics import paired_difference
from mhe_jax import (
  LayerRule,
  RelativeExcess,
  Riesz,
  layer_energies,
  layer_excess,
  network_energy,
  with_hyperspherical_energy,
)

ROOT = pathlib.Path(__file__).parent.parent
PAGE = ROOT / "docs" / "monitoring.md"

# --- No second evaluation: steps of a small network, written in each way.

RULES = (LayerRule("head/kernel", role="output"),)
OBJECTIVE = RelativeExcess(Riesz(2.0), log=True)
SIZES = {"first": (24, 16), "second": (16, 12), "head": (12, 4)}
TX = with_hyperspherical_energy(optax.sgd(0.1), 0.1, OBJECTIVE, rules=RULES)


def network():
  rng = np.random.default_rng(0)
  return {
    name: {"kernel": jnp.asarray(rng.normal(size=size), jnp.float32)}
    for name, size in SIZES.items()
  }


def data_loss(params):
  x = jnp.ones((8, 24), jnp.float32)
  for name in SIZES:
    x = jnp.tanh(x @ params[name]["kernel"])
  return jnp.mean(x**2)


def without_log(params):
  def loss(params):
    return data_loss(params) + 0.1 * network_energy(params, OBJECTIVE, rules=RULES)

  return jax.grad(loss)(params)


def in_the_loss(params):
  def loss(params):
    values = layer_energies(params, OBJECTIVE, rules=RULES)
    excess = {path: jnp.expm1(value) for path, value in values.items()}
    return data_loss(params) + 0.1 * sum(values.values()), excess

  return jax.grad(loss, has_aux=True)(params)


def beside_the_loss(params):
  return without_log(params), layer_excess(params, Riesz(2.0), rules=RULES)


def transformed(params):
  """What the state holds is dropped."""
  updates, _ = TX.update(jax.grad(data_loss)(params), TX.init(params), params)
  return updates


def logged_by_the_transformation(params):
  grads = jax.grad(data_loss)(params)
  updates, (own, _) = TX.update(grads, TX.init(params), params)
  return updates, jax.tree.map(jnp.expm1, own.layer_energies)


def compiled(function, params):
  """Matrix products and operations of what XLA makes of a function; what it returns."""
  program = jax.jit(function).lower(params).compile()
  products, flops = program.as_text().count(" dot("), program.cost_analysis()["flops"]
  return products, flops, program(params)


def test_layers_of_the_loss_are_logged_without_a_product_more():
  params = network()
  plain, logged, beside = (
    products_of(step, params) for step in (without_log, in_the_loss, beside_the_loss)
  )
  assert logged == plain
  # The count would see a second evaluation: n^2 d for the cosines of a layer.
  assert beside - plain >= sum(n * n * d for d, n in SIZES.values())
  plain, logged = compiled(without_log, params), compiled(in_the_loss, params)
  assert logged[0] == plain[0]
  assert plain[1] <= logged[1] < 1.001 * plain[1]
  # They are the energies of the loss, as excess.
  _, found = logged[2]
  for name, (d, n) in SIZES.items():
    w = np.asarray(params[name]["kernel"]).T
    assert w.shape == (n, d)
    expected = excess_by_hand(w, half_space=name != "head")
    np.testing.assert_allclose(found[f"{name}/kernel"], expected, rtol=1e-4)


def test_a_transformation_logs_the_layers_without_a_product_more():
  params = network()
  plain, logged = (
    products_of(step, params) for step in (transformed, logged_by_the_transformation)
  )
  assert logged == plain
  _, found = logged_by_the_transformation(params)
  expected = layer_excess(params, Riesz(2.0), rules=RULES)
  assert found.keys() == expected.keys()
  for path, excess in expected.items():
    np.testing.assert_allclose(found[path], excess, rtol=1e-5)


# --- The experiment.


SMOKE = monitoring.SETTINGS["smoke"]
CONFIG = monitoring.config_of(SMOKE["depth"], SMOKE["width"], SMOKE["steps"])


def test_the_log_of_the_experiment_costs_what_is_said(as_users):
  state = monitoring.new_state(CONFIG, 0)
  batch = np.ones((40, 14, 14, 1), np.float32), np.zeros(40, np.int32)
  products = {
    (arm, logged): products_of(
      monitoring.make_train_step(CONFIG, arm, logged=logged), state, *batch
    )
    for arm in monitoring.ARMS
    for logged in (False, True)
  }
  assert products["energy", True] == products["energy", False]
  # Without the energy in the loss: the values alone, with no gradients.
  values = products_of(digits.excess, state.params)
  assert values > 0
  assert products["without", True] - products["without", False] == values
  assert products["energy", False] - products["without", False] > values


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
  """The folder of a run at the preset smoke."""
  folder = tmp_path_factory.mktemp("smoke")
  with jax.numpy_dtype_promotion("standard"):
    monitoring.main("smoke", folder)
  return folder


def test_runs_are_those_of_quickstart(smoke, as_users):
  """Energy in the loss, there in the optimizer: the same training, the same excess."""
  result = json.loads((smoke / "training.json").read_text())
  config = quickstart.Config(
    depth=SMOKE["depth"], width=SMOKE["width"], steps=SMOKE["steps"],
    images_per_class=SMOKE["images_per_class"], measure_every=SMOKE["every"],
  )  # fmt: skip
  assert result["steps"] == [0, 3, 4]
  run = result["runs"]["energy"][0]
  expected = quickstart.train(
    config, quickstart.compiled(config, "energy", monitoring.RATE),
    *quickstart.load_digits(), run["seed"],
  )  # fmt: skip
  assert run["excess"].keys() == expected["excess"].keys()
  for path, values in run["excess"].items():
    np.testing.assert_allclose(values[:2], expected["excess"][path][:2], atol=1e-3)
  assert run["test_error"] == pytest.approx(expected["test_error"], abs=0.2)
  # Without it neurons are trained, too, and end elsewhere.
  assert result["runs"]["without"][0]["excess"] != run["excess"]


def test_the_digits_are_those_of_quickstart():
  for ours, theirs in zip(digits.load_digits(), quickstart.load_digits()):
    np.testing.assert_array_equal(ours, theirs)
  labels = digits.load_digits()[1]
  for ours, theirs in zip(
    digits.split(labels, 50, 500), quickstart.split(labels, 50, 500)
  ):
    np.testing.assert_array_equal(ours, theirs)


def test_the_page_and_the_picture_are_made(smoke):
  trained = json.loads((smoke / "training.json").read_text())
  assert monitoring.layers(trained) in (smoke / "monitoring.md").read_text()
  picture = smoke / "images" / "monitoring.png"
  assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_table_is_that_of_the_numbers():
  """Two seeds and two layers: medians are means, and all can be told by hand."""

  def run(seed, conv, head):
    return {"seed": seed, "excess": {"conv0/kernel": conv, "head/kernel": head}}

  runs = {
    "without": [run(0, [1.0, 4.0, 2.0], [1.0, 0.5, 0.25]),
                run(1, [1.2, 2.0, 2.0], [1.0, 0.5, 0.25])],
    "energy": [run(0, [1.0, 0.5, 0.0], [1.0, 0.25, 0.125])] * 2,
  }  # fmt: skip
  table = monitoring.layers(
    {"settings": {"depth": 1}, "steps": [0, 5, 9], "runs": runs}
  )
  assert "| conv0 | 1.10 | 3.00 | 5 | 2.00 | 0.00 |" in table
  assert "| head | 1.00 | 1.00 | 0 | 0.25 | 0.12 |" in table


# --- The page: its table is made, its sentences are written.


def result_of(name):
  return json.loads((monitoring.RESULTS / f"{name}.json").read_text())


def words_of(page):
  return " ".join(page.split())


def test_the_table_of_the_page_is_what_the_command_writes():
  result, page = result_of("training"), PAGE.read_text()
  assert result["settings"] == monitoring.SETTINGS["cpu"]
  assert fill(page, {"layers": monitoring.layers(result)}) == page
  assert page.count("<!-- end of ") == 1
  assert (ROOT / "docs" / "images" / "monitoring.png").exists()


def test_what_the_page_says_of_the_layers_is_in_the_results():
  result, words = result_of("training"), words_of(PAGE.read_text())
  without, with_energy = (
    {k: v for k, v in monitoring.medians(result, arm).items() if k != monitoring.HEAD}
    for arm in monitoring.ARMS
  )
  starts = [curve[0] for curve in without.values()]
  assert f"an excess of {min(starts):.2f} to {max(starts):.2f}." in words
  above = sum(curve[-1] > 1.0 for curve in without.values())
  path = max(without, key=lambda path: without[path].max() - without[path][0])
  curve, step = without[path], result["steps"][int(np.argmax(without[path]))]
  assert (
    f"Without the energy {above} of {len(without)} end above 1; the one that rises "
    f"most is {path.removesuffix('/kernel')}, from {curve[0]:.2f} to "
    f"{curve.max():.2f} in step {step}." in words
  )
  ends = [curve[-1] for curve in with_energy.values()]
  assert (
    f"the largest ends at {max(ends):.2f} and the median at {abs(np.median(ends)):.3f}."
  ) in words
  errors = [
    [run["test_error"] for run in result["runs"][arm]] for arm in monitoring.ARMS
  ]
  assert paired_difference(*errors).verdict == "no significant difference"
  assert (
    f"{mean_and_spread(errors[0])}% without, {mean_and_spread(errors[1])}% with, a "
    f"difference of {difference(*errors)} points: not significant,"
  ) in words
  seeds = [run["seed"] for run in result["runs"]["without"]]
  folder = ROOT / "experiments" / "results" / "alternatives"
  others = [
    json.loads((folder / f"training_{arm}.json").read_text()) for arm in monitoring.ARMS
  ]
  same = [
    [x["test_error"][x["settings"]["seeds"].index(seed)] for seed in seeds]
    for x in others
  ]
  assert f"order of the data give {difference(*same)} on the page" in words


def test_what_the_page_says_of_costs_is_in_the_results():
  result, words = result_of("cost"), words_of(PAGE.read_text())
  settings, seconds = result["settings"], result["seconds"]
  assert settings == monitoring.COST["cpu"]

  def percent(name, baseline):
    ratios = np.divide(seconds[name], seconds[baseline])
    found = scipy.stats.quantile_test(ratios, p=0.5).confidence_interval(0.95)
    low, middle, high = (
      f"{100 * (x - 1):+.1f}" for x in (found.low, np.median(ratios), found.high)
    )
    return f"{middle}% ({low} to {high})"

  step = 1e3 * np.median(seconds["energy"])
  for text in (
    f"({settings['depth']} convolutions of {settings['width']} channels, "
    f"{result['batch_size']} images of 14 x 14 pixels) takes {step:.1f} ms with the",
    f"change that by {percent('energy, logged', 'energy')}, and by "
    f"{percent('energy, read', 'energy')} if they are taken to the host",
    f"metrics in every step add {percent('without, logged', 'without')}.",
    f"`describe` of all layers takes as long as "
    f"{ratio(seconds, 'describe', 'energy'):.2f} steps",
    f"all layers as long as {ratio(seconds, 'angles', 'energy'):.2f} steps.",
    f"Medians of {settings['rounds']} rounds",
    f"intervals; {result['device']}.",
  ):
    assert text in words
