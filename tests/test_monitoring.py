"""Logs hold the energy, at no second evaluation; the page's blocks write them."""

import dataclasses
import json
import os
import pathlib
import re
import struct
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

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


# --- The page's blocks: three logs of the same training.

LAYERS = {"layers_0/kernel": 32, "layers_2/kernel": 32, "layers_4/kernel": 4}


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
  """Where the page's blocks have written, what they printed, and the first neurons."""
  folder = tmp_path_factory.mktemp("page")
  blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
  blocks.append('np.savez("neurons.npz", **neuron_matrices(initial, rules=rules))\n')
  # A network that cannot be reached: whatever asks for it fails.
  nowhere = "http://127.0.0.1:9"
  closed = {name: nowhere for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")}
  wandb = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false",
           "WANDB_CACHE_DIR": str(folder), "WANDB_CONFIG_DIR": str(folder),
           "WANDB_DATA_DIR": str(folder), "WANDB_API_KEY": ""}  # fmt: skip
  ran = subprocess.run(
    [sys.executable, "-c", "\n".join(blocks)],
    check=False,
    capture_output=True,
    text=True,
    cwd=folder,
    env={**os.environ, **closed, **wandb},
    timeout=300,
  )
  assert ran.returncode == 0, ran.stderr
  neurons = dict(np.load(folder / "neurons.npz"))
  return folder / "runs" / "monitoring", ran.stdout, neurons


@pytest.fixture(scope="module")
def written(logs):
  """The lines of the plain log, by step."""
  lines = (logs[0] / "log.jsonl").read_text().splitlines()
  return {line.pop("step"): line for line in map(json.loads, lines)}


def test_the_plain_log_has_every_layer(logs, written):
  _, output, neurons = logs
  assert list(written) == [0, 10, 20, 30]
  for metrics in written.values():
    assert metrics.keys() == {"loss", *(f"excess/{path}" for path in LAYERS)}
  # At the start: against sums over all pairs in float64.
  for path, w in neurons.items():
    expected = excess_by_hand(w, half_space=path != "layers_4/kernel")
    assert written[0][f"excess/{path}"] == pytest.approx(expected, rel=1e-4)
  # It is the same whichever way it is asked for: a line of each step.
  printed = re.findall(r"'layers_2/kernel': ([\d.]+)", output)
  assert len(printed) == 2
  for value in printed:
    first = written[0]["excess/layers_2/kernel"]
    assert float(value) == pytest.approx(first, rel=1e-4)
  # The energy does its work.
  assert written[30]["excess/layers_2/kernel"] < 0.8


def excess_by_hand(w, half_space):
  """From 0 at the best to 1 at random directions; s = 2, n <= d neurons.

  The best are at right angles, d^2 = 2, or in full space the simplex,
  d^2 = 2 n / (n - 1); two random directions have the mean energy (d - 2) / (2 (d - 3)).
  """
  n, d = w.shape
  assert n <= d
  u = w.astype(np.float64)
  u /= np.linalg.norm(u, axis=1, keepdims=True)
  t = (u @ u.T)[np.triu_indices(n, 1)]
  energy, best = np.mean(1.0 / (2.0 - 2.0 * t)), (n - 1.0) / (2.0 * n)
  if half_space:  # The own antipodes' share is the same in all three.
    energy, best = (energy + np.mean(1.0 / (2.0 + 2.0 * t))) / 2.0, 0.5
  return (energy - best) / ((d - 2.0) / (2.0 * (d - 3.0)) - best)


def test_tensorboard_shows_the_same_curves(logs, written):
  events = read_events(logs[0] / "tensorboard")
  names = set(written[0])
  assert set(events.Tags()["scalars"]) == names
  for name in names:
    found = {event.step: event.value for event in events.Scalars(name)}
    assert found == {
      step: pytest.approx(metrics[name], rel=1e-6) for step, metrics in written.items()
    }


def test_tensorboard_has_histograms_of_the_angles(logs):
  folder, _, neurons = logs
  events = read_events(folder / "tensorboard")
  assert set(events.Tags()["histograms"]) == {f"angles/{path}" for path in LAYERS}
  for path, n in LAYERS.items():
    found = events.Histograms(f"angles/{path}")
    assert [event.step for event in found] == [0, 20]
    assert [event.histogram_value.num for event in found] == [n, n]
    u = neurons[path] / np.linalg.norm(neurons[path], axis=1, keepdims=True)
    cosines = np.abs(u @ u.T) if path != "layers_4/kernel" else u @ u.T
    np.fill_diagonal(cosines, -1.0)
    counts, edges = np.histogram(
      np.degrees(np.arccos(cosines.max(1))), np.arange(0.0, 185.0, 5.0)
    )
    first = found[0].histogram_value
    drawn = {x: c for x, c in zip(first.bucket_limit, first.bucket) if c}
    assert drawn == {x: c for x, c in zip(edges[1:], counts) if c}


def read_events(folder):
  from tensorboard.backend.event_processing import event_accumulator

  everything = {"scalars": 0, "histograms": 0}
  return event_accumulator.EventAccumulator(str(folder), everything).Reload()


def test_the_offline_run_of_wandb_has_the_same_numbers(logs, written):
  from wandb.proto import wandb_internal_pb2

  (path,) = (logs[0] / "wandb").glob("offline-run-*/run-*.wandb")
  found = {}
  for data in records(path.read_bytes()):
    record = wandb_internal_pb2.Record.FromString(data)
    if record.WhichOneof("record_type") == "history":
      row = {"/".join(x.nested_key) or x.key: x.value_json for x in record.history.item}
      numbers = {k: json.loads(v) for k, v in row.items()}
      step = numbers.pop("_step")
      found[step] = {k: v for k, v in numbers.items() if not k.startswith("_")}
  assert found == {
    step: pytest.approx(metrics, rel=1e-6) for step, metrics in written.items()
  }


def records(data):
  """The records of the file of a run.

  It is the log of LevelDB: blocks of 32 KiB of pieces, each with a checksum (4 bytes),
  a length (2), and a kind (1): whole, first, middle or last of a record. A piece does
  not cross a block, and what is too short for the head of one is skipped. Before the
  first stand 7 bytes that name the format.
  """
  assert data.startswith(b":W&B")
  at, whole = 7, b""
  while at + 7 <= len(data):
    left = 32768 - at % 32768
    if left < 7:
      at += left
      continue
    length, kind = struct.unpack_from("<HB", data, at + 4)
    whole += data[at + 7 : at + 7 + length]
    at += 7 + length
    if kind in (1, 4):
      yield whole
      whole = b""
