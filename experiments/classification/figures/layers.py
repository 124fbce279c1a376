"""Pictures of layers: their redundancy during training, and at the end."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments import models
from experiments.classification.arms import BASELINE, HALF_MHE, MHE, ORTHONORMAL, Base
from experiments.classification.figures.colors import COLORS
from experiments.classification.plan import SWEEPS
from experiments.classification.presets import Config
from experiments.excess import full_space_floor, hidden_excess
from experiments.models import OUTPUT
from experiments.report.columns import columns_of
from experiments.report.figures import subplots
from experiments.runs.results import Results, from_json
from mhe_jax import neuron_matrices


def draw_curves(base: Base, results: Results[Config]):
  """Test error and redundancy over the iterations, mean over the seeds."""
  columns = columns_of(SWEEPS["variants"](base), results)
  count = base("cifar10").curve_images
  figure = _curves(columns, "test_error", f"test error on {count:,} images, %")
  if figure is not None:
    _zoom(figure.axes[: len(columns)])
    for panel, column in zip(figure.axes[len(columns) :], columns):
      if MHE in {arm.config.regularizer.unweighted for arm in column.arms.values()}:
        floor = _floor(next(iter(column.arms.values())).config)
        if floor is not None:
          panel.axhline(floor, color=COLORS[MHE], linewidth=0.8, linestyle=":")
    for panel in figure.axes[len(columns) + 1 :]:
      panel.sharey(figure.axes[len(columns)])
      panel.autoscale(axis="y")
  return figure


def _zoom(panels):
  """To the errors of the second half of training, which differ little."""
  for panel in panels:
    lines = [line.get_xydata() for line in panel.get_lines()]
    if not lines:
      continue
    half = lines[0][-1, 0] / 2
    late = [y for line in lines for x, y in line if x >= half]
    panel.set_xlim(left=0.9 * half)
    low, high = np.nanmin(late), np.nanmax(late)
    if high > low:
      panel.set_ylim(low - 0.1 * (high - low), high + 0.5 * (high - low))


def draw_start(base: Base, results: Results[Config]):
  """Training loss and redundancy at a high learning rate, with and without warm-up."""
  columns = columns_of(SWEEPS["start"](base), results)
  return _curves(columns, "train_loss", "training loss", with_worst=True, sharey="row")


def _curves(columns, measure, label, with_worst=False, **options):
  if not columns:
    return None
  figure, axes = subplots(2, len(columns), (4.5 * len(columns), 5.5), **options)
  for (upper, lower), column in zip(axes.T, columns):
    for row, arm in column.arms.items():
      color = COLORS.get(arm.config.regularizer.unweighted)
      if color is None:
        continue
      histories = [run["history"] for run in column.runs(row)]
      steps = [entry["step"] for entry in histories[0]]
      curves = {
        upper: [[entry[measure] for entry in history] for history in histories],
        lower: [[hidden_excess(e["excess"]) for e in history] for history in histories],
      }
      worst = [[_most(e["excess"]) for e in history] for history in histories]
      if with_worst:
        mean = np.exp(np.log(worst).mean(0))
        lower.plot(
          steps, mean, color=color, linestyle="--", label=f"{row}: worst layer"
        )
      for panel, numbers in curves.items():
        seeds = np.asarray(numbers, float)
        panel.plot(steps, seeds.T, color=color, linewidth=0.6, alpha=0.3)
        panel.plot(steps, seeds.mean(0), color=color, label=row)
    upper.set_title(column.title, fontsize=9)
    lower.axhline(1.0, color="black", linewidth=0.6)
    lower.set_xlabel("update")
  axes[0, 0].set_ylabel(label)
  axes[1, 0].set_ylabel("relative excess of the\nmedian hidden layer")
  if with_worst:
    axes[1, 0].set_yscale("log")
  handles, labels = axes[1, 0].get_legend_handles_labels()
  figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
  return figure


def _most(excess):
  """The excess of the most redundant hidden layer."""
  return max(from_json(value) for layer, value in excess.items() if layer != OUTPUT)


def _floor(config):
  """Excess of the median hidden layer where the energy in full space is least.

  None where it is infinite, and where a layer has more than d + 1 neurons: the best
  of these has no formula.
  """
  model = models.build(config.model, width=config.width, num_classes=2)
  side = 32 // config.shrink

  def neurons(key):
    image = jnp.zeros((1, side, side, 3), jnp.float32)
    return neuron_matrices(model.init(key, image)["params"])

  layers = jax.eval_shape(neurons, jax.random.key(0))
  hidden = [w.shape for path, w in layers.items() if path != OUTPUT]
  if any(n > d + 1 for n, d in hidden):
    return None
  floor = float(np.median([full_space_floor(n, d) for n, d in hidden]))
  return floor if np.isfinite(floor) else None


def draw_energies(base: Base, results: Results[Config]):
  """Test error against redundancy: a point a run, differences to its baseline."""
  columns = columns_of(SWEEPS["variants"](base), results)
  columns = [column for column in columns if column.has_rival]
  if not columns:
    return None
  figure, (panels,) = subplots(1, len(columns), figsize=(4.5 * len(columns), 3.8))
  for panel, column in zip(panels, columns):
    for row, arm in column.arms.items():
      regularizer = arm.config.regularizer
      half_space = HALF_MHE if regularizer.half_space else MHE
      rivals = {"none": BASELINE, "orthonormal": ORTHONORMAL}
      panel.scatter(
        [hidden_excess(run["history"][-1]["excess"]) for run in column.runs(row)],
        np.subtract(column.values(row), column.values(column.rival)),
        color=COLORS[rivals.get(regularizer.kind, half_space)],
        marker={"chordal": "o", "geodesic": "^"}[regularizer.metric],
        s=16,
        alpha=0.7,
      )
    panel.axhline(0.0, color="black", linewidth=0.6)
    floor = _floor(next(iter(column.arms.values())).config)
    if floor is not None:
      panel.axvline(floor, color=COLORS[MHE], linewidth=0.8, linestyle=":")
    panel.set_title(column.title, fontsize=9)
    panel.set_xscale("log")
    panel.set_xlabel("median relative excess of the hidden layers at the end")
  panels[0].set_ylabel("test error, difference to the\nbaseline of the seed, points")
  for regularizer, label in {
    BASELINE: "baseline", MHE: "full space", HALF_MHE: "half-space",
    ORTHONORMAL: "orthonormal",
  }.items():  # fmt: skip
    panels[0].scatter([], [], color=COLORS[regularizer], s=16, label=label)
  panels[0].scatter([], [], color="#888888", marker="^", s=16, label="angular")
  handles, labels = panels[0].get_legend_handles_labels()
  figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8)
  return figure


def draw_deep(base: Base, results: Results[Config]):
  """Excess of every layer of CNN-15 over the updates, with and without a warm-up."""
  columns = columns_of(SWEEPS["deep"](base), results)
  if not columns:
    return None
  rows = list(dict.fromkeys(row for column in columns for row in column.arms))
  figure, axes = subplots(
    len(columns), len(rows), (2.9 * len(rows), 2.9 * len(columns)), sharey=True
  )
  images = []
  for panels, column in zip(axes, columns):
    for panel, row in zip(panels, rows):
      runs = column.runs(row)
      if not runs:
        panel.axis("off")
        continue
      layers = list(runs[0]["history"][0]["excess"])
      steps = [entry["step"] for entry in runs[0]["history"]]
      values = [[list(e["excess"].values()) for e in run["history"]] for run in runs]
      mean = np.exp(np.log(np.maximum(np.asarray(values, float), 1e-3)).mean(0))
      edges = np.arange(len(layers) + 1) - 0.5
      image = panel.pcolormesh(
        steps, edges[:-1] + 0.5, mean.T, norm="log", vmin=0.03, vmax=30.0,
        cmap="RdBu_r", shading="nearest",
      )  # fmt: skip
      images.append(image)
      panel.set_title(f"{row}\n{column.title}", fontsize=7)
      panel.set_yticks(
        range(len(layers)), [layer.removesuffix("/kernel") for layer in layers],
        fontsize=6,
      )  # fmt: skip
      panel.set_ylim(len(layers) - 0.5, -0.5)
      panel.tick_params(axis="x", labelsize=7)
  for panel in axes[-1]:
    panel.set_xlabel("update", fontsize=8)
  bar = figure.colorbar(images[0], ax=axes, shrink=0.7, pad=0.01)
  bar.set_label("relative excess; 1 = random directions", fontsize=8)
  return figure
