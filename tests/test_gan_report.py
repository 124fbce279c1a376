"""Sweeps of GANs, and what the report makes of their results."""

import dataclasses
import json
import pathlib
import re
import shutil

import jax
import numpy as np
import pytest

from experiments.errors import InputError
from experiments.gan import report
from experiments.gan.figures import FIGURES, draw_all
from experiments.gan.images import encoded
from experiments.gan.plan import SWEEPS, sweeps_of
from experiments.gan.presets import PRESETS, Config, preset
from experiments.gan.report import blocks
from experiments.gan.training import discriminator_loss
from experiments.models.gan import Discriminator
from experiments.regularizers import Regularizer
from experiments.report.command import write_report
from experiments.runs.plan import runs_of
from experiments.runs.results import Results
from mhe_jax import Riesz, hyperspherical_energy, network_energy


def test_sweeps_differ_in_the_discriminator_alone_and_confirm_on_other_seeds():
  for name in PRESETS:
    sweeps = sweeps_of(name)
    for sweep in sweeps.values():
      for arm in sweep.arms:
        assert arm.measure == "frechet" and arm.paper is None
        (dataset,) = {a.config.dataset for a in sweep.arms if a.column == arm.column}
        plain = dataclasses.replace(
          arm.config, regularizer=Regularizer(), spectral_norm=False
        )
        assert plain == preset(name, dataset)
    four = sweeps["four"]
    rows = {(arm.row, arm.column) for arm in four.arms}
    for ask in four.asks:
      assert {(ask.row, ask.column), (ask.against, ask.column)} <= rows
    if name != "smoke":
      assert len(four.seeds) == 5
      assert not {*four.seeds} & {*sweeps["forms"].seeds, *sweeps["weight"].seeds}
      assert len(four.asks) == 4
  assert set(SWEEPS) == {"four", "forms", "weight"}


@pytest.mark.parametrize(
  "row, with_norm, factor", [("MHE", False, 1e-6), ("SN + MHE", True, 1e-7)]
)
def test_paper_has_the_authors_weight_which_hardly_moves(row, with_norm, factor):
  arms = {arm.row: arm.config for arm in sweeps_of("paper")["four"].arms}
  weight = arms[row].regularizer.weight
  n = 512
  w = np.random.default_rng(0).normal(size=(n, 24))
  z2 = 2.0 - 2.0 * (w @ w.T) / np.outer(*2 * [np.linalg.norm(w, axis=1)])
  theirs = 2.0 * factor / n**2 * np.sum(np.log(1.0 / z2[np.triu_indices(n, 1)]))
  ours = weight * float(hyperspherical_energy(w, Riesz(0.0)))
  assert theirs == pytest.approx(ours, rel=1.01 / n)

  network = Discriminator(PRESETS["paper"].width, with_norm)
  images = np.random.default_rng(1).uniform(-1, 1, (2, 4, 32, 32, 3)).astype("f")
  variables = network.init(jax.random.key(0), images[0])
  params = jax.tree.map(
    lambda x: x * (0.02 / x.std()) if x.ndim > 1 else x, variables["params"]
  )
  spectral = variables.get("batch_stats", {})
  data = jax.grad(lambda p: discriminator_loss(network, p, spectral, *images)[0])(
    params
  )
  energy = jax.grad(lambda p: network_energy(p, Riesz(0.0)))(params)
  for layer in filter(lambda name: name.startswith("conv"), params):
    of_energy, of_data = (np.linalg.norm(g[layer]["kernel"]) for g in (energy, data))
    assert weight * of_energy < 1e-5 * of_data


def synthetic(config, rng, critic="c"):
  """A finished run of made-up numbers."""
  layers = [f"conv{i}/kernel" for i in range(7)]
  names = ("frechet", "classifier_score", "precision", "recall")
  return {
    "config": dataclasses.asdict(config),
    "data": {"fingerprint": config.dataset, "critic": critic},
    "history": [
      {
        "step": step,
        "frechet": rng.uniform(10.0, 20.0),
        "excess": dict(zip(layers, rng.uniform(0.1, 2.0, 7))),
        "samples": encoded(np.zeros((256, 256, 1), np.uint8)),
      }
      for step in (0, config.steps)
    ],
    **{f"error_of_{name}": 0.3 for name in names},
    **{f"real_{name}": 0.8 for name in names},
    **dict(zip(names, (rng.uniform(10.0, 20.0), 5.0, 0.5, 0.4))),
    "noise_frechet": 90.0,
    "critic_error": 2.0,
    "collapsed": 0.0,
  }


def test_the_report_counts_what_collapsed_and_diverged_and_draws_everything(tmp_path):
  rng = np.random.default_rng(0)
  folder = tmp_path / "runs"
  folder.mkdir()
  four = sweeps_of("cpu")["four"]
  mhe = {arm.row: arm.config for arm in four.arms if arm.column == "digits"}["MHE"]
  for config in runs_of(sweeps_of("cpu").values()):
    result = synthetic(config, rng)
    if config == dataclasses.replace(mhe, seed=1):
      result["collapsed"] = 1.0
    if config.seed == 1:
      result["data"]["critic"] = "another"
    if config == dataclasses.replace(mhe, seed=2):
      result = {k: result[k] for k in ("config", "data", "history")}
      result["history"] = result["history"][:1]
      result["diverged"] = "it did"
    (folder / f"{config.name}.json").write_text(json.dumps(result))
  found = Results(folder, Config)
  texts = blocks("cpu", found)
  assert set(texts) == {x for name in SWEEPS for x in (name, f"scores of {name}")}
  assert "Not run yet." not in texts.values()
  (line,) = (
    x for x in texts["scores of four"].splitlines() if x.startswith("| digits | MHE |")
  )
  assert line.endswith(
    "| 0.500 ± 0.000 (0.300) | 0.400 ± 0.000 (0.300) | 1 of 5 | 1 of 5 |"
  )
  assert "1 of 5 do not converge" in texts["four"]
  assert "scored by 2 different classifiers" in texts["scores of four"]
  assert texts["scores of four"].count("*real images* | 0.80 | 0.80 | 0.800") == 2
  assert texts["four"].count("SN + MHE against SN") == 2
  page = pathlib.Path(report.__file__).parents[2] / "docs" / "gan.md"
  shutil.copy(page, tmp_path)
  report.main("cpu", folder, tmp_path)
  text = (tmp_path / "gan.md").read_text()
  assert "Not run yet." not in text
  assert all(block in text for block in texts.values())
  drawn = {path.name for path in (tmp_path / "images").iterdir()}
  assert drawn == {f"gan_{name}.png" for name in FIGURES}
  assert set(re.findall(r"\(images/(.*?)\)", text)) == drawn


def test_where_every_run_with_energy_diverged_the_pictures_are_drawn(tmp_path):
  rng = np.random.default_rng(0)
  for config in runs_of(sweeps_of("cpu").values()):
    result = synthetic(config, rng)
    if config.regularizer.kind != "none":
      result = {k: result[k] for k in ("config", "data", "history")} | {"diverged": "x"}
    (tmp_path / f"{config.name}.json").write_text(json.dumps(result))
  report.main("cpu", tmp_path, tmp_path / "page")
  assert "5 of 5 |" in (tmp_path / "page" / "gan.md").read_text()


def test_runs_that_are_compared_have_one_critic(tmp_path):
  rng = np.random.default_rng(0)
  for i, config in enumerate(runs_of([sweeps_of("cpu")["four"]])):
    result = synthetic(config, rng, critic=f"{i}") | {"name": f"x{config.seed}"}
    (tmp_path / f"{config.name}.json").write_text(json.dumps(result))
  with pytest.raises(InputError, match="must be scored by one critic, got x0, x0"):
    blocks("cpu", Results(tmp_path, Config))


def test_without_results_there_are_no_pictures_and_every_block_says_so(tmp_path):
  found = Results(tmp_path, Config)
  assert set(blocks("cpu", found).values()) == {"Not run yet."}
  assert draw_all("cpu", found, tmp_path) == []


def test_a_report_that_cannot_be_writes_nothing(tmp_path, capsys):
  rng = np.random.default_rng(0)
  (tmp_path / "runs").mkdir()
  for config in runs_of(sweeps_of("smoke").values()):
    path = tmp_path / "runs" / f"{config.name}.json"
    path.write_text(json.dumps(synthetic(config, rng)))
  page, readme = tmp_path / "page" / "gan.md", tmp_path / "readme.md"
  page.parent.mkdir()
  readme.write_text("<!-- gan -->\nwords\n<!-- end of gan -->\n")
  for text, preset_name, message in (
    ("of another", "smoke", "must have <!-- four -->"),
    ("", "cpu", "results must hold runs of preset 'cpu'"),
  ):
    page.write_text(text)
    with pytest.raises(SystemExit):
      write_report(
        "gan", "GAN", Config, preset_name, tmp_path / "runs", page.parent, readme,
        draw=draw_all, blocks=blocks, in_readme={"gan": lambda *_: ""},
      )  # fmt: skip
    assert message in " ".join(capsys.readouterr().out.split())
    assert [*page.parent.iterdir()] == [page] and page.read_text() == text
    assert "\nwords\n" in readme.read_text()
