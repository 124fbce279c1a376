"""The page that compares the energy with other methods: claims, runs and text."""

import json
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.alternatives import __main__ as command
from experiments.alternatives import minima, report, training
from experiments.report.pages import fill
from mhe_jax import (
  KoLeo,
  LogDet,
  Orthonormality,
  Riesz,
  Separation,
  hyperspherical_energy,
  nearest_neurons,
  relative_excess,
)

ROOT = pathlib.Path(__file__).parent.parent
D = 8
BASIS = np.eye(D)
COPIES = np.concatenate([BASIS, BASIS])
CROSS = np.concatenate([BASIS, -BASIS])


def test_two_copies_of_a_basis_are_optimal_for_orthonormality_alone(key):
  """Sum of squared cosines, the diagonal too: at least n^2 / d, here 2 n."""
  n = 2 * D
  least, _ = Orthonormality().scale(n, D)
  assert least == pytest.approx((n**2 / D - n) / (n * (n - 1)), rel=1e-12)
  random = jax.random.normal(key, (n, D))
  assert float(Orthonormality()(random)) > 1.5 * least
  for tight in (COPIES, CROSS):
    assert float(Orthonormality()(tight)) == pytest.approx(least, rel=1e-9)
    np.testing.assert_allclose(jax.grad(Orthonormality())(tight), 0.0, atol=1e-12)
  # In full space the energy tells copies from antipodes; the latter are its optimum.
  energies = [float(hyperspherical_energy(w, Riesz(2.0))) for w in (COPIES, CROSS)]
  expected = ((n - 2) / 2 + 1 / 4) / (n - 1)  # At squared distances 2 and 4.
  assert energies[1] == pytest.approx(expected, rel=1e-9)
  assert energies[0] > 1e4 * energies[1]
  # In half-space they are the same redundancy.
  half = [relative_excess(w, Riesz(2.0), half_space=True) for w in (COPIES, CROSS)]
  assert float(half[0]) == pytest.approx(float(half[1]), rel=1e-6)
  assert float(half[0]) > 1e3


@pytest.mark.parametrize(
  "objective", [Riesz(2.0), KoLeo(), Separation("min"), LogDet()]
)
def test_in_full_space_a_simplex_is_better_than_orthogonal_neurons(objective):
  simplex = BASIS[:4] - BASIS[:4].mean(0)
  values = [
    float(hyperspherical_energy(w, objective))
    if isinstance(objective, Riesz)
    else float(objective(w))
    for w in (simplex, BASIS[:4])
  ]
  assert values[0] < values[1] - 1e-3
  squares = [float(Orthonormality()(w)) for w in (simplex, BASIS[:4])]
  np.testing.assert_allclose(squares, [1 / 9, 0.0], atol=1e-12)


@pytest.mark.parametrize("shape", [(5, 8), (12, 8)])
def test_double_soft_orthogonality_is_soft_orthogonality_twice(shape, key):
  w = np.asarray(jax.random.normal(key, shape))
  n, d = shape
  rows, columns = (
    np.sum((g - np.eye(len(g))) ** 2) for g in (w @ w.T, w.T @ w)
  )  # fmt: skip
  assert rows - columns == pytest.approx(n - d, rel=1e-9)


def test_soft_orthogonality_of_many_neurons_may_leave_some_at_zero():
  """Its least value is n - d; that of a tight frame of equal norms is the same."""
  zeros = np.concatenate([BASIS, np.zeros((D, D))])
  for w in (zeros, COPIES / 2**0.5):
    assert np.sum((w @ w.T - np.eye(2 * D)) ** 2) == pytest.approx(D, rel=1e-12)


def test_srip_of_many_neurons_is_indifferent_up_to_the_square_root_of_two(key):
  w = np.asarray(jax.random.normal(key, (2 * D, D)))
  w = 2**0.5 * w / np.linalg.norm(w, 2)
  for factor in (0.0, 0.5, 1.0):
    deviation = np.linalg.norm(factor**2 * w @ w.T - np.eye(2 * D), 2)
    assert deviation == pytest.approx(1.0, rel=1e-9)
  assert np.linalg.norm(1.01 * w @ w.T - np.eye(2 * D), 2) > 1.01


@pytest.mark.parametrize("shape", [(5, 8), (12, 8), (20, 8)])
def test_isometry_is_the_norm_of_the_gram_matrix_minus_one(shape, key):
  w = jax.random.normal(key, shape)
  units = np.asarray(w / jnp.linalg.norm(w, axis=1, keepdims=True))
  expected = np.linalg.norm(units @ units.T - np.eye(len(units)), 2)
  assert float(minima.Isometry()(w)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("half_space", [False, True])
def test_an_orthogonal_map_of_all_neurons_keeps_the_energy(half_space, key):
  w = jax.random.normal(key, (12, D))
  a = jax.random.normal(jax.random.fold_in(key, 1), (D, D))
  rotation = jnp.linalg.solve(jnp.eye(D) + a - a.T, jnp.eye(D) - a + a.T)  # Cayley.
  np.testing.assert_allclose(rotation @ rotation.T, np.eye(D), atol=1e-12)
  before, after = (
    float(hyperspherical_energy(x, Riesz(2.0), half_space=half_space))
    for x in (w, w @ rotation.T)
  )
  assert after == pytest.approx(before, rel=1e-12)
  mixed = a[:, :1] * w[:D] + w[4:]  # Not an orthogonal map.
  assert float(hyperspherical_energy(mixed, Riesz(2.0))) != pytest.approx(before)


def test_spectral_normalization_changes_no_cosine(key, as_users):
  layer = nn.SpectralNorm(nn.Dense(12, use_bias=False))
  variables = layer.init(key, jnp.zeros((1, D)), update_stats=False)
  (kernel,) = jax.tree.leaves(variables["params"])
  for _ in range(100):
    _, stats = layer.apply(
      variables, jnp.zeros((1, D)), update_stats=True, mutable=["batch_stats"]
    )
    variables = {**variables, **stats}
  normalized = layer.apply(variables, jnp.eye(D), update_stats=False)
  assert float(jnp.linalg.norm(normalized, 2)) == pytest.approx(1.0, rel=1e-3)
  ratio = normalized / kernel
  np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-5)


def test_updates_of_muon_are_nearly_orthogonal_and_its_weights_are_not(key, as_users):
  params = {"kernel": jax.random.normal(key, (3, 3, 4, 8))}
  grads = {"kernel": jax.random.normal(jax.random.fold_in(key, 1), (3, 3, 4, 8))}
  tx = training.optimizer("muon", 100, 1.0, 0.1, 0.01)
  state = tx.init(params)
  for _ in range(2):  # The first step of the warm-up is none.
    updates, state = jax.jit(tx.update)(grads, state, params)
  rate = 0.1  # Of the second step of the ten.
  sizes = [
    np.linalg.svd(np.asarray(x["kernel"]).reshape(36, 8), compute_uv=False)
    for x in (updates, grads, optax.apply_updates(params, updates))
  ]
  assert sizes[0][-1] / rate > 0.6 and sizes[0][0] / rate < 1.3
  assert sizes[1][0] / sizes[1][-1] > 1.8
  assert sizes[2][0] / sizes[2][-1] > 1.8


def test_copies_start_about_a_degree_apart():
  x = minima.start_of("copies", 32, 16, 0)
  angles, indices = nearest_neurons(x)
  np.testing.assert_array_equal(indices[:, 0], (np.arange(32) + 16) % 32)
  assert 0.7 < float(jnp.degrees(angles).mean()) < 1.3


def test_descent_finds_the_optimum_from_copies_but_orthonormality_keeps_them():
  starts = jnp.stack([minima.start_of("copies", 8, 4, seed) for seed in range(2)])
  found = minima.minimize(minima.OBJECTIVES["energy, s = 2"], starts, False, 800)
  kept = minima.minimize(Orthonormality(), starts, False, 800)
  # The cross-polytope: squared distances 2 and, once for each, 4.
  energy = hyperspherical_energy(found, Riesz(2.0))
  np.testing.assert_allclose(energy, (6 / 2 + 1 / 4) / 7, rtol=1e-3)
  least, _ = Orthonormality().scale(8, 4)
  np.testing.assert_allclose(Orthonormality()(kept), least, rtol=1e-3)
  angles = jnp.degrees(nearest_neurons(kept)[0].min((1, 2)))
  assert float(angles.max()) < 20.0


def made_up(with_energy):
  """Results of four seeds, which differ by a constant and a little noise."""
  noise = [0.0, 0.1, 0.2, 0.1]
  runs = {
    arm: {
      "test_error": [10.0 + (with_energy if arm == "energy" else 0.0) + i + e
                     for i, e in enumerate(noise if arm == "energy" else [0.0] * 4)],
      "excess": [1.0] * 4,
    }
    for arm in training.ARMS
  }  # fmt: skip
  return runs, {"ratio": dict.fromkeys(training.ARMS, 1.25)}


def test_the_table_compares_seeds_with_themselves():
  table = report.trained(*made_up(with_energy=-2.0))
  lines = {line.split(" | ")[0]: line for line in table.splitlines()}
  assert "**-1.90** (" in lines["| energy, s = 2"] and "1.25 |" in lines["| Muon"]
  assert "+0.00" in lines["| KoLeo"] and "**" not in lines["| KoLeo"]


def test_everything_is_computed_once_and_reported(tmp_path, as_users):
  command.main("smoke", tmp_path)
  kept = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
  names = {f"training_{arm}.json" for arm in training.ARMS}
  assert set(kept) == names | {"minima.json", "muon_rates.json", "cost.json"}
  for name in ("alternatives", "alternatives_training"):
    picture = tmp_path / "images" / f"{name}.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
  run = json.loads((tmp_path / "training_spectral.json").read_text())
  assert len(run["test_error"]) == len(run["excess"]) == 2
  assert all(0 <= error <= 100 for error in run["test_error"])
  page = (tmp_path / "alternatives.md").read_text()
  assert "6 neurons in 4 dimensions" in page
  command.main("smoke", tmp_path)
  assert kept == {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*.json")}
  assert (tmp_path / "alternatives.md").read_text() == page


def test_the_page_is_what_the_command_writes():
  results = command.read(command.RESULTS)
  page = (ROOT / "docs" / "alternatives.md").read_text()
  texts = report.blocks(results)
  assert fill(page, texts) == page
  assert page.count("<!-- end of ") == len(texts)
  settings = results["runs"]["without"]["settings"]
  assert {**training.SETTINGS["cpu"], "arm": "without"} == settings
  assert results["minima"]["settings"] == minima.SETTINGS["cpu"]
  for name in ("alternatives", "alternatives_training"):
    assert (ROOT / "docs" / "images" / f"{name}.png").exists()
    assert f"images/{name}.png" in page
