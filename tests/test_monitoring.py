"""Logs hold the energy, at no second evaluation."""

import dataclasses
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from excess import excess_by_hand

from experiments.benchmarks.products import products_of
from experiments.monitoring import __main__ as command
from experiments.monitoring import cost, report, training
from experiments.quickstart import training as quickstart
from experiments.report.pages import fill
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


SMOKE = training.SETTINGS["smoke"]
CONFIG = training.config_of(SMOKE["depth"], SMOKE["width"], SMOKE["steps"])


def test_the_log_of_the_experiment_costs_what_is_said(as_users):
  state = training.new_state(CONFIG, 0)
  batch = np.ones((40, 14, 14, 1), np.float32), np.zeros(40, np.int32)
  products = {
    (arm, logged): products_of(
      training.make_train_step(CONFIG, arm, logged=logged), state, *batch
    )
    for arm in training.ARMS
    for logged in (False, True)
  }
  assert products["energy", True] == products["energy", False]
  # Without the energy in the loss: the values alone, with no gradients.
  values = products_of(quickstart.excess, state.params)
  assert values > 0
  assert products["without", True] - products["without", False] == values
  assert products["energy", False] - products["without", False] > values


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
  """The folder of a run at the preset smoke."""
  folder = tmp_path_factory.mktemp("smoke")
  with jax.numpy_dtype_promotion("standard"):
    command.main("smoke", folder)
  return folder


def test_runs_are_those_of_quickstart(smoke, as_users):
  """Energy in the loss, there in the optimizer: the same training, the same excess."""
  result = json.loads((smoke / "training.json").read_text())
  config = dataclasses.replace(
    CONFIG, images_per_class=SMOKE["images_per_class"], measure_every=SMOKE["every"]
  )
  assert result["steps"] == [0, 3, 4]
  run = result["runs"]["energy"][0]
  expected = quickstart.train(
    config, "energy", training.RATE, quickstart.make_train_step(config, "energy"),
    *quickstart.load_digits(), run["seed"],
  )  # fmt: skip
  assert run["excess"].keys() == expected["excess"].keys()
  for path, values in run["excess"].items():
    np.testing.assert_allclose(values[:2], expected["excess"][path][:2], atol=1e-3)
  assert run["test_error"] == pytest.approx(expected["test_error"], abs=0.2)
  # Without it neurons are trained, too, and end elsewhere.
  assert result["runs"]["without"][0]["excess"] != run["excess"]


def test_the_page_and_the_picture_are_made(smoke):
  page = (smoke / "monitoring.md").read_text()
  trained, timed = (
    json.loads((smoke / f"{name}.json").read_text()) for name in ("training", "cost")
  )
  for text in command.texts(trained, timed).values():
    assert text in page
  picture = smoke / "images" / "monitoring.png"
  assert picture.read_bytes().startswith(b"\x89PNG")


def made_up():
  """Two seeds and two layers: medians are means, and all can be told by hand."""

  def run(seed, error, conv, head):
    excess = {"conv0/kernel": conv, "head/kernel": head}
    return {"seed": seed, "test_error": error, "excess": excess}

  runs = {
    "without": [run(0, 9.0, [1.0, 4.0, 2.0], [1.0, 0.5, 0.25]),
                run(1, 11.0, [1.2, 2.0, 2.0], [1.0, 0.5, 0.25])],
    "energy": [run(0, 8.0, [1.0, 0.5, 0.0], [1.0, 0.25, 0.125])] * 2,
  }  # fmt: skip
  return {"settings": {"depth": 1}, "steps": [0, 5, 9], "runs": runs}


def test_the_words_are_those_of_the_numbers():
  texts = report.blocks(made_up())
  assert "| conv0 | 1.10 | 3.00 | 5 | 2.00 | 0.00 |" in texts["layers"]
  assert "| head | 1.00 | 1.00 | 0 | 0.25 | 0.12 |" in texts["layers"]
  assert "1 of 1 end above 1" in texts["seen"]
  assert "conv0, from 1.10 to 3.00 in step 5" in texts["seen"]
  assert "difference of -2.00 points" in re.sub(r" \(.*?\)", "", texts["seen"])
  seconds = {"energy": [0.010, 0.020, 0.010, 0.010, 0.010, 0.010, 0.020, 0.010]}
  for name, factor in {
    "without": 0.5, "without, logged": 0.6, "energy, logged": 1.01,
    "energy, read": 1.1, "describe": 3.0, "angles": 0.5,
  }.items():  # fmt: skip
    seconds[name] = [factor * x for x in seconds["energy"]]
  settings = {"depth": 15, "width": 8, "rounds": 8}
  told = cost.in_words(
    {"settings": settings, "seconds": seconds, "batch_size": 40, "device": "one"}
  )
  assert "change that by +1.0% (+1.0 to +1.0), and by +10.0%" in told
  assert "add +20.0%" in told and "takes as long as 3.00 steps" in told


def test_the_page_is_what_the_command_writes():
  results = {
    name: json.loads((command.RESULTS / f"{name}.json").read_text())
    for name in ("training", "cost")
  }
  assert results["training"]["settings"] == training.SETTINGS["full"]
  assert results["cost"]["settings"] == cost.SETTINGS["full"]
  page, texts = PAGE.read_text(), command.texts(*results.values())
  assert fill(page, texts) == page
  assert page.count("<!-- end of ") == len(texts)
  assert (ROOT / "docs" / "images" / "monitoring.png").exists()
