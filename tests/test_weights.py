"""The experiment on weights: its formula, its networks, and its command."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import finish, start

import mhe_jax
from experiments.errors import InputError
from experiments.weights import data, forms, tables
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


def cell(errors):
  """A cell with one weight: the errors without the energy, and with it."""
  runs = [
    [{"test_error": e, "excess": [0.5, 1.5] if e else [None, None]} for e in arm]
    for arm in errors
  ]
  return {
    "arms": [
      {"form": "none", "weight": 0.0, "runs": runs[0]},
      {"form": "log", "weight": 0.1, "runs": runs[1]},
    ]
  }


def test_runs_that_diverge_count_as_chance_and_are_failures():
  results = {
    "a": cell([[50.0, 60.0], [40.0, 52.0]]),
    "b": cell([[50.0] * 2, [48.0, None]]),
  }
  _, without, log = tables.one_weight(results)
  assert without[:5] == ["none", "0", "+0.0", "+0.0", "0 of 4"]
  # -9 in a; in b -2 and +40.
  assert log[:5] == ["log", "0.1", "+5.0", "+19.0", "1 of 4"]
  _, a, b = tables.best_weights(results)
  assert a[-1].startswith("0.1: 46.0") and b[-1] == ""


def test_the_command_trains_goes_on_and_draws(tmp_path):
  options = ("weights", "--preset", "smoke", "--output", tmp_path)
  assert "One weight in all cells" in finish(start(*options, "--jobs", "2"))
  names = {c.name for c in PRESETS["smoke"].cells}
  paths = {path.stem: path for path in tmp_path.glob("*.json")}
  assert set(paths) == names
  for path in paths.values():
    arms = json.loads(path.read_text())["arms"]
    none, *others = (arm["runs"][0] for arm in arms)
    for run in others:  # From the same network, to different ones.
      assert run["initial_excess"] == none["initial_excess"]
      assert sum(run["excess"]) < sum(none["excess"])
  for name in ("excess.png", "error.png"):
    assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
  # What is finished stays, and what is not is trained to the same numbers.
  kept, lost = paths["mlp_x1_s2_half"], paths["vit_x1_s2_half"]
  before, stamp = json.loads(lost.read_text()), kept.stat().st_mtime_ns
  lost.unlink()
  finish(start(*options))
  assert kept.stat().st_mtime_ns == stamp
  assert json.loads(lost.read_text())["arms"] == before["arms"]
  text = finish(start("weights", "--preset", "cpu", "--output", tmp_path), 2)
  assert "must have the settings of this preset, got others" in text
