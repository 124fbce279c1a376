"""The energy of every layer during training, with it in the loss and without.

  python -m experiments.monitoring --output docs      # the page's table and picture
  python -m experiments.monitoring --preset smoke     # seconds, in the tests

The CNN of experiments.quickstart, whose training step hands the excess of its layers on
as metrics; and what that costs in time. With the energy the excess is what the loss is
made of; without, it is evaluated for the log alone. What is computed is kept in JSON
and not computed again with the same settings: minutes on two cores the first time.
Writes OUTPUT/images/monitoring.png and, of OUTPUT/monitoring.md, the table between
"<!-- layers -->" and "<!-- end of layers -->"; a page that is not there is made.
"""

import functools
import pathlib
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import rich.progress
import tyro
from rich.console import Console

from experiments import digits
from experiments.benchmarks.timing import time_in_turns
from experiments.digits import CNN, RULES, State
from experiments.errors import make_folder, told_in_a_line
from experiments.kept import kept
from experiments.report.cells import mean_and_spread
from experiments.report.figures import save_all, subplots
from experiments.report.markdown import markdown
from experiments.report.pages import filled
from mhe_jax import (
  RelativeExcess,
  Riesz,
  describe,
  layer_energies,
  nearest_neurons,
  neuron_matrices,
)

RESULTS = pathlib.Path(__file__).parent / "results" / "monitoring"
Arm = Literal["without", "energy"]
ARMS: tuple[Arm, ...] = get_args(Arm)
RATE = 0.1  # Of experiments.quickstart.
SETTINGS: dict[str, dict[str, Any]] = {
  "cpu": {
    "depth": 15, "width": 8, "images_per_class": 50, "steps": 200, "every": 5,
    "seeds": [800, 801, 802, 803, 804],
  },
  "smoke": {
    "depth": 3, "width": 4, "images_per_class": 4, "steps": 5, "every": 3,
    "seeds": [800, 801],
  },
}  # fmt: skip
NAMES = {"without": "without energy", "energy": "with energy"}
HEAD = "head/kernel"
LEAST = 1e-3  # Of the logarithmic axis: rounding takes the best layers below 0.
OBJECTIVE = RelativeExcess(Riesz(2.0), log=True)


def config_of(depth: int, width: int, steps: int) -> digits.Config:
  """Of the network, its optimizer and the weight; the rest is not used here."""
  return digits.Config(learning_rates=(RATE,), depth=depth, width=width, steps=steps)


@functools.cache  # To be compiled once, for training and for timing.
def make_train_step(
  config: digits.Config, arm: Arm, *, logged: bool = True
) -> Callable[..., tuple[State, dict[str, jax.Array]]]:
  """A compiled ``train_step(state, images, labels)``: the new state and the metrics.

  Args:
    config: of :func:`config_of`.
    arm: with the energy in the loss or without.
    logged: whether there are metrics: the excess of every layer at the parameters
      before the step.
  """
  model = CNN(config.depth, config.width)
  tx = digits.optimizer(config, "without", RATE)

  @jax.jit
  def train_step(state, images, labels):
    def loss(params):
      total, stats = digits.batch_loss(model, params, state.batch_stats, images, labels)
      values = {}
      if arm == "energy":
        values = layer_energies(params, OBJECTIVE, rules=RULES)
        total = total + config.weight * sum(value for value in values.values())
      elif logged:
        # Only looked at: no gradient is to be prepared.
        values = layer_energies(jax.lax.stop_gradient(params), OBJECTIVE, rules=RULES)
      # The objective is log(1 + excess).
      excess = {path: jnp.expm1(value) for path, value in values.items()}
      return total, (stats, excess if logged else {})

    grads, (stats, metrics) = jax.grad(loss, has_aux=True)(state.params)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return State(params, stats, opt_state), metrics

  return train_step


def new_state(config: digits.Config, seed: int) -> State:
  """What is trained, at its initialization."""
  params, stats = digits.init(CNN(config.depth, config.width), jax.random.key(seed))
  tx = digits.optimizer(config, "without", RATE)
  return State(params, stats, tx.init(params))


def compute(
  depth: int,
  width: int,
  images_per_class: int,
  steps: int,
  every: int,
  seeds: list[int],
  on_run: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
  """Trains on handwritten digits, with the energy and without.

  Args:
    depth: convolutions of the network.
    width: their channels.
    images_per_class: that are trained on.
    steps: of training.
    every: how many steps it is from one log to the next; the last step is logged, too.
    seeds: of images, initialization and order of the data.
    on_run: is called after every run.

  Returns:
    ``{"steps": [logged], "runs": {arm: [{"seed": seed, "test_error": percent,
    "excess": {path: [excess at each logged step]}}]}}``, seeds in their order.
  """
  config = config_of(depth, width, steps)
  images, labels = digits.load_digits()
  logged = [s for s in range(steps) if s % every == 0 or s == steps - 1]
  runs = {arm: [] for arm in ARMS}
  for arm in ARMS:
    train_step = make_train_step(config, arm, logged=True)
    for seed in seeds:
      split = digits.split(labels, images_per_class, seed)
      runs[arm].append(_train(config, train_step, images, labels, split, seed, logged))
      on_run()
  return {"steps": logged, "runs": runs}


def _train(config, train_step, images, labels, split, seed, logged):
  """One run, with the images, initialization and order of experiments.quickstart."""
  train_rows, test_rows = split
  rng = np.random.default_rng(1000 + seed)
  state, history = new_state(config, seed), []
  of_steps = digits.batches(train_rows, config.batch_size, config.steps, rng)
  for step, batch in enumerate(of_steps):
    state, metrics = train_step(state, images[batch], labels[batch])
    if step in logged:
      history.append(jax.device_get(metrics))
  error, _ = digits.evaluate(
    CNN(config.depth, config.width), state, images[test_rows], labels[test_rows]
  )
  return {
    "seed": seed,
    "test_error": round(float(error), 3),
    "excess": {
      path: [round(float(metrics[path]), 4) for metrics in history]
      for path in history[0]
    },
  }


COST: dict[str, dict[str, Any]] = {
  "cpu": {"depth": 15, "width": 8, "steps": 200, "rounds": 241},
  "smoke": {"depth": 3, "width": 4, "steps": 5, "rounds": 8},
}


def time_steps(depth: int, width: int, steps: int, rounds: int) -> dict[str, Any]:
  """Times training steps and looks at the network, in turns.

  Args:
    depth: convolutions of the network.
    width: their channels.
    steps: of the schedule.
    rounds: of the turns.

  Returns:
    ``{"seconds": {name: [rounds]}, "batch_size": images}``. Of a name "ARM, logged" a
    step puts metrics out; "energy, read" also takes them to the host.
  """
  config = config_of(depth, width, steps)
  rng = np.random.default_rng(0)
  images = rng.normal(size=(config.batch_size, 14, 14, 1)).astype(np.float32)
  batch = images, rng.integers(10, size=config.batch_size).astype(np.int32)
  state = new_state(config, 0)

  def step_of(arm, logged):
    train_step = make_train_step(config, arm, logged=logged)
    return lambda: train_step(state, *batch)

  @jax.jit
  def angles(params):
    return {k: nearest_neurons(w)[0] for k, w in neuron_matrices(params).items()}

  functions: dict[str, Callable[[], Any]] = {arm: step_of(arm, False) for arm in ARMS}
  functions |= {f"{arm}, logged": step_of(arm, True) for arm in ARMS}
  functions["energy, read"] = lambda: jax.device_get(functions["energy, logged"]()[1])
  functions["describe"] = lambda: describe(state.params, Riesz(2.0), rules=RULES).rows
  functions["angles"] = lambda: jax.device_get(angles(state.params))
  with rich.progress.Progress() as progress:
    seconds = time_in_turns(functions, rounds, progress, "steps")
  return {"seconds": seconds, "batch_size": config.batch_size}


def medians(result: dict[str, Any], arm: str) -> dict[str, np.ndarray]:
  """The excess of every layer at every logged step, median over the seeds."""
  runs, depth = result["runs"][arm], result["settings"]["depth"]
  paths = [*(f"conv{i}/kernel" for i in range(depth)), HEAD]
  return {path: np.median([run["excess"][path] for run in runs], 0) for path in paths}


def layers(result: dict[str, Any]) -> str:
  """Of every layer the excess at the start, at its highest, and at the end."""
  header = ["layer", "start", "without: highest", "in step", "end", "with energy: end"]
  curves, lines = {arm: medians(result, arm) for arm in ARMS}, []
  for path, curve in curves["without"].items():
    highest = int(np.argmax(curve))
    cells = [curve[0], curve[highest], curve[-1], curves["energy"][path][-1]]
    # No sign of what is rounded to zero.
    texts = [f"{cell:.2f}".replace("-0.00", "0.00") for cell in cells]
    texts.insert(2, str(result["steps"][highest]))
    lines.append([path.removesuffix("/kernel"), *texts])
  return markdown(header, *lines)


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
      curve = np.maximum(curves[path], LEAST)
      if path == HEAD:
        panel.plot(steps, curve, color="#777777", linestyle="--", label="classifier")
      else:
        layer = int(path.removesuffix("/kernel").removeprefix("conv"))
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
    error = mean_and_spread((run["test_error"] for run in result["runs"][arm]), 1)
    panel.set_title(f"{NAMES[arm]}: test error {error}%", fontsize=10)
  panels[0].set_ylabel("relative excess, median over the seeds")
  handles, labels = panels[0].get_legend_handles_labels()
  figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=9)
  bar = figure.colorbar(scale, ax=panels, label="convolution; conv0 sees the image")
  bar.set_ticks(range(0, depth, 2), labels=[f"conv{i}" for i in range(0, depth, 2)])
  return figure


def main(
  preset: Literal["smoke", "cpu"] = "cpu",
  output: pathlib.Path = pathlib.Path("runs/monitoring"),
  results: pathlib.Path | None = None,
) -> None:
  """Trains, times, and makes the table and the picture.

  Args:
    preset: "smoke" (seconds, for the tests) or "cpu" (minutes on two cores).
    output: folder of monitoring.md and images; "docs" for those of the documentation.
    results: folder of what is computed; by default the one that is kept with the code,
      or OUTPUT for the preset smoke.
  """
  console = Console()
  results = results or (RESULTS if preset == "cpu" else output)
  with told_in_a_line(console):
    make_folder(output / "images")
    make_folder(results)
    settings = SETTINGS[preset]
    with rich.progress.Progress(console=console) as progress:
      bar = progress.add_task("training", total=len(ARMS) * len(settings["seeds"]))
      run = functools.partial(compute, on_run=lambda: progress.advance(bar))
      trained = kept(results / "training.json", settings, run)
    kept(results / "cost.json", COST[preset], time_steps)
    path = output / "monitoring.md"
    page = filled(path, "During training", {"layers": layers(trained)})
  path.write_text(page)
  save_all([(output / "images" / "monitoring.png", draw(trained))])
  console.print(f"Wrote {path} and a picture.", highlight=False)


if __name__ == "__main__":
  tyro.cli(main)
