"""What `spread` costs a GPT of 12 blocks: compilation, and steps.

AdamW on 49 hidden matrices of width 256, an embedding and a head; 4,096 tokens a step.
Processor seconds, since a machine is seldom quiet; rivals take turns in one process.

  python -m experiments.benchmarks.gpt_step                    # minutes on two cores
  python -m experiments.benchmarks.gpt_step --preset smoke     # seconds, in the tests

The run writes OUTPUT/benchmark_gpt_step.json and prints the summary.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import rich.progress
import tyro
from rich.console import Console

import mhe_jax
from experiments.benchmarks.timing import ratio
from experiments.environment import environment
from experiments.kept import write_json
from experiments.models.transformer import LanguageModel
from experiments.report.markdown import markdown
from experiments.report.pages import wrapped
from mhe_jax import LayerRule

_RULES = (
  LayerRule("head/kernel", role="output"),
  LayerRule("positions", role="skip"),
)
_BASE = optax.adamw(1e-3)
ARMS = {
  "without": optax.with_extra_args_support(_BASE),
  "spread": mhe_jax.spread(_BASE, rules=_RULES),
  "spread, every=4": mhe_jax.spread(_BASE, every=4, rules=_RULES),
}
_STEPS = 4  # Of a turn: all that `every=4` does.


@dataclasses.dataclass(frozen=True)
class Config:
  """A language model, and how often it is compiled and timed."""

  width: int = 256
  blocks: int = 12
  length: int = 256
  batch_size: int = 16
  compilations: int = 2
  rounds: int = 3


PRESETS = {
  "full": Config(),
  "short": Config(compilations=1, rounds=1),
  "smoke": Config(8, 1, 8, 2, 1, 1),
}


def run(
  config: Config,
  progress: rich.progress.Progress,
  clock: Callable[[], float] = time.process_time,
) -> dict:
  """Compiles the steps, and takes them; ``clock`` tells the seconds."""
  model = LanguageModel(False, config.width, config.blocks, 4, config.length)
  rng = np.random.default_rng(0)
  tokens = jnp.asarray(rng.integers(256, size=(config.batch_size, config.length + 1)))
  init = jax.jit(model.init)

  def loss(params):
    logits = jnp.asarray(model.apply({"params": params}, tokens[:, :-1]))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
    return losses.mean()

  def step_of(tx):
    def step(params, state):
      updates, state = tx.update(jax.grad(loss)(params), state, params)
      return optax.apply_updates(params, updates), state

    return step

  params = init(jax.random.key(0), tokens[:1, :-1])["params"]
  states = {name: jax.jit(tx.init)(params) for name, tx in ARMS.items()}
  compilation, seconds = ({name: [] for name in ARMS} for _ in range(2))
  steps = {}
  total = (config.compilations + config.rounds) * len(ARMS)
  task = progress.add_task("steps", total=total)
  for _ in range(config.compilations):
    for name in rng.permutation(list(ARMS)).tolist():
      jax.clear_caches()
      start = clock()
      lowered = jax.jit(step_of(ARMS[name])).lower(params, states[name])
      steps[name] = lowered.compile()
      compilation[name].append(round(clock() - start, 4))
      progress.advance(task)
  for _ in range(config.rounds):
    for name in rng.permutation(list(ARMS)).tolist():
      carry = params, states[name]
      start = clock()
      for _ in range(_STEPS):
        carry = steps[name](*carry)
      jax.block_until_ready(carry)
      seconds[name].append(round((clock() - start) / _STEPS, 5))
      progress.advance(task)
  return {
    "config": dataclasses.asdict(config),
    "layers": len(mhe_jax.neuron_matrices(params, _RULES)),
    "compilation": compilation,
    "seconds": seconds,
  }


def table(result: dict) -> str:
  """A row for each form: processor seconds, and their ratio to those without."""
  rows = []
  for name in ARMS:
    compilation, seconds = (result[part] for part in ("compilation", "seconds"))
    rows.append(
      [
        name,
        f"{np.median(compilation[name]):.1f} s",
        f"{ratio(compilation, name, 'without'):.2f}",
        f"{np.median(seconds[name]):.2f} s",
        f"{ratio(seconds, name, 'without'):.3f}",
      ]
    )
  header = ["", "compilation", "/ without", "a step", "/ without"]
  return markdown(header, *rows)


def in_words(result: dict) -> str:
  """What was measured, and with what."""
  config = result["config"]
  times = "compiled {compilations} and timed {rounds} times".format(**config)
  return (
    f"{config['blocks']} blocks of width {config['width']}, {result['layers']} layers, "
    f"{config['batch_size'] * config['length']:,} tokens a step, AdamW; processor "
    f"seconds, {times}; jax {result['versions']['jax']}, {result['device']}."
  )


def texts(result: dict) -> dict[str, str]:
  """All that is generated of a page, by name."""
  return {"cost": f"{table(result)}\n\n{wrapped(in_words(result))}"}


def main(
  preset: Literal["full", "short", "smoke"] = "full",
  output: pathlib.Path = pathlib.Path("runs"),
) -> None:
  """Compiles and times training steps without and with forms of the energy.

  Args:
    preset: "full", "short" (each once), or "smoke" (seconds, for the
      tests).
    output: folder for benchmark_gpt_step.json.
  """
  console = Console()
  output.mkdir(parents=True, exist_ok=True)
  with rich.progress.Progress(console=console) as progress:
    measured = run(PRESETS[preset], progress)
  command = "python -m experiments.benchmarks.gpt_step"
  result = {"command": command, **environment(), **measured}
  write_json(output / "benchmark_gpt_step.json", result)
  console.print(f"{in_words(result)}\n{table(result)}", highlight=False)
  console.print(f"Wrote {output}/benchmark_gpt_step.json.")


if __name__ == "__main__":
  tyro.cli(main)
