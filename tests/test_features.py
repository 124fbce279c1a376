"""The room of features: losses, nearest neighbors, the command and its page."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.features import __main__ as command
from experiments.features import forms, report, training, views
from experiments.report.pages import fill

ROOT = pathlib.Path(__file__).parent.parent
HADAMARD = np.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])


# --- Losses.


@pytest.mark.parametrize("form", forms.FORMS)
def test_each_form_but_nothing_is_against_collapse(form, key):
  """All images alike are aligned, and yet worse than features that are spread."""
  spread = jax.random.normal(key, (64, 4))
  spread = spread / jnp.linalg.norm(spread, axis=1, keepdims=True)
  alike = jnp.eye(4)[:1] + 1e-3 * spread
  alike = alike / jnp.linalg.norm(alike, axis=1, keepdims=True)
  loss = forms.loss_of(form)
  weight = jnp.asarray(1.0)
  values = [float(loss(x, jnp.roll(x, 1, 0), weight)) for x in (alike, spread)]
  same = float(loss(spread, spread, weight))
  assert same < values[1]  # Views that agree are better than ones that do not.
  if form == "none":
    assert values[0] < 1e-4 and same == 0.0
  else:
    assert same < float(loss(alike, alike, weight))


def test_alignment_is_the_mean_squared_distance():
  first = jnp.array([[1.0, 0.0], [0.0, 1.0]])
  assert float(forms.alignment(first, -first)) == 4.0


def test_decorrelation_by_hand():
  """Uncorrelated features of equal views are best; equal features are counted twice."""
  x = jnp.asarray(HADAMARD)
  weight = jnp.asarray(0.5)
  assert float(forms.decorrelation(x, x, weight)) == pytest.approx(0.0, abs=1e-9)
  twice = jnp.stack([x[:, 0], x[:, 0]], 1)
  found = float(forms.decorrelation(twice, twice, weight))
  assert found == pytest.approx(0.5 * 2 / 2, rel=1e-4)
  assert float(forms.decorrelation(x, -x, weight)) == pytest.approx(4.0, rel=1e-4)


def test_variances_and_covariances_by_hand():
  term = forms.VarianceCovariance()
  n = 4
  x = jnp.asarray(HADAMARD / 2**0.5)  # Unit rows, of variances above 1 / 2.
  assert float(term(x)) == pytest.approx(0.0, abs=1e-9)
  line = jnp.array([[1.0, 1], [1, 1], [-1, -1], [-1, -1]]) / 2**0.5
  covariance = 4.0 / (n - 1)
  assert float(term(line)) == pytest.approx(2 * covariance**2 / (25 * 2), rel=1e-6)
  alike = jnp.broadcast_to(jnp.array([[0.6, 0.8]]), (n, 2))
  assert float(term(alike)) == pytest.approx(1.0 - 1e-2, rel=1e-3)


def test_info_nce_by_hand():
  x = jnp.eye(2)
  expected = np.log(1.0 + np.exp(-1.0 / 0.5))
  found = float(forms.info_nce(x, x, jnp.asarray(0.5)))
  assert found == pytest.approx(expected, rel=1e-6)


# --- Images, batches, neighbors.


def test_views_are_of_their_image():
  digits = views.load(40, 20, 2)
  assert digits.views.shape == (40, 2, 196) and digits.test.shape == (20, 196)
  assert digits.views.min() >= 0.0 and digits.views.max() <= 1.0 + 1e-6
  centered = [x - x.mean(0) for x in (digits.views[:, 0], digits.train)]
  likeness = centered[0] @ centered[1].T
  own = np.mean(likeness.argmax(1) == np.arange(40))
  assert own > 0.3  # Of 40 images, by chance 0.025.
  assert not np.array_equal(digits.views[:, 0], digits.views[:, 1])


def test_means_of_two_by_two_pixels():
  image = np.zeros((28, 28), np.float32)
  image[2:4, 0:2] = [[1.0, 2.0], [3.0, 6.0]]
  small = views.smaller(image).reshape(14, 14)
  assert small[1, 0] == 3.0 and small.sum() == 3.0


def test_pairs_are_two_views_of_one_image():
  rows = training.pairs_of_views(10, 3, 16, 5, np.random.default_rng(0))
  assert rows.shape == (5, 32)
  first, second = rows[:, :16], rows[:, 16:]
  np.testing.assert_array_equal(first // 3, second // 3)
  assert (first != second).all() and set(np.unique(rows)) <= set(range(30))


def test_neighbors_vote():
  known = np.array([[1.0, 0], [0.8, 0.6], [0.6, 0.8], [0, 1]])
  labels = np.array([3, 3, 7, 7])
  asked = np.array([[1.0, 0.0], [0.0, 1.0]])
  assert training.accuracy(known, labels, asked, np.array([3, 7]), 3) == 100.0
  assert training.accuracy(known, labels, asked, np.array([3, 3]), 3) == 50.0


def test_training_teaches(as_users):
  """Better than the encoder that it starts from, nearly."""
  settings = {
    "images": [500, 200], "num_views": 4, "width": 32, "batch_size": 64,
    "rate": 0.01, "neighbors": 5,
  }  # fmt: skip
  reached = [
    training.train("energy", 8, 0.3, 0, steps=steps, **settings) for steps in (1, 200)
  ]
  assert reached[1] > reached[0] + 10.0


def test_what_is_tuned_is_the_best_of_the_tuning_seeds(monkeypatch):
  def pretend(form, d, weight, seed, **settings):
    return 50.0 - abs(weight - 0.3) + seed % 2

  monkeypatch.setattr(training, "train", pretend)
  weights = {key: [0.1, 0.3, 1.0] for key in forms.FORMS}
  found = training.compute(3, weights, [100, 101], [7])["forms"]
  assert set(found) == set(forms.FORMS)
  for of_form in found.values():
    assert of_form["weight"] == 0.3 and of_form["accuracy"] == [51.0]
    assert of_form["tuning"][1] == [50.0, 51.0]


def test_budgets_are_equal():
  for preset in training.SETTINGS.values():
    counts = {len(w) for form, w in preset["weights"].items() if form != "none"}
    assert len(counts) == 1 and set(preset["weights"]) == set(forms.FORMS)
    assert not set(preset["seeds"]) & set(preset["tuning_seeds"])


# --- Command and page.


def test_command_trains_once_and_writes_a_page(tmp_path, capsys, as_users):
  command.main("smoke", tmp_path)
  first = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
  assert {path.stem for path in first} == {"features_4"}
  command.main("smoke", tmp_path)
  assert {path: path.stat().st_mtime_ns for path in first} == first
  texts = report.blocks(command.read(tmp_path, [4]))
  page = (tmp_path / "features.md").read_text()
  assert all(text in page for text in texts.values())
  assert (tmp_path / "images/features.png").stat().st_size > 5000
  assert "Wrote" in capsys.readouterr().out


def test_the_page_is_what_the_report_generates():
  page = (ROOT / "docs/features.md").read_text()
  settings = dict(training.SETTINGS["cpu"])
  dimensions = settings.pop("dimensions")
  found = command.read(command.RESULTS, dimensions)
  texts = report.blocks(found)
  assert fill(page, texts) == page
  assert page.count("<!-- end of ") == len(texts)
  for d, result in zip(dimensions, found):
    assert result["settings"] == {"d": d, **settings}
    assert result["versions"]["clean"]
