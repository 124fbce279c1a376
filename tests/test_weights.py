"""The experiment on weights: its formula, its networks, and its command."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import finish, start

import mhe_jax
from experiments.errors import InputError
from experiments.weights import data, forms, tables
from experiments.weights.__main__ import main, put
from experiments.weights.cells import groups_of
from experiments.weights.networks import RULES, build
from experiments.weights.presets import FORMS, PRESETS
from mhe_jax import Riesz

SHAPES = {"wide": (5, 9), "many": (12, 6), "head/kernel": (4, 7)}
RULES_OF_SHAPES = [mhe_jax.LayerRule("head/kernel", role="output")]


def matrices_of(dtype=np.float32):
  rng = np.random.default_rng(0)
  return {p: jnp.asarray(rng.normal(size=s), dtype) for p, s in SHAPES.items()}


def scales_of(s, space):
  scales = forms.scales(SHAPES, s, space, "head/kernel")
  return forms.Scales(*(jnp.asarray(x) for x in scales))


@pytest.mark.parametrize("space", ["half", "full"])
@pytest.mark.parametrize("s", [0.0, 1.0, 2.0])
def test_the_formula_is_the_library_s(s, space):
  matrices, half = matrices_of(), space == "half"

  def with_library(matrices, form):
    params = {path: {"kernel": w.T} for path, w in matrices.items()}
    params["head"] = params.pop("head/kernel")
    energies = mhe_jax.layer_energies(
      params, Riesz(s), half_space=half, rules=RULES_OF_SHAPES
    )
    if form == "mean":
      return sum(energies.values())
    excess = jnp.stack(
      [
        mhe_jax.relative_excess(w, Riesz(s), half_space=half and path != "head/kernel")
        for path, w in matrices.items()
      ]
    )
    return excess.sum() if form == "relative" else jnp.log1p(excess).sum()

  for i, form in enumerate(FORMS):
    weights = jnp.zeros(len(FORMS), jnp.float32).at[i].set(1.0)
    ours = jax.jit(jax.value_and_grad(forms.regularizer))(
      matrices, scales_of(s, space), weights
    )
    theirs = jax.value_and_grad(with_library)(matrices, form)
    jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), ours, theirs
    )


def test_equal_neurons_and_zeros_have_finite_gradients():
  w = jnp.ones((3, 8), jnp.float32).at[2].set(0.0)
  scales = forms.scales({"w": w.shape}, 2.0, "half", "head/kernel")
  gradients = jax.grad(forms.regularizer)(
    {"w": w},
    forms.Scales(*(jnp.asarray(x) for x in scales)),
    jnp.ones(len(FORMS), jnp.float32),
  )
  assert jnp.isfinite(gradients["w"]).all()


@pytest.mark.parametrize("network", ["mlp", "cnn", "cnn-bn", "resnet", "vit"])
def test_every_layer_of_a_network_is_read(network, as_users):
  model = build(network, 1)
  image = jax.ShapeDtypeStruct((1, 16, 16, 3), np.float32)
  params = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=True), image)
  layers = jax.eval_shape(lambda p: mhe_jax.neuron_matrices(p, RULES), params["params"])
  kernels = [
    path
    for path, x in jax.tree_util.tree_leaves_with_path(params["params"])
    if path[-1].key == "kernel"
  ]
  assert len(layers) == len(kernels)
  assert layers["head/kernel"].shape[0] == 10


def test_a_convolution_is_flax_s(as_users):
  import flax.linen as nn

  from experiments.weights.networks import Conv

  x = jax.random.normal(jax.random.key(0), (2, 6, 8, 3))
  ours = Conv(5)
  variables = ours.init(jax.random.key(1), x)
  theirs = nn.Conv(5, (3, 3), use_bias=False)
  np.testing.assert_allclose(
    ours.apply(variables, x), theirs.apply(variables, x), rtol=1e-4, atol=1e-5
  )


def test_cells_of_a_program_are_together_and_wide_ones_first():
  groups = groups_of(PRESETS["accelerator"].cells)
  assert [len(group) for group in groups] == [4] * 10
  assert [group[0].width for group in groups] == [8] * 5 + [1] * 5
  for group in groups:
    assert len({(cell.network, cell.width) for cell in group}) == 1
    assert len({cell.name for cell in group}) == 4


def images(n=40, channels=3):
  rng = np.random.default_rng(0)
  return data.Images(
    rng.integers(0, 256, (n, 16, 16, channels), np.uint8),
    np.arange(n, dtype=np.int32) % 10,
    rng.integers(0, 256, (n, 16, 16, channels), np.uint8),
    np.arange(n, dtype=np.int32) % 10,
    "noise",
  )


def test_images_come_back_from_a_file(tmp_path):
  data.write(images(), tmp_path / "images.npz", 30, 20)
  read = data.read("cifar10", None, tmp_path / "images.npz")
  assert read.source == "noise"
  assert len(read.images) == len(read.labels) == 30 and len(read.test_labels) == 20
  np.testing.assert_array_equal(read.images, images().images[:30])
  (tmp_path / "other.npz").write_text("no images")
  with pytest.raises(InputError, match="images must be a file of images, got"):
    data.read("cifar10", None, tmp_path / "other.npz")


def test_digits_are_made_small_and_shuffled():
  digits = data.read("digits", None, None)
  assert digits.images.shape[1:] == (16, 16, 1) and digits.images.dtype == np.uint8
  assert len(set(digits.labels[:50].tolist())) == 10
  from experiments.data import load

  # Means of 2 x 2, so the sum of all pixels is a quarter of what it was.
  before, after = (x.astype(float).sum() for x in (load().train.images, digits.images))
  assert after == pytest.approx(before / 4, rel=1e-3)


def cell(errors, **config):
  """A cell with weights of log: the errors without the energy, and with each weight."""
  runs = [
    [{"test_error": e, "excess": [0.5, 9.0, 1.5] if e else [None] * 3} for e in arm]
    for arm in errors
  ]
  arms = [("none", 0.0), ("log", 0.1), ("log", 1.0)]
  return {
    "config": {"network": "mlp", "width": 1, "space": "half", "s": 2.0, **config},
    "layers": {"a": [2, 3], "head/kernel": [2, 3], "z": [2, 3]},
    "arms": [{"form": f, "weight": w, "runs": r} for (f, w), r in zip(arms, runs)],
  }


def test_runs_that_diverge_count_as_chance_and_are_failures():
  results = {
    "a": cell([[50.0, 60.0], [40.0, 52.0]]),
    "b": cell([[50.0] * 2, [48.0, None]]),
  }
  _, without, log = tables.one_weight(results)
  assert without[:4] == ["none", "0", "+0.0 ± 0.0", "0 (0)"]
  # -10 and -8 in a; -2 and +40 in b: -6 and +16 in the mean over the cells.
  changes = ["+5.0 ± 15.6", "1 (1)", "1 (0)", "+19.0", "1 of 4"]
  # Of the hidden layers alone, and of the runs that did not diverge.
  assert log == ["log", "0.1", *changes, "1", "0.5 to 1.5", "1.5"]


def test_parts_of_the_cells_have_rows():
  results = {
    "a": cell([[50.0, 60.0], [40.0, 52.0], [45.0, 58.0]]),
    "b": cell([[50.0, 52.0], [48.0, 51.0], [46.0, 52.0]], width=8, space="full"),
  }
  header, *rows = tables.where(results)
  assert header == ["cells", "without", "log, 0.1"]
  assert [row[0] for row in rows] == [
    *("mlp x 1", "mlp x 8", "widths x 1", "widths x 8"),
    *("half, s = 2", "full, s = 2"),
  ]
  assert rows[1][1:] == ["51.0 ± 1.4", "-1.5 ± 0.7"]
  assert list(tables.remains(results))[1:] == [["mlp", "1, 1", "1, 1"]]


def test_a_weight_is_chosen_by_the_other_seeds():
  # By the second seed 0.1 is better in a (-8) and 1 in b (-6); by the first, 1 in both.
  results = {
    "a": cell([[50.0, 60.0], [46.0, 52.0], [40.0, 61.0]]),
    "b": cell([[50.0, 60.0], [48.0, 57.0], [46.0, 54.0]]),
  }
  _, log = tables.choices(results)
  # All cells: -8 and -3 with 0.1, judged by the first seed: -4, -2; then 1: +1, -6.
  assert log[:3] == ["log", "0.1, 1", "-2.8 ± 0.4"]
  # In a: 0.1, -4, then 1, +1; in b: 1, -4, then 1, -6.
  assert log[3] == "-3.2 ± 1.1"


def test_tables_take_their_place_in_a_page(tmp_path):
  page = tmp_path / "page.md"
  put("first", page)
  page.write_text(f"before\n{page.read_text()}after\n")
  put("second", page)
  lines = page.read_text().splitlines()
  assert lines[0] == "before" and lines[-1] == "after"
  assert "second" in lines and "first" not in lines
  page.write_text("no place")
  with pytest.raises(InputError, match="page must have <!-- one weight -->"):
    put("third", page)
  assert page.read_text() == "no place"


def test_the_page_states_the_committed_results(tmp_path):
  root = pathlib.Path(__file__).parents[1]
  results = root / "experiments" / "results" / "weights"
  committed = (root / "docs" / "weights.md").read_text()
  page = tmp_path / "weights.md"
  page.write_text(committed)
  nowhere = tmp_path / "images.npz"  # All is trained: no images are read.
  main("accelerator", results, pictures=tmp_path, page=page, images=nowhere)
  assert page.read_text() == committed
  cells = {cell.name for cell in PRESETS["accelerator"].cells}
  assert {path.stem for path in results.iterdir()} == cells
  for name in ("weights_excess.png", "weights_error.png"):
    assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_the_command_trains_goes_on_and_draws(tmp_path):
  options = ("weights", "--preset", "smoke", "--output", tmp_path)
  assert "A cell is a network" in finish(start(*options, "--jobs", "2"))
  names = {c.name for c in PRESETS["smoke"].cells}
  paths = {path.stem: path for path in tmp_path.glob("*.json")}
  assert set(paths) == names
  for path in paths.values():
    arms = json.loads(path.read_text())["arms"]
    none, *others = (arm["runs"][0] for arm in arms)
    for run in others:  # From the same network, to different ones.
      assert run["initial_excess"] == none["initial_excess"]
      assert sum(run["excess"]) < sum(none["excess"])
  for name in ("weights_excess.png", "weights_error.png"):
    assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
  # What is finished stays, and what is not is trained to the same numbers.
  kept, lost = paths["vit_x1_s2_half"], paths["mlp_x1_s2_half"]
  before, stamp = json.loads(lost.read_text()), kept.stat().st_mtime_ns
  lost.unlink()
  finish(start(*options))
  assert kept.stat().st_mtime_ns == stamp
  assert json.loads(lost.read_text())["arms"] == before["arms"]
  text = finish(start("weights", "--preset", "cpu", "--output", tmp_path), 2)
  assert "must have the settings of this preset, got others" in text
