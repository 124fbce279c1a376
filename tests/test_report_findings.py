"""What a report says of a model: what is unusual, and what to do; its pictures."""

import dataclasses
import json

import numpy as np
import pytest
from sets import normal

from mhe_jax import Riesz
from mhe_jax.report import redundancy
from mhe_jax.report.findings import likes
from mhe_jax.report.plots import plot_angles
from mhe_jax.report.typical import kind_of, typical


def stack(changed=None, blocks=6):
  """A stack of trained-like blocks: some directions are stronger, in all alike."""
  tensors = {"embed_tokens.weight": normal(40, 24, seed=99), "norm.weight": np.ones(24)}
  for i in range(blocks):
    scale = np.where(np.arange(24) < 4, 3.0, 1.0)
    tensors[f"layers.{i}.up.weight"] = normal(48, 24, seed=i) * scale
    tensors[f"layers.{i}.down.weight"] = normal(24, 48, seed=100 + i)
  return {**tensors, **(changed or {})}


def test_trained_layers_alone_are_nothing_unusual():
  report = redundancy(stack())
  assert report.findings == () and "12 layers" not in report.summary
  assert report.summary.startswith("13 layers, nothing unusual. Against random ")
  assert "6 more redundant, as trained layers are" in report.summary


def test_a_layer_unlike_those_of_its_role():
  scale = np.where(np.arange(24) < 2, 9.0, 1.0)
  odd = {"layers.3.up.weight": normal(48, 24, seed=3) * scale}
  report = redundancy(stack(odd))
  (finding,) = report.findings
  assert finding.name == "layers.3.up.weight"
  assert "where the 5 layers like it have" in finding.what
  assert "prune twins" in finding.advice or "look at neurons" in finding.advice
  assert str(finding) in report.summary
  assert json.loads(report.to_json())["findings"][0]["name"] == finding.name
  # Three of a role are too few to say what is usual; a diverse one needs nothing.
  assert not redundancy(stack(odd, blocks=3)).findings[:0]
  diverse = {"layers.2.up.weight": np.linalg.qr(normal(48, 48))[0][:, :24]}
  (finding,) = redundancy(stack(diverse)).findings
  assert finding.advice.startswith("nothing to do")


def test_neurons_that_are_one_and_neurons_that_are_dead():
  w = normal(24, 48, seed=100)
  w[7] = -2.0 * w[3]
  w[5] = 0.0
  report = redundancy(stack({"layers.0.down.weight": w}))
  dead, twin = report.findings[:2]
  assert (dead.what, dead.advice) == ("1 of 24 neurons are zero", "prune them")
  assert twin.what.startswith("neurons 3 and 7 are ") and "can go" in twin.advice


def test_tables_of_two_rows_do_not_lead():
  tables = {"token_type_embeddings.weight": np.ones((2, 24)) + 0.01 * normal(2, 24)}
  report = redundancy(stack(tables))
  assert report["token_type_embeddings.weight"].relative_excess > 3
  assert report.rows[-1].name == "token_type_embeddings.weight"
  assert not report.findings


def test_likes():
  assert likes("layers.10.up.weight") == likes("layers.2.up.weight") != likes("up.1")


# --- published models --------------------------------------------------------------


def test_the_table_of_published_layers():
  row = redundancy(stack())["layers.0.up.weight"]
  assert kind_of(row) == "widening"
  for s in (1.0, 2.0):
    for kind in ("convolution", "recurrent"):
      like = dataclasses.replace(row, read_as=kind, potential=str(Riesz(s)))
      _check_typical(typical(like))
    for n in (12, 24, 48):  # It narrows, is square, widens.
      _check_typical(typical(dataclasses.replace(row, n=n, potential=str(Riesz(s)))))
  assert typical(dataclasses.replace(row, potential=str(Riesz(0.5)))) is None


def _check_typical(found):
  assert found is not None and found.num_layers >= 5
  assert 0.3 < found.low < found.high <= found.most


# --- pictures ------------------------------------------------------------------------


def test_pictures():
  report = redundancy(stack())
  ax = report.plot()
  assert len(ax.patches) == len(report)
  heights = sorted(patch.get_width() for patch in ax.patches)
  np.testing.assert_allclose(heights, sorted(row.relative_excess for row in report))
  ax = report.plot("layers.0.down.weight")
  (line,) = ax.get_lines()
  x, y = line.get_data()
  assert np.trapezoid(y, x) == pytest.approx(1.0, abs=1e-3)
  with pytest.raises(KeyError):
    report.plot("nothing")


@pytest.mark.parametrize("half_space", [True, False])
@pytest.mark.parametrize("d", [2, 3, 40])
def test_random_directions_follow_the_law_that_is_drawn(half_space, d):
  ax = plot_angles(normal(1, 900, d), half_space=half_space)
  x, y = ax.get_lines()[0].get_data()
  edges = np.array([p.get_x() + p.get_width() / 2 for p in ax.patches])
  heights = np.array([p.get_height() for p in ax.patches])
  expected = np.interp(edges, x, y)
  assert np.abs(heights - expected).max() < 0.06 * expected.max()


# --- the page ----------------------------------------------------------------------


def test_the_page():
  report = redundancy(stack())
  page = report.to_html()
  assert "prefers-color-scheme: dark" in page and "aria-sort" in page
  assert page.count('class="bar"') == len(report)
  for column in ("relative excess", "near twins", "read by"):
    assert f"<dt>{column}</dt>" in page and f">{column}</th>" in page
  assert "--share: 100%" in page
