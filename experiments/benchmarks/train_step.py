"""What the energy costs in training: steps of CNN-9 without and with it.

All layers in half-space, s = 2, momentum, weight decay: as the paper trains (batch 128,
32 x 32 images), and the small network of the paper's experiments on CPU. The steps take
turns in one process.

  python -m experiments.benchmarks.train_step                    # minutes on two cores
  python -m experiments.benchmarks.train_step --preset smoke     # seconds, in the tests

The run writes OUTPUT/benchmark_train_step.json and prints the summary.
"""

import dataclasses
import pathlib
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import rich.progress
import tyro
from rich.console import Console

import mhe_jax
from experiments.benchmarks.timing import ratio, time_in_turns
from experiments.environment import environment
from experiments.kept import write_json
from experiments.models import CNN
from mhe_jax import Riesz


@dataclasses.dataclass(frozen=True)
class Config:
  """A network, and how often a step is timed."""

  depth: int = 3
  widths: tuple[int, int, int] = (64, 128, 256)
  batch_size: int = 128
  image_size: int = 32
  rounds: int = 31


PRESETS = {
  "cpu": (
    Config(),
    Config(widths=(16, 32, 64), batch_size=64, image_size=16, rounds=101),
  ),
  "smoke": (
    Config(depth=1, widths=(4, 8, 8), batch_size=2, rounds=2),
    Config(depth=1, widths=(4, 4, 4), batch_size=2, image_size=16, rounds=2),
  ),
}


def run(config: Config, progress: rich.progress.Progress) -> dict:
  """Times both steps, and the energy's value and gradient alone."""
  model = CNN(depth=config.depth, widths=config.widths)
  rng = np.random.default_rng(0)
  shape = (config.batch_size, config.image_size, config.image_size, 3)
  images = jnp.asarray(rng.normal(size=shape), jnp.float32)
  labels = jnp.asarray(rng.integers(100, size=config.batch_size))
  variables = model.init(jax.random.key(0), images[:1])
  params, statistics = variables["params"], variables["batch_stats"]
  sgd = optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(0.1, momentum=0.9))

  def compiled_step(tx):
    def step(params, statistics, opt_state):
      def loss(params):
        logits, updates = model.apply(
          {"params": params, "batch_stats": statistics},
          images,
          train=True,
          mutable=["batch_stats"],
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(
          jnp.asarray(logits), labels
        )
        return losses.mean(), updates["batch_stats"]

      grads, new_statistics = jax.grad(loss, has_aux=True)(params)
      updates, opt_state = tx.update(grads, opt_state, params)
      return optax.apply_updates(params, updates), new_statistics, opt_state

    arguments = params, statistics, tx.init(params)
    compiled = jax.jit(step).lower(*arguments).compile()
    return lambda: compiled(*arguments)

  def energy(params):
    return mhe_jax.network_energy(params, Riesz(2.0))

  energy_alone = jax.jit(jax.value_and_grad(energy)).lower(params).compile()
  functions = {
    "without": compiled_step(sgd),
    "with": compiled_step(mhe_jax.with_hyperspherical_energy(sgd, 1.0, Riesz(2.0))),
    "energy alone": lambda: energy_alone(params),
  }
  return {
    "config": dataclasses.asdict(config),
    "layers": len(mhe_jax.neuron_matrices(params)),
    "seconds": time_in_turns(functions, config.rounds, progress, "steps"),
  }


def summarize(result: dict) -> list[str]:
  """A sentence or two on each network, from the JSON alone."""
  return [_sentences(network) for network in result["networks"]]


def costs(result: dict) -> str:
  """What the energy adds to a step of each network, in words."""
  costs = ", ".join(
    f"about {100 * _share(network['seconds']):.0f}% (CNN-{3 * config['depth']}, widths "
    f"{'/'.join(map(str, config['widths']))}, {config['batch_size']} images of "
    f"{config['image_size']} x {config['image_size']} pixels)"
    for network in result["networks"]
    for config in (network["config"],)
  )
  return f"{costs}; {result['device']}"


def _percent(seconds):
  return f"{100 * _share(seconds):+.1f}%"


def _share(seconds):
  """What the energy adds to a step: rounds differ by more than a percent."""
  return ratio(seconds, "with", "without") - 1


def _sentences(network):
  config, seconds = network["config"], network["seconds"]
  without, with_, alone = (
    f"{_milliseconds(np.median(seconds[name]))} ms"
    for name in ("without", "with", "energy alone")
  )
  side, widths = config["image_size"], "/".join(map(str, config["widths"]))
  return (
    f"A training step of CNN-{3 * config['depth']} (widths {widths}, "
    f"{config['batch_size']} images of {side} x {side} pixels) takes {without} "
    f"without and {with_} with the half-space energy of all its {network['layers']} "
    f"layers, {_percent(seconds)}; value and "
    f"gradient of the energy alone take {alone}."
  )


def _milliseconds(seconds):
  """With three digits."""
  return f"{1e3 * seconds:.0f}" if seconds > 0.1 else f"{1e3 * seconds:.3g}"


def main(
  preset: Literal["smoke", "cpu"] = "cpu",
  output: pathlib.Path = pathlib.Path("runs"),
) -> None:
  """Times training steps without and with the energy.

  Args:
    preset: "smoke" (seconds, for the tests) or "cpu".
    output: folder for benchmark_train_step.json.
  """
  console = Console()
  output.mkdir(parents=True, exist_ok=True)
  with rich.progress.Progress(console=console) as progress:
    networks = [run(config, progress) for config in PRESETS[preset]]
  result = {
    "command": "python -m experiments.benchmarks.train_step",
    **environment(),
    "networks": networks,
  }
  write_json(output / "benchmark_train_step.json", result)
  for text in summarize(result):
    console.print(text, highlight=False)
  console.print(f"Wrote {output}/benchmark_train_step.json.")


if __name__ == "__main__":
  tyro.cli(main)
