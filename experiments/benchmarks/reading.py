"""What it takes to read the rules of a program, beside tracing it.

A decoder of the size of GPT-2 XL, 48 layers, as plain dictionaries of abstract arrays:
its loss with a Python loop over the layers, as a scan over a stack of them, and the
gradients of both. Nothing is computed; the time is that of Python.

  python -m experiments.benchmarks.reading                   # a minute
  python -m experiments.benchmarks.reading --preset smoke    # seconds

The run writes OUTPUT/benchmark_reading.json and prints the summary.
"""

import dataclasses
import pathlib
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import rich.progress
import tyro
from rich.console import Console

from experiments.benchmarks.timing import ratio, time_in_turns
from experiments.environment import environment
from experiments.kept import write_json
from mhe_jax import layer_rules


@dataclasses.dataclass(frozen=True)
class Config:
  """The decoder, and how often each of the two is timed."""

  layers: int = 48
  width: int = 1600
  heads: int = 25
  vocabulary: int = 50257
  time: int = 1024
  rounds: int = 7


PRESETS = {
  "cpu": Config(),
  "smoke": Config(layers=3, width=8, heads=2, vocabulary=16, time=4, rounds=1),
}


def _norm(x, p):
  x = x - x.mean(-1, keepdims=True)
  return p["scale"] * x * jax.lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-6)


def _block(config: Config, x, p):
  """Attention to the past, and two dense layers."""
  parts = jnp.split(_norm(x, p["norm1"]) @ p["qkv"] + p["qkv_bias"], 3, axis=-1)
  q, k, v = (y.reshape(*y.shape[:2], config.heads, -1) for y in parts)
  scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
  past = jnp.tril(jnp.ones(scores.shape[-2:], bool))
  scores = jax.nn.softmax(jnp.where(past, scores, -jnp.inf))
  y = jnp.einsum("bhqk,bkhd->bqhd", scores, v).reshape(x.shape)
  x = x + y @ p["out"] + p["out_bias"]
  y = jax.nn.gelu(_norm(x, p["norm2"]) @ p["up"] + p["up_bias"])
  return x + y @ p["down"] + p["down_bias"]


def loss(config: Config, params, tokens):
  """Of the next tokens; blocks are a list, or a tree of stacks."""
  x = params["tokens"][tokens] + params["positions"][: tokens.shape[1]]
  if isinstance(params["blocks"], list):
    for p in params["blocks"]:
      x = _block(config, x, p)
  else:
    step = lambda x, p: (_block(config, x, p), None)  # noqa: E731
    x, _ = jax.lax.scan(step, x, params["blocks"])
  logits = _norm(x, params["norm"]) @ params["tokens"].T
  logs = jax.nn.log_softmax(logits[:, :-1])
  return -jnp.take_along_axis(logs, tokens[:, 1:, None], axis=-1).mean()


def parameters(config: Config, scanned: bool):
  """Shapes of all parameters."""
  d = config.width
  array = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)  # noqa: E731

  def block(*stack):
    shapes = {"qkv": (d, 3 * d), "out": (d, d), "up": (d, 4 * d), "down": (4 * d, d)}
    weights = {name: array(*stack, *shape) for name, shape in shapes.items()}
    biases = {f"{name}_bias": array(*stack, s[-1]) for name, s in shapes.items()}
    norms = {name: {"scale": array(*stack, d)} for name in ("norm1", "norm2")}
    return {**weights, **biases, **norms}

  return {
    "tokens": array(config.vocabulary, d),
    "positions": array(config.time, d),
    "blocks": block(config.layers) if scanned else [block()] * config.layers,
    "norm": {"scale": array(d)},
  }


def run(config: Config, console: Console) -> dict:
  """Times reading and tracing in turns."""
  tokens = jax.ShapeDtypeStruct((2, config.time), jnp.int32)
  programs = []
  with rich.progress.Progress(console=console) as progress:
    for scanned in (False, True):
      params = parameters(config, scanned)
      for gradients in (False, True):
        # Functions of their own, or JAX would remember the trace.
        def fresh(gradients=gradients):
          function = lambda p, t: loss(config, p, t)  # noqa: E731
          return jax.value_and_grad(function) if gradients else function

        name = ("scan" if scanned else "loop") + ", gradients" * gradients
        functions = {
          "tracing": lambda p=params, f=fresh: jax.make_jaxpr(f())(p, tokens),
          "reading": lambda p=params, f=fresh: layer_rules(f(), p, tokens),
        }
        equations = len(functions["tracing"]().jaxpr.eqns)
        rules = functions["reading"]()
        programs.append(
          {
            "name": name,
            "equations": equations,
            "parameters": sum(rule.axes is not None for rule in rules),
            "seconds": time_in_turns(functions, config.rounds, progress, name),
          }
        )
  return {
    "command": "python -m experiments.benchmarks.reading",
    "config": dataclasses.asdict(config),
    **environment(),
    "programs": programs,
  }


def summarize(result: dict) -> str:
  """The result in sentences, from the JSON alone."""
  lines = []
  for program in result["programs"]:
    seconds = program["seconds"]
    reading, tracing = (np.median(seconds[k]) for k in ("reading", "tracing"))
    lines.append(
      f"{program['name']}: {program['parameters']} parameters with neurons read in "
      f"{reading:.2f} s, {ratio(seconds, 'reading', 'tracing'):.1f} times the "
      f"{tracing:.2f} s of jax.make_jaxpr ({program['equations']} equations)."
    )
  return f"{result['config']['layers']} layers. " + " ".join(lines)


def main(
  preset: Literal["smoke", "cpu"] = "cpu",
  output: pathlib.Path = pathlib.Path("runs"),
) -> None:
  """Times the reading of programs.

  Args:
    preset: "smoke" (seconds, for the tests) or "cpu".
    output: folder for benchmark_reading.json.
  """
  console = Console()
  output.mkdir(parents=True, exist_ok=True)
  result = run(PRESETS[preset], console)
  path = output / "benchmark_reading.json"
  write_json(path, result)
  console.print(summarize(result), highlight=False)
  console.print(f"Wrote {path}.")


if __name__ == "__main__":
  tyro.cli(main)
