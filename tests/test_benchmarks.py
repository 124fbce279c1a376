"""The benchmarks run at their smallest preset, and their rivals compute one energy."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rich.progress

from experiments.benchmarks import (
  accelerator,
  gpt_step,
  peers,
  reading,
  sampled_tables,
  train_step,
)
from experiments.benchmarks.energy import neurons, ours
from experiments.benchmarks.timing import ratio, time_in_turns
from experiments.models import CNN, ResNet
from experiments.numerics.precision import ALGORITHMS
from mhe_jax import hyperspherical_energy, neuron_matrices
from mhe_jax.pair_sum import product


def run_smoke(benchmark, output):
  command = [sys.executable, "-m", f"experiments.benchmarks.{benchmark}"]
  result = subprocess.run(
    [*command, "--preset", "smoke", "--output", str(output)],
    check=False,
    capture_output=True,
    text=True,
    env={**os.environ, "PYTHONIOENCODING": "utf-8"},
  )
  assert result.returncode == 0, result.stderr
  return json.loads((output / f"benchmark_{benchmark}.json").read_text())


def test_energy_benchmark(tmp_path):
  result = run_smoke("energy", tmp_path)
  assert (tmp_path / "benchmark_energy.png").read_bytes().startswith(b"\x89PNG")
  large = result["large"]["seconds"]
  assert {"two products", "s = 2", "dense, s = 2", "naive JAX, s = 2"} <= set(large)
  rounds = result["config"]["rounds"]
  assert all(len(times) == rounds and min(times) > 0 for times in large.values())
  (huge,) = result["huge"]
  assert 0 < huge["temporary_mib"] < huge["peak_mib"]


def test_sampled_gradients_at_low_dimension(tmp_path):
  result = run_smoke("sampled_low", tmp_path)
  assert "| field |" in sampled_tables.errors(result["errors"])


def test_accelerator_benchmark(tmp_path):
  """What it measures on any device; which way to multiply, it tells."""
  result = run_smoke("accelerator", tmp_path)
  assert result["backend"] == "cpu" and result["left_out"] == []
  measured = result["64 x 8"]
  assert {"naive JAX", "two products, float32"} <= set(measured["seconds"])
  for name in ("float32", "bfloat16 x 6"):
    assert measured["mib"][name] > 0 or name in measured["refused"]
  lines = accelerator.summarize(result)
  assert any("of naive JAX" in line for line in lines)
  assert len(lines) == 2 + 2 + len(gpt_step.ARMS) + 1
  late = accelerator.run(accelerator.PRESETS["smoke"], 0.0, lambda _: None, None)
  assert late["left_out"] == ["accuracy", "64 x 8", "tiles", "step"]


@pytest.mark.parametrize("name", ("float32", "bfloat16 x 6"))
def test_the_accelerator_benchmark_chooses_how_to_multiply(name):
  with accelerator.multiplied_by(ALGORITHMS[name]):
    w = jnp.ones((8, 4), jnp.float32)
    text = jax.jit(hyperspherical_energy).lower(w).as_text()
  assert ("num_primitive_operations = 6" in text) == (name != "float32")
  assert product.of_float32() == jax.lax.Precision.HIGHEST


def test_sampled_benchmark(tmp_path):
  result = run_smoke("sampled", tmp_path)
  assert (tmp_path / "benchmark_sampled.png").read_bytes().startswith(b"\x89PNG")
  for entry in result["errors"]:
    assert 0 < entry["errors"]["field"] < entry["errors"]["minibatch"]
  ring = result["ring"]
  assert ring["error_of_value"] < 1e-6 and ring["error_of_gradient"] < 1e-5
  assert ring["products"]["least"] < ring["products"]["each"] < ring["products"]["one"]
  assert ring["mib"]["each"] < ring["mib"]["one"] and ring["all_gathers"] == 0
  assert all(entry["rms"] > 0 for entry in result["means"])


def test_train_step_benchmark(tmp_path):
  result = run_smoke("train_step", tmp_path)
  for network in result["networks"]:
    assert network["layers"] == 5  # Three convolutions, features and score.
    assert set(network["seconds"]) == {"without", "with", "energy alone"}
  assert len(train_step.summarize(result)) == 2


PEERS = [
  pytest.param(peers.naive_jax, id="naive JAX"),
  pytest.param(peers.pytorch, id="PyTorch"),
]


@pytest.mark.parametrize("peer", PEERS)
def test_peers_compute_the_same(peer):
  if peer is peers.pytorch:
    pytest.importorskip("torch")
  w = neurons(40, 16)
  value, gradient = ours(w)[0]()
  # Peers soften norms by 1e-4, as the authors' code does.
  with jax.numpy_dtype_promotion("standard"):
    peer_value, peer_gradient = peer(w)()
  assert float(peer_value) == pytest.approx(float(value), rel=1e-5)
  np.testing.assert_allclose(np.asarray(peer_gradient), gradient, atol=1e-6)


def test_reading_benchmark(tmp_path):
  result = run_smoke("reading", tmp_path)
  names = ["loop", "loop, gradients", "scan", "scan, gradients"]
  assert [program["name"] for program in result["programs"]] == names
  # Four matrices a layer, or four stacks, and the table of tokens.
  assert [p["parameters"] for p in result["programs"]] == [13, 13, 5, 5]
  assert "3 layers" in reading.summarize(result)


def test_every_round_calls_every_rival():
  calls = []
  rivals = {name: lambda name=name: calls.append(name) for name in "abc"}
  with rich.progress.Progress(disable=True) as progress:
    seconds = time_in_turns(rivals, 4, progress, "")
  assert {name: len(times) for name, times in seconds.items()} == dict.fromkeys(
    "abc", 4
  )
  assert set(calls) == set("abc")


def test_ratio_pairs_the_rounds():
  seconds = {"fast": [1.0, 10.0, 2.0], "slow": [2.0, 20.0, 4.0]}
  assert ratio(seconds, "slow", "fast") == 2.0


# --- the networks -------------------------------------------------------------------


def shapes(model):
  images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), images)
  params = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), variables["params"])
  return {path: w.shape for path, w in neuron_matrices(params).items()}


@pytest.mark.parametrize(("depth", "convolutions"), [(2, 6), (3, 9), (5, 15)])
def test_cnn_has_the_layers_of_the_paper(depth, convolutions):
  layers = shapes(CNN(depth=depth))
  assert len(layers) == convolutions + 2
  assert layers["conv0_0/kernel"] == (64, 27)
  assert layers["conv2_0/kernel"] == (256, 9 * 128)
  assert layers["features/kernel"] == (256, 4 * 4 * 256)
  assert layers["score/kernel"] == (100, 256)


def test_resnet_has_the_layers_of_its_name():
  layers = shapes(ResNet(num_layers=20))
  projections = [path for path in layers if "projection" in path]
  assert len(layers) - len(projections) == 20 and len(projections) == 2
  with pytest.raises(ValueError, match=r"num_layers .* 21"):
    shapes(ResNet(num_layers=21))
