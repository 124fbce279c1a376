"""The result in words, as a table, and as a picture: from its JSON alone."""

import pathlib

import numpy as np
import rich.table

from experiments.report.figures import subplots
from experiments.report.statistics import Paired, paired_difference

_COLORS = {"without": "#777777", "energy": "#c8102e", "orthonormal": "#e0a100"}
_NAMES = {
  "without": "without", "energy": "with energy", "orthonormal": "orthonormality"
}  # fmt: skip
_VERDICTS = {
  "better": "fewer errors",
  "worse": "more errors",
  "not told apart": "not told apart from zero",
}


def compare(setting: dict, arm: str, measure: str) -> Paired:
  """An arm against training without anything, seed by seed."""
  return paired_difference(*(values(setting, a, measure) for a in ("without", arm)))


def values(setting: dict, arm: str, measure: str) -> list[float]:
  """A measure of the runs of an arm, by seed."""
  return [run[measure] for run in setting["arms"][arm]]


def in_words(result: dict) -> str:
  """The result in one paragraph."""
  config = result["config"]
  sentences = [
    f"A CNN of {config['depth']} convolutions with {config['width']} channels on "
    f"{config['images_per_class']} handwritten digits per class, "
    f"{len(config['seeds'])} seeds, weight {config['weight']:g} in relative units; "
    "mean ± standard deviation of the final test error, and paired differences with "
    "their 95% intervals."
  ]
  for setting in result["settings"]:
    rate, without = setting["learning_rate"], values(setting, "without", "test_error")
    sentences.append(f"Learning rate {rate:g}: {_spread(without)} without.")
    for arm in ("energy", "orthonormal"):
      errors = values(setting, arm, "test_error")
      paired = compare(setting, arm, "test_error")
      sentences.append(
        f"{_NAMES[arm].capitalize()}: {_spread(errors)}, {paired.difference:+.2f} "
        f"points ({paired.low:+.2f} to {paired.high:+.2f}), "
        f"{_VERDICTS[paired.verdict]}."
      )
  return " ".join(sentences)


def pooled_in_words(*results: dict) -> str:
  """The differences of several results together, at the one rate that all have."""
  (rate,) = set.intersection(
    *({s["learning_rate"] for s in result["settings"]} for result in results)
  )
  settings = [s for r in results for s in r["settings"] if s["learning_rate"] == rate]
  errors = {
    arm: [error for s in settings for error in values(s, arm, "test_error")]
    for arm in _NAMES
  }
  parts = []
  for arm in ("energy", "orthonormal"):
    paired = paired_difference(errors["without"], errors[arm])
    interval = f"{paired.low:+.2f} to {paired.high:+.2f}"
    parts.append(f"{_NAMES[arm]} {paired.difference:+.2f} ({interval})")
  return f"all {len(errors['without'])} pairs: {', '.join(parts)}"


def _spread(errors):
  return f"{np.mean(errors):.2f} ± {np.std(errors, ddof=1):.2f}%"


def excess_table(setting: dict) -> rich.table.Table:
  """Relative excess of every layer at the start and at the end, mean over seeds."""
  table = rich.table.Table(
    title=f"relative excess, learning rate {setting['learning_rate']:g}",
    caption="0 = lower bound, 1 = random directions",
  )
  table.add_column("layer")
  for column in ("initial", *_NAMES.values()):
    table.add_column(column, justify="right")
  arms = setting["arms"]
  for path in arms["without"][0]["excess"]:
    ends = [("without", 0), *((arm, -1) for arm in arms)]
    means = [np.mean([r["excess"][path][i] for r in arms[arm]]) for arm, i in ends]
    table.add_row(path, *(f"{mean:.3f}" for mean in means))
  return table


def plot(result: dict, path: pathlib.Path) -> None:
  """Errors of the arms, paired by seed, and the layers' excess during training."""
  import matplotlib.pyplot as plt  # noqa: PLC0415  (only when called)

  settings = result["settings"]
  figure, rows = subplots(
    len(settings), 2, (8.5, 0.5 + 2.6 * len(settings)), width_ratios=(1, 1.4)
  )
  for (left, right), setting in zip(rows, settings):
    errors = [values(setting, arm, "test_error") for arm in _NAMES]
    for seed in zip(*errors):
      left.plot(range(len(seed)), seed, color="#dddddd", linewidth=0.8, zorder=1)
    for x, arm in enumerate(_NAMES):
      left.scatter([x] * len(errors[x]), errors[x], color=_COLORS[arm], s=14, zorder=2)
      left.hlines(np.mean(errors[x]), x - 0.25, x + 0.25, color=_COLORS[arm], lw=3)
      _draw_excess(right, setting["arms"][arm], arm)
    left.set_xticks(range(len(_NAMES)), list(_NAMES.values()), fontsize=8)
    left.set_xlim(-0.5, len(_NAMES) - 0.5)
    left.set_ylabel("test error, %")
    rate = f"learning rate {setting['learning_rate']:g}"
    left.set_title(f"errors, {rate}", fontsize=9)
    right.axhline(1.0, color="black", linewidth=0.6)
    right.set_yscale("log")
    right.set_ylim(bottom=3e-3)
    right.set_ylabel("relative excess")
    right.set_title(f"redundancy of the convolutions, {rate}", fontsize=9)
  rows[-1][1].set_xlabel("training step")
  handles, labels = rows[0][1].get_legend_handles_labels()
  figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
  figure.savefig(path, dpi=150)
  plt.close(figure)


def _draw_excess(axes, runs, arm):
  """Median of the convolutions, mean over seeds, and from least to most redundant."""
  hidden = [k for k in runs[0]["excess"] if k != "head/kernel"]
  layers = np.array([[run["excess"][k] for k in hidden] for run in runs])
  layers = np.exp(np.log(np.maximum(layers, 1e-3)).mean(0))  # [layers, measurements]
  steps = runs[0]["steps"]
  label = f"{_NAMES[arm]}: median layer; least to most"
  axes.plot(steps, np.median(layers, 0), color=_COLORS[arm], label=label)
  axes.fill_between(
    steps, layers.min(0), layers.max(0), color=_COLORS[arm], alpha=0.15, linewidth=0
  )
