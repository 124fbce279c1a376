"""Channels are removed as said, in the orders that are said, and compared as said."""

import functools
import json
import pathlib

import jax
import numpy as np
import pytest

from experiments.digits import CNN, State, init
from experiments.errors import InputError
from experiments.pruning import __main__ as command
from experiments.pruning import report
from experiments.pruning.orders import CRITERIA, Layer, by_energy
from experiments.pruning.removal import remove, statistics_of
from experiments.pruning.training import ARMS, PRESETS, Config, as_json, read
from experiments.report.pages import fill

ROOT = pathlib.Path(__file__).parent.parent
GONE = [np.array([1]), np.array([3]), np.array([0])]


@pytest.fixture(scope="module")
def network():
  """A network whose batch norms do something, and a batch of images."""
  rng = np.random.default_rng(0)
  images = rng.normal(size=(8, 14, 14, 1)).astype(np.float32)
  with jax.numpy_dtype_promotion("standard"):
    params, stats = init(CNN(3, 4), jax.random.key(0))
  params, stats = jax.tree_util.tree_map_with_path(
    lambda path, x: (
      np.asarray(rng.uniform(0.5, 1.5, x.shape), np.float32)
      if "norm" in jax.tree_util.keystr(path)
      else x
    ),
    (params, stats),
  )
  return State(params, stats, None), images


@functools.partial(jax.jit, static_argnums=(0, 3))
def logits(model, state, images, train=False):
  variables = {"params": state.params, "batch_stats": state.batch_stats}
  return model.apply(variables, images, train=train, mutable=["batch_stats"])[0]


def test_removal_is_silence_of_the_channels(network, as_users):
  """What is left puts out what the whole puts out with these channels at 0."""
  state, images = network
  params = {k: dict(v) for k, v in state.params.items()}
  for i, gone in enumerate(GONE):
    for name in ("scale", "bias"):
      params[f"norm{i}"][name] = params[f"norm{i}"][name].copy()
      params[f"norm{i}"][name][gone] = 0.0
  silent = logits(CNN(3, 4), state._replace(params=params), images)
  left = remove(state, GONE)
  np.testing.assert_allclose(logits(CNN(3, 3), left, images), silent, atol=1e-5)
  whole = logits(CNN(3, 4), state, images)
  assert np.abs(whole - silent).max() > 0.1
  kernels = [left.params[f"conv{i}"]["kernel"].shape for i in range(3)]
  assert kernels == [(3, 3, 1, 3), (3, 3, 3, 3), (3, 3, 3, 3)]


def test_statistics_are_those_of_the_images(network, as_users):
  state, images = network
  again = statistics_of(CNN(3, 4), state, images)
  kernel = state.params["conv0"]["kernel"]
  out = jax.lax.conv_general_dilated(
    images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  found = again.batch_stats["norm0"]
  np.testing.assert_allclose(found["mean"], out.mean((0, 1, 2)), atol=1e-5)
  np.testing.assert_allclose(found["var"], out.var((0, 1, 2)), rtol=1e-4)
  # Every layer's: with them the network does what it does in training.
  in_training = logits(CNN(3, 4), state, images, True)
  np.testing.assert_allclose(logits(CNN(3, 4), again, images), in_training, atol=1e-4)
  assert again.params is state.params


def layer(neurons, scale=None, seed=(0,)):
  neurons = np.asarray(neurons, np.float32)
  scale = np.ones(len(neurons)) if scale is None else scale
  return Layer(neurons, np.asarray(scale), seed)


@pytest.mark.parametrize("half_space", [True, False])
def test_the_order_by_energy_is_greedy(half_space):
  """Against sums over all pairs in float64."""
  w = np.random.default_rng(1).normal(size=(6, 5)).astype(np.float32)
  units = w / np.linalg.norm(w.astype(float), axis=1, keepdims=True)
  left, expected = list(range(6)), []
  while left:
    t = units[left] @ units[left].T
    with np.errstate(divide="ignore"):
      pairs = 1.0 / (2.0 - 2.0 * t) + half_space / (2.0 + 2.0 * t)
    np.fill_diagonal(pairs, 0.0)
    expected.append(left.pop(int(np.argmax(pairs.sum(1)))))
  # Of the last two, both have the same energy.
  assert by_energy(layer(w), half_space=half_space).tolist()[:4] == expected[:4]


def test_of_two_that_are_alike_one_goes():
  """Of twins the smaller one; opposite neurons are alike in half-space only."""
  eye = np.eye(5)
  twins = layer([*eye, 0.5 * eye[2] + 0.01 * eye[0]])
  assert CRITERIA["twins"](twins)[0] == 5
  first, second = CRITERIA["energy"](twins)[:2]
  assert first in (2, 5) and second not in (2, 5)
  opposite = layer([*eye, -eye[2] + 0.01 * eye[0]])
  assert by_energy(opposite)[0] in (2, 5)
  assert by_energy(opposite, half_space=False)[0] not in (2, 5)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_order_names_every_channel_once(criterion):
  w = np.random.default_rng(2).normal(size=(6, 5))
  order = CRITERIA[criterion](layer(w))
  assert sorted(order) == list(range(6))
  again = CRITERIA[criterion](layer(w, seed=(1,)))
  assert (list(again) == list(order)) == (criterion != "random")


def test_magnitude_is_of_the_kernel_or_of_the_batch_norm():
  w = layer([[3.0, 4], [0, 1], [2, 0]], scale=[0.1, -0.9, 0.5])
  assert CRITERIA["norm"](w).tolist() == [1, 2, 0]
  assert CRITERIA["scale"](w).tolist() == [0, 2, 1]


@pytest.mark.parametrize("shares", [(0.3,), (0.0,), (1.0,)])
def test_shares_are_of_whole_channels(shares):
  with pytest.raises(InputError, match="shares must leave whole channels of 4"):
    Config(PRESETS["smoke"].training, shares)


def made_up(**better):
  """Runs whose errors are known: ``better`` says by how many points, by arm."""
  rng = np.random.default_rng(3)
  runs = []
  for seed in range(5):
    base = rng.normal(20.0, 5.0)
    for arm in ARMS:
      pruned = {name: [base, 90.0] for name in CRITERIA}
      pruned["energy"] = [base - better.get(arm, 0.0) + rng.normal(0, 0.1), 90.0]
      layers = {"conv0/kernel": 1.0}
      runs.append(
        {
          "config": {"shares": [0.25, 0.5]}, "arm": arm, "seed": seed,
          "test_error": 5.0, "pruned": {"kept": pruned, "estimated": pruned},
          "excess": layers, "smallest_angle": layers, "median_angle": layers,
        }
      )  # fmt: skip
  return runs


def test_the_report_pairs_by_seed_up_to_a_quarter():
  pairs = report.Pairs(made_up(without=1.0)[::-1])
  assert pairs.seeds == list(range(5))
  found = np.subtract(
    pairs.means("without", "kept", "energy"), pairs.means("without", "kept", "random")
  )
  np.testing.assert_allclose(found, -1.0, atol=0.4)
  line = report.blocks(pairs)["against random"].splitlines()[2].split(" | ")
  assert line[1] == "highest energy"
  assert line[2].startswith("**-") and not line[3].startswith("**")


def test_the_report_needs_pairs():
  runs = [r for r in made_up() if r["arm"] == "without" or r["seed"] == 0]
  with pytest.raises(InputError, match="two seeds or more of both arms"):
    report.Pairs(runs)


def test_a_run_is_made_once_and_reported(tmp_path, as_users, capsys):
  command.main("smoke", tmp_path / "runs")
  files = sorted((tmp_path / "runs").iterdir())
  names = [f"{arm}_seed{seed}.json" for arm in sorted(ARMS) for seed in (700, 701)]
  assert [path.name for path in files] == names
  run = json.loads(files[0].read_text())
  assert run["config"] == as_json(PRESETS["smoke"])
  for statistics in ("kept", "estimated"):
    errors = run["pruned"][statistics]
    assert list(errors) == list(CRITERIA)
    assert all(0 <= e <= 100 for row in errors.values() for e in row)
  assert list(run["excess"]) == [f"conv{i}/kernel" for i in range(3)]
  times = [path.stat().st_mtime_ns for path in files]
  command.main("smoke", tmp_path / "runs")
  assert [path.stat().st_mtime_ns for path in files] == times
  report.main(tmp_path / "runs", tmp_path)
  assert "## against random" in (tmp_path / "pruning.md").read_text()
  picture = tmp_path / "images" / "pruning.png"
  assert picture.read_bytes().startswith(b"\x89PNG")
  with pytest.raises(SystemExit):
    command.main("cpu", tmp_path / "runs")
  assert "other settings" in capsys.readouterr().out


def test_the_page_is_what_the_report_generates():
  page = (ROOT / "docs" / "pruning.md").read_text()
  runs = read(report.RESULTS)
  texts = report.blocks(report.Pairs(runs))
  assert fill(page, texts) == page
  assert page.count("<!-- end of ") == len(texts)
  assert runs[0]["config"] == as_json(PRESETS["cpu"])
