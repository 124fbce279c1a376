"""The room of directions: truths, forms, the command and its page."""

import pathlib

import numpy as np
import pytest

from experiments.data.photographs import read_photographs
from experiments.directions import __main__ as command
from experiments.directions import bits, harmonics, report, wasserstein
from experiments.directions.sets import (
  ENERGY,
  directions,
  fibonacci,
  forms_of,
  orthogonal_blocks,
  tight_frame,
)
from experiments.report.pages import fill
from mhe_jax import Orthonormality, Riesz, hyperspherical_energy

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture
def rng():
  return np.random.default_rng(0)


# --- Sets.


@pytest.mark.parametrize(("form", "d"), [(f, d) for d in (3, 5) for f in forms_of(d)])
def test_sets_are_of_unit_vectors_and_of_their_seed(form, d):
  found = [directions(form, 12, d, seed) for seed in (0, 1)]
  assert found[0].shape == (12, d)
  np.testing.assert_allclose(np.linalg.norm(found[0], axis=1), 1.0, atol=1e-6)
  assert not np.allclose(*found, atol=0.1)


def test_the_tight_frame_is_the_optimum_of_orthonormality(rng):
  units = tight_frame(32, 5, rng)
  least, random = Orthonormality().scale(32, 5)
  assert float(Orthonormality()(units)) - least < 1e-9 * (random - least)


def test_blocks_are_orthogonal_and_the_last_is_cut(rng):
  units = orthogonal_blocks(8, 3, rng)
  for block in (units[:3], units[3:6], units[6:]):
    np.testing.assert_allclose(block @ block.T, np.eye(len(block)), atol=1e-12)


def test_the_spiral_spreads_lines_better_than_chance(rng):
  independent = rng.standard_normal((64, 3))
  energies = [
    float(hyperspherical_energy(x, Riesz(1.0), half_space=True))
    for x in (directions(ENERGY, 64, 3, 0), fibonacci(64), fibonacci(64, half=True))
  ]
  assert energies[0] < min(energies[1:])
  chance = float(hyperspherical_energy(independent, Riesz(1.0), half_space=True))
  assert max(energies) < chance
  assert fibonacci(64, half=True)[:, 2].min() > 0.0 > fibonacci(64)[:, 2].min()


def test_an_unknown_form_is_named():
  with pytest.raises(ValueError, match="'spiral'"):
    directions("spiral", 8, 3, 0)


# --- Sliced Wasserstein distances.


@pytest.mark.parametrize("d", [3, 5])
def test_distance_of_two_gaussians_is_that_of_the_closed_form(d, rng):
  """Equal shapes, c times as large: |m|^2 / d + (c - 1)^2 trace(S) / d."""
  scales, mean = np.linspace(0.5, 1.5, d), np.linspace(0.0, 1.0, d)
  points = rng.standard_normal((2, 4000, d)) * scales
  points[1] = 3.0 * points[1] + mean
  units = orthogonal_blocks(40 * d, d, rng)
  (found,) = wasserstein.squared_distances(points, units)
  expected = (np.sum(mean**2) + 4.0 * np.sum(scales**2)) / d
  assert found == pytest.approx(expected, rel=0.05)  # Of a sample of this size.


@pytest.mark.parametrize("form", ["orthogonal blocks", "tight frame"])
def test_a_translation_is_integrated_without_error(form, rng):
  """Its slices are squares of a linear function, which tight frames integrate."""
  points = np.stack([rng.standard_normal((50, 3)), np.zeros((50, 3))])
  points[1] = points[0] + np.array([1.0, -2.0, 2.0])
  true = np.sqrt(np.array([9.0 / 3.0]))
  assert wasserstein.error_of(points, directions(form, 12, 3, 0), true) < 1e-4
  assert wasserstein.error_of(points, directions("independent", 12, 3, 0), true) > 1.0


def test_the_product_rule_integrates_even_polynomials():
  units, weights = wasserstein.product_rule(400)
  rings = units.reshape(len(weights), -1, 3)
  for power in (2, 4, 6):
    found = weights @ np.mean(rings @ np.array([0.6, 0.0, 0.8]), 1) ** 0
    assert found == pytest.approx(1.0, rel=1e-12)
    found = weights @ np.mean((rings @ np.array([0.6, 0.0, 0.8])) ** power, 1)
    assert found == pytest.approx(1.0 / (power + 1), rel=1e-12)


def test_both_truths_agree():
  """Two rules, of colors: what is taken for the truth is none of the forms."""
  points = wasserstein.clouds(wasserstein.COLORS, 3, 40)
  rule = wasserstein.truth(wasserstein.COLORS, 3, 40, 4000)
  blocks = orthogonal_blocks(12_000, 3, np.random.default_rng(1))
  assert wasserstein.error_of(points, blocks, rule) < 0.3  # Percent: chance, of these.
  assert wasserstein.error(1.01 * rule, rule) == pytest.approx(1.0)


def test_principal_components_are_those_of_a_singular_value_decomposition(rng):
  x = rng.standard_normal((40, 6)) * np.arange(1.0, 7.0)
  left, sizes, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
  found = wasserstein.principal_components(x, 3)
  np.testing.assert_allclose(np.abs(found), np.abs((left * sizes)[:, :3]), atol=1e-9)


# --- Harmonics and bits.


def test_harmonics_are_orthonormal_and_even():
  units, weights = wasserstein.product_rule(400)
  values = harmonics.even_harmonics(units, 6)
  assert values.shape[1] == 28
  rings = values.reshape(len(weights), -1, 28)
  gram = np.einsum("r,rai,raj->ij", weights / rings.shape[1], rings, rings)
  np.testing.assert_allclose(4.0 * np.pi * gram, np.eye(28), atol=1e-10)
  np.testing.assert_allclose(harmonics.even_harmonics(-units, 6), values, atol=1e-10)


def test_the_condition_number_of_the_icosahedron_is_one():
  """Its six lines are a design: they integrate products of degree 2 exactly."""
  golden = (1.0 + 5.0**0.5) / 2.0
  lines = np.array([[0, 1, golden], [0, 1, -golden]]) / np.sqrt(1.0 + golden**2)
  lines = np.concatenate([np.roll(lines, shift, 1) for shift in range(3)])
  values = harmonics.even_harmonics(lines, 2)
  assert np.linalg.cond(values) == pytest.approx(1.0, abs=1e-9)


def test_bits_tell_angles_if_there_are_many(rng):
  x = rng.standard_normal((2, 4))
  x /= np.linalg.norm(x, axis=1, keepdims=True)
  units = directions("independent", 40_000, 4, 0)
  one, other = (bits.codes(row[None], units) for row in x)
  expected = np.arccos(x[0] @ x[1])
  assert bits.angles(one, other)[0, 0] == pytest.approx(expected, abs=0.02)
  assert bits.angles(one, -one)[0, 0] == pytest.approx(np.pi)


def test_recall_counts_common_neighbors():
  true = np.array([[0, 1], [2, 3]])
  assert bits.recall(np.array([[1, 7], [3, 2]]), true) == 75.0
  np.testing.assert_array_equal(bits.nearest(np.array([[2.0, 1, 1]]), 2), [[1, 2]])


# --- Data, command, page.


def test_photographs_are_in_color():
  photographs = read_photographs()
  assert len(photographs) == 3
  for photograph in photographs:
    assert photograph.dtype == np.uint8 and photograph.shape[-1] == 3
    assert photograph.std((0, 1)).min() > 20.0


def test_command_computes_once_and_writes_a_page(tmp_path, capsys):
  command.main("smoke", tmp_path)
  first = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
  assert {path.stem for path in first} == set(command.TASKS)
  command.main("smoke", tmp_path)
  assert {path: path.stat().st_mtime_ns for path in first} == first
  found = command.read(tmp_path)
  texts = report.blocks(found)
  page = (tmp_path / "directions.md").read_text()
  assert all(text in page for text in texts.values())
  assert (tmp_path / "images/directions.png").stat().st_size > 5000
  assert "Wrote" in capsys.readouterr().out


def test_the_best_rival_is_the_best_of_the_others():
  values = {ENERGY: [0.0, 0.0], "independent": [3.0, 5.0], "tight frame": [1.0, 2.0]}
  assert report.best_rival(values) == "tight frame"
  assert report.best_rival(values, largest=True) == "independent"


def test_the_page_is_what_the_report_generates():
  page = (ROOT / "docs/directions.md").read_text()
  found = command.read(command.RESULTS)
  texts = report.blocks(found)
  assert fill(page, texts) == page
  assert page.count("<!-- end of ") == len(texts)
  for name, result in found.items():
    assert result["settings"] == command.TASKS[name].SETTINGS["cpu"]
    assert result["versions"]["clean"]
