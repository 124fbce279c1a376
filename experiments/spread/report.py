"""Tables and the picture, of the results alone."""

import math
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.report.markdown import markdown
from experiments.report.pages import filled
from experiments.report.pages import write as write_page

TITLES = {
  "without": "without",
  "loss": "energy in the loss, weight 0.1",
  "spread": "`spread`",
  "orthonormal": "`spread` of `Orthonormality`",
}
_COLORS = {
  "without": "#888888", "loss": "#c23b22", "spread": "#1f4e9c", "orthonormal": "#2a8f6d"
}  # fmt: skip
_MARKERS = {"zero": "v", "usual": "o"}
_LIMIT = 1.05  # Above it, a form hurts.
_TOP = 30.0  # Of the picture: what is above, or diverged, is drawn there.


class Setting(NamedTuple):
  """A network, an optimizer and an initialization, trained with a form.

  Attributes:
    network: name.
    optimizer: name.
    start: name.
    form: name.
    loss: at the end, geometric mean over seeds.
    ratio: of it to that without the energy; infinite where a run diverged.
    excess: median over layers, geometric mean over seeds.
  """

  network: str
  optimizer: str
  start: str
  form: str
  loss: float
  ratio: float
  excess: float


def settings_of(results: Sequence[dict[str, Any]]) -> list[Setting]:
  """Of the results of cells, in their order."""
  settings = []
  for result in results:
    config = result["config"]
    for start in config["starts"]:
      for form in config["forms"]:
        runs, plain = (
          [
            run
            for run in result["runs"]
            if (run["start"], run["form"]) == (start, name)
          ]
          for name in (form, "without")
        )
        losses, of_plain = ([_number(r["loss"]) for r in x] for x in (runs, plain))
        excess = [
          np.median([max(_number(x), 1e-4) for x in run["excess"].values()])
          for run in runs
        ]
        settings.append(
          Setting(
            config["network"],
            config["optimizer"],
            start,
            form,
            _mean(losses),
            _mean(losses) / _mean(of_plain),
            _mean(excess),
          )
        )
  return settings


def _number(x):
  return math.inf if x is None else x


def _mean(x):
  """Geometric."""
  return float(np.exp(np.mean(np.log(x))))


def _plain(ratio):
  return "diverged" if math.isinf(ratio) else f"{ratio:.2f}"


def summary(settings: Sequence[Setting]) -> str:
  """A row for each form: how often and how far it hurts, and what it does."""
  rows = []
  for form in dict.fromkeys(setting.form for setting in settings):
    own = [setting for setting in settings if setting.form == form]
    ratios = np.array([setting.ratio for setting in own])
    finite = ratios[np.isfinite(ratios)]
    middle = f"{_mean(finite):.2f}" if len(finite) else ""
    excess = [setting.excess for setting in own]
    rows.append(
      [
        TITLES.get(form, form),
        middle,
        f"{np.sum(ratios > _LIMIT)} of {len(own)}",
        _plain(float(ratios.max())),
        f"{np.median(excess):.2f}",
      ]
    )
  header = [
    "form", "loss / plain, mean", f"above {_LIMIT:g}", "worst", "excess, median"
  ]  # fmt: skip
  return markdown(header, *rows)


def by_network(settings: Sequence[Setting]) -> str:
  """Loss over plain, geometric mean over optimizers and initializations."""
  networks = list(dict.fromkeys(setting.network for setting in settings))
  rows = []
  for form in dict.fromkeys(setting.form for setting in settings):
    row = [TITLES.get(form, form)]
    for network in networks:
      ratios = [s.ratio for s in settings if (s.form, s.network) == (form, network)]
      row.append(_plain(_mean(ratios)))
    rows.append(row)
  return markdown(["form", *networks], *rows)


def details(settings: Sequence[Setting]) -> str:
  """Loss without the energy, and of each form over it, with the median excess."""
  forms = list(dict.fromkeys(setting.form for setting in settings))
  found = {(s.network, s.start, s.optimizer, s.form): s for s in settings}
  rows = []
  for network, start, optimizer in dict.fromkeys(key[:3] for key in found):
    plain, *others = (found[network, start, optimizer, form] for form in forms)
    cells = [f"{plain.loss:.3g}, {plain.excess:.2f}"]
    for setting in others:
      text = _plain(setting.ratio)
      text = f"**{text}**" if setting.ratio > _LIMIT else text
      cells.append(f"{text}, {setting.excess:.2f}")
    rows.append([network, start, optimizer, *cells])
  titles = [TITLES.get(form, form) for form in forms]
  return markdown(["network", "start", "optimizer", *titles], *rows)


def _made(results):
  """With what, in a sentence."""
  versions = results[0]["versions"]
  steps = {result["config"]["steps"] for result in results}
  seeds = {len(result["config"]["seeds"]) for result in results}
  seconds = sum(result["seconds"] for result in results)
  processors = dict.fromkeys(
    result["processor"].split(",")[0].removeprefix("model name ") for result in results
  )
  steps, seeds = ("/".join(map(str, sorted(x))) for x in (steps, seeds))
  return (
    f"{steps} steps, {seeds} seeds; jax {versions['jax']}, {', '.join(processors)}; "
    f"{seconds / 60:.0f} minutes of one core."
  )


def write(
  preset: str,
  results: Sequence[dict[str, Any]],
  page: pathlib.Path,
  pictures: pathlib.Path,
) -> str:
  """Writes the tables into a page, and spread.png; returns the tables.

  Args:
    preset: "search" has other tables.
    results: of the cells.
    page: Markdown.
    pictures: folder.
  """
  settings = settings_of(results)
  if preset == "search":
    texts = {"variants": "\n\n".join([by_network(settings), _made(results)])}
  else:
    texts = {
      "forms": "\n\n".join([summary(settings), _made(results)]),
      "settings": details(settings),
    }
    plot(settings, pictures / "spread.png")
  write_page(page, filled(page, "Forms of the energy", texts))
  return "\n\n".join(texts.values())


def plot(settings: Sequence[Setting], path: pathlib.Path) -> None:
  """Loss in training over that without, against the excess: a point a setting."""
  import matplotlib.pyplot as plt  # noqa: PLC0415  (only when called)
  from matplotlib.lines import Line2D  # noqa: PLC0415

  figure, axes = plt.subplots(figsize=(7.0, 4.2), layout="constrained")
  forms = list(dict.fromkeys(setting.form for setting in settings))
  for form in forms:
    for start, marker in _MARKERS.items():
      own = [s for s in settings if (s.form, s.start) == (form, start)]
      axes.plot(
        [max(s.excess, 0.01) for s in own],
        [min(s.ratio, _TOP) for s in own],
        linestyle="none",
        marker=marker,
        markersize=5,
        alpha=0.7,
        color=_COLORS.get(form, "#000000"),
      )
  axes.axhline(1.0, color="#888888", linewidth=0.8)
  axes.set(xscale="log", yscale="log")
  axes.set_xlabel("relative excess of the layers, median", fontsize=11)
  axes.set_ylabel("loss in training / without", fontsize=11)
  axes.spines[["top", "right"]].set_visible(False)
  handles = [
    Line2D([], [], linestyle="none", marker="s", color=_COLORS.get(form, "#000000"),
           label=TITLES.get(form, form).replace("`", ""))
    for form in forms
  ]  # fmt: skip
  handles += [
    Line2D([], [], linestyle="none", marker=marker, color="#444444", label=label)
    for marker, label in (
      (_MARKERS["zero"], "starts at zero"), (_MARKERS["usual"], "usual start")
    )
  ]  # fmt: skip
  figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=10)
  figure.savefig(path, dpi=130)
  plt.close(figure)
