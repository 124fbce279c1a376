"""The pictures show what they say: against closed forms and known minima."""

import itertools
import json
import math
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special

from experiments.gallery import __main__ as command
from experiments.gallery import angles, excess, limits, plane, sphere
from experiments.kept import kept
from mhe_jax import Riesz, hyperspherical_energy

ROOT = pathlib.Path(__file__).parent.parent


def hexagonal_zeta(x):
  """Sum of |v|^(-2 x) over a hexagonal lattice of cells of area 1, by theta series."""
  i, j = np.mgrid[-6:7, -6:7].reshape(2, -1)
  q = np.pi * (i**2 + i * j + j**2)[(i != 0) | (j != 0)] * 2.0 / math.sqrt(3.0)

  def upper(a):
    return scipy.special.gammaincc(a, q) * math.gamma(a) * q**-a

  total = (upper(x) + upper(1.0 - x)).sum() + 1.0 / (x - 1.0) - 1.0 / x
  return total * math.pi**x / math.gamma(x)


@pytest.mark.parametrize("s", [0.5, 1.0, 1.5])
def test_the_second_term_is_the_energy_of_a_hexagonal_lattice(s):
  n = 100.0
  first = 0.5 * sphere_mean(s) * n**2
  # Of the sphere a point has the area 4 pi / n.
  second = 0.5 * hexagonal_zeta(s / 2.0) * (4.0 * math.pi / n) ** (-s / 2.0) * n
  assert limits.least_energy(n, s) == pytest.approx(first + second, rel=1e-10)


def sphere_mean(s):
  return 2.0 ** (1.0 - s) / (2.0 - s)


@pytest.mark.parametrize(("s", "least"), [(0.0, -127.378867615), (1.0, 412.261274651)])
def test_two_terms_are_close_to_the_minimum_of_32_points(s, least):
  first = limits.uniform_energy(3, Riesz(s)) * 32**2 / 2
  assert limits.least_energy(32, s) == pytest.approx(least, rel=2e-3)
  assert abs(first / least - 1.0) > 0.1  # One term is not.


def test_platonic_solids_reach_the_largest_distance():
  n = np.array([3.0, 4.0, 6.0, 12.0])
  edges = [3**0.5, (8 / 3) ** 0.5, 2**0.5, 4 / math.sqrt(10 + 2 * math.sqrt(5))]
  np.testing.assert_allclose(limits.largest_distance(n), edges, rtol=1e-12)


@pytest.mark.parametrize("d", [3, 9, 288])
def test_angles_of_random_directions_have_their_law(d):
  x = np.linspace(0.0, 180.0, 20_001)
  density = angles.random_density(x, d)
  assert scipy.integrate.simpson(density, x=x) == pytest.approx(1.0, rel=1e-9)
  # The mean square of the cosine is 1 / d.
  square = scipy.integrate.simpson(density * np.cos(np.radians(x)) ** 2, x=x)
  assert square == pytest.approx(1.0 / d, rel=1e-9)


def test_the_descent_falls_to_the_minimum():
  result = sphere.compute(**sphere.SETTINGS["smoke"])
  assert result["moments"][0] == 0 and result["moments"][-1] == 200
  for points, least in zip(result["sets"], (3.674234614, 9.985281374)):
    energies = points["energies"]
    assert energies[0] > 1.5 * least
    assert all(b <= a + 1e-5 for a, b in itertools.pairwise(energies))
    assert energies[-1] == pytest.approx(least, rel=1e-5)
    for energy, x in zip(energies, map(jnp.asarray, points["points"])):
      np.testing.assert_allclose(jnp.linalg.norm(x, axis=1), 1.0, atol=1e-3)
      again = hyperspherical_energy(x, Riesz(1.0), reduction="sum")
      assert float(again) == pytest.approx(energy, rel=1e-3)


def test_in_the_plane_half_space_spreads_lines():
  degrees = plane.compute(count=4)["degrees"]
  np.testing.assert_allclose(degrees["full"], [0, 90, 180, 270], atol=0.1)
  lines = np.sort((np.asarray(degrees["half"]) + 1.0) % 180.0) - 1.0
  np.testing.assert_allclose(lines, [0, 45, 90, 135], atol=0.1)


def test_the_excess_of_the_best_is_0_and_of_random_directions_1():
  result = excess.compute(**excess.SETTINGS["smoke"])
  cosines = [
    np.asarray(x["points"]) @ np.transpose(x["points"]) for x in result.values()
  ]
  tetrahedron = cosines[0][np.triu_indices(4, 1)]
  np.testing.assert_allclose(tetrahedron, -1.0 / 3.0, atol=1e-3)
  best, random, alike = (x["excess"] for x in result.values())
  assert best == pytest.approx(0.0, abs=1e-4) and random == pytest.approx(1.0, abs=0.2)
  assert alike > 1.5


def test_everything_is_drawn_and_computed_once(tmp_path, as_users):
  command.main("smoke", tmp_path)
  names = [f"gallery_{name}.png" for name in command.SUBJECTS]
  for name in names:
    assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
  assert (tmp_path / "gallery_sphere.gif").read_bytes().startswith(b"GIF89a")
  trained = json.loads((tmp_path / "angles.json").read_text())
  assert trained["dimensions"] == {"conv0/kernel": 9, "conv2/kernel": 36}
  for layers in trained["counts"].values():
    assert [sum(bins) for bins in layers.values()] == [6, 6]  # Pairs of 4 neurons.


def test_what_was_computed_is_computed_again_with_other_settings_only(tmp_path):
  calls = []

  def compute(pair, name):
    calls.append(name)
    return {"total": sum(pair)}

  for settings in 2 * [{"pair": (1, 2), "name": "a"}] + [{"pair": (1, 3), "name": "b"}]:
    found = kept(tmp_path / "sum.json", settings, compute)
    assert found["total"] == sum(settings["pair"])
    assert found == json.loads((tmp_path / "sum.json").read_text())
  assert calls == ["a", "b"]


@pytest.mark.parametrize("name", command.SUBJECTS)
def test_what_is_kept_has_the_settings_of_the_code(name):
  kept = json.loads((command.RESULTS / f"{name}.json").read_text())
  assert kept["settings"] == command.SUBJECTS[name].SETTINGS["cpu"]
  assert (ROOT / "docs" / "images" / f"gallery_{name}.png").exists()
  assert f"images/gallery_{name}." in (ROOT / "docs" / "gallery.md").read_text()


def test_the_animation_is_small():
  path = ROOT / "docs" / "images" / "gallery_sphere.gif"
  assert path.stat().st_size < 1_000_000
