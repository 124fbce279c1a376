"""The page and the picture of the runs, from their JSON alone."""

from typing import Any

import numpy as np

from experiments.monitoring.training import ARMS
from experiments.report.cells import difference, mean_and_spread
from experiments.report.figures import subplots
from experiments.report.markdown import markdown
from experiments.report.statistics import paired_difference

_NAMES = {"without": "without energy", "energy": "with energy"}
_HEAD = "head/kernel"
_LEAST = 1e-3  # Of the logarithmic axis: rounding takes the best layers below 0.


def medians(result: dict[str, Any], arm: str) -> dict[str, np.ndarray]:
  """The excess of every layer at every logged step, median over the seeds."""
  runs, depth = result["runs"][arm], result["settings"]["depth"]
  paths = [*(f"conv{i}/kernel" for i in range(depth)), _HEAD]
  return {path: np.median([run["excess"][path] for run in runs], 0) for path in paths}


def errors(result: dict[str, Any], arm: str) -> list[float]:
  """Test errors after training, by seed, in percent."""
  return [run["test_error"] for run in result["runs"][arm]]


def blocks(result: dict[str, Any]) -> dict[str, str]:
  """What is generated of the page, by name."""
  return {"seen": _seen(result), "layers": _layers(result)}


def _seen(result):
  """The picture in words."""
  curves = {arm: medians(result, arm) for arm in ARMS}
  hidden = {arm: {k: c for k, c in curves[arm].items() if k != _HEAD} for arm in ARMS}
  without, start = hidden["without"], hidden["without"].values()
  above = sum(curve[-1] > 1.0 for curve in without.values())
  rises = {path: curve.max() - curve[0] for path, curve in without.items()}
  path = max(rises, key=lambda path: rises[path])
  step = result["steps"][int(np.argmax(without[path]))]
  ends = [curve[-1] for curve in hidden["energy"].values()]
  return (
    f"The convolutions start with an excess of {min(c[0] for c in start):.2f} to "
    f"{max(c[0] for c in start):.2f}. Without the energy {above} of {len(without)} end "
    f"above 1; the one that rises most is {_name(path)}, from {without[path][0]:.2f} "
    f"to {without[path].max():.2f} in step {step}. With it the largest ends at "
    f"{max(ends):.2f} and the median at {abs(np.median(ends)):.3f}. {_errors(result)}"
  )


def _errors(result):
  without, with_energy = (errors(result, arm) for arm in ARMS)
  told = {
    "better": "fewer errors",
    "worse": "more errors",
    "not told apart": "which so few seeds do not tell apart from zero",
  }[paired_difference(without, with_energy).verdict]
  return (
    f"Test errors after the last step: {mean_and_spread(without)}% without, "
    f"{mean_and_spread(with_energy)}% with, a difference of "
    f"{difference(without, with_energy).replace('*', '')} points, {told}."
  )


def _layers(result):
  """Of every layer the excess at the start, at its highest, and at the end."""
  header = ["layer", "start", "without: highest", "in step", "end", "with energy: end"]
  curves, lines = {arm: medians(result, arm) for arm in ARMS}, []
  for path, curve in curves["without"].items():
    highest = int(np.argmax(curve))
    cells = [curve[0], curve[highest], curve[-1], curves["energy"][path][-1]]
    # No sign of what is rounded to zero.
    texts = [f"{cell:.2f}".replace("-0.00", "0.00") for cell in cells]
    texts.insert(2, str(result["steps"][highest]))
    lines.append([_name(path), *texts])
  return markdown(header, *lines)


def _name(path):
  return path.removesuffix("/kernel")


def draw(result: dict[str, Any]):
  """A panel an arm: the excess of the layers over the steps, colored by depth."""
  from matplotlib import cm, colormaps, colors  # noqa: PLC0415  (only when called)

  figure, (panels,) = subplots(1, len(ARMS), (9.0, 4.2))
  steps, depth = result["steps"], result["settings"]["depth"]
  # From the second color on: the first is too dark beside the black line.
  shades = colormaps["plasma"].resampled(depth + 2)(np.arange(1, depth + 1))
  scale = cm.ScalarMappable(
    colors.Normalize(-0.5, depth - 0.5),
    colors.ListedColormap(shades),
  )
  for panel, arm in zip(panels, ARMS):
    curves = medians(result, arm)
    for path in curves:
      curve = np.maximum(curves[path], _LEAST)
      if path == _HEAD:
        panel.plot(steps, curve, color="#777777", linestyle="--", label="classifier")
      else:
        layer = int(_name(path).removeprefix("conv"))
        panel.plot(steps, curve, color=shades[layer], linewidth=1.3)
    panel.axhline(
      1.0, color="black", linewidth=1.2, linestyle=":", label="random directions: 1"
    )
    panel.set_yscale("log")
    panel.yaxis.set_major_formatter("{x:g}")
    if min(curve.min() for curve in curves.values()) > 0.1:
      # Too narrow a range for powers of ten.
      panel.set_yticks([0.4, 0.6, 0.8, 1.0, 1.5, 2.0])
      panel.minorticks_off()
    panel.set_xlabel("training step")
    error = mean_and_spread(errors(result, arm), 1)
    panel.set_title(f"{_NAMES[arm]}: test error {error}%", fontsize=10)
  panels[0].set_ylabel("relative excess, median over the seeds")
  handles, labels = panels[0].get_legend_handles_labels()
  figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=9)
  bar = figure.colorbar(scale, ax=panels, label="convolution; conv0 sees the image")
  bar.set_ticks(range(0, depth, 2), labels=[f"conv{i}" for i in range(0, depth, 2)])
  return figure
