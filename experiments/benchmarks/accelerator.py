"""Exact energies on one accelerator: accuracy, time and memory, in at most six minutes.

Value and gradient, float32. Each way to multiply (experiments/numerics/precision.py) is
made that of the library, and compared with the two products U U^T and K U in the same
and in float32; with naive JAX, and with PyTorch compiled, where it is installed.

  python -m experiments.benchmarks.accelerator                    # on an NVIDIA H200
  python -m experiments.benchmarks.accelerator --preset smoke     # in the tests

Parts are measured one after the other; those that time is too short for are left out.
After each, OUTPUT/benchmark_accelerator.json is written anew. At the end a summary is
printed: what share of its rivals' time, and of what the device can reach, was needed.
"""

import contextlib
import dataclasses
import functools
import pathlib
import time
import unittest.mock
from collections.abc import Iterator
from typing import Literal

import jax
import jax.numpy as jnp
import rich.progress
import tyro
from rich.console import Console

from experiments.benchmarks import gpt_step, peers
from experiments.benchmarks.energy import installed, neurons, ours
from experiments.benchmarks.timing import ratio, time_in_turns
from experiments.environment import environment
from experiments.kept import write_json
from experiments.numerics import precision
from experiments.numerics.precision import ALGORITHMS, Algorithm
from mhe_jax.pair_sum import product


@dataclasses.dataclass(frozen=True)
class Config:
  """Shapes are (n, d): neurons, and weights of each."""

  shapes: tuple[tuple[int, int], ...] = ((8192, 512), (65536, 128), (131072, 64))
  algorithms: tuple[str, ...] = ("float32", "bfloat16 x 6", "TF32 x 3")
  rivals_up_to: int = 65536  # More rows are more pairs than fit in memory.
  tiles: tuple[int, ...] = (512, 1024, 2048, 4096, 8192)
  rounds: int = 5
  accuracy: precision.Config = dataclasses.field(default_factory=precision.Config)
  step: gpt_step.Config = dataclasses.field(
    default_factory=lambda: gpt_step.Config(768, 12, 1024, 8, 1, 5)
  )


PRESETS = {
  "full": Config(),
  "smoke": Config(
    ((64, 8),), ("float32", "bfloat16 x 6"), 64, (16, 32), 1,
    precision.PRESETS["smoke"], gpt_step.PRESETS["smoke"],
  ),
}  # fmt: skip


@contextlib.contextmanager
def multiplied_by(algorithm: Algorithm) -> Iterator[None]:
  """Makes it the library's own."""
  with unittest.mock.patch.object(product, "of_float32", lambda: algorithm.precision):
    jax.clear_caches()
    yield
  jax.clear_caches()


def two_products(w, algorithm):
  """The arithmetic that the gradient is made of: U U^T, then K U."""
  x = jnp.asarray(w)
  multiply = functools.partial(jnp.matmul, precision=algorithm.precision)
  compiled = jax.jit(lambda x: multiply(multiply(x, x.T), x)).lower(x).compile()
  return lambda: compiled(x)


def measure_shape(config: Config, shape: tuple[int, int], progress) -> dict:
  """Seconds of ours and of rivals, and MiB of ours besides arguments and results."""
  w, functions, mib, refused = neurons(*shape), {}, {}, []
  for name in config.algorithms:
    algorithm = ALGORITHMS[name]
    if not product.compiles(algorithm.precision):
      refused.append(name)
      continue
    with multiplied_by(algorithm):
      functions[f"energy, {name}"], mib[name] = ours(w)
    if shape[0] <= config.rivals_up_to:
      functions[f"two products, {name}"] = two_products(w, algorithm)
  if shape[0] <= config.rivals_up_to:
    functions["naive JAX"] = peers.naive_jax(w)
    if installed("torch"):
      functions["PyTorch, compiled"] = peers.pytorch(w, compiled=True)
  title = "{} x {}".format(*shape)
  seconds = time_in_turns(functions, config.rounds, progress, title)
  return {"shape": shape, "seconds": seconds, "mib": mib, "refused": refused}


def measure_tiles(config: Config, progress) -> dict:
  """Sizes of tiles, as the library multiplies here."""
  w = neurons(*config.shapes[0])
  functions = {str(size): ours(w, block_size=size)[0] for size in config.tiles}
  return time_in_turns(functions, config.rounds, progress, "tiles")


def run(config: Config, minutes: float, save, progress) -> dict:
  """Measures part by part; ``save`` takes what there is after each."""
  start = time.perf_counter()
  result = {
    "command": "python -m experiments.benchmarks.accelerator",
    "config": dataclasses.asdict(config),
    **environment(),
    "backend": product.backend(),
    "left_out": [],
  }
  parts = {"accuracy": lambda: precision.measure(config.accuracy)}
  for shape in config.shapes:
    parts["{} x {}".format(*shape)] = functools.partial(
      measure_shape, config, shape, progress
    )
  parts["tiles"] = lambda: measure_tiles(config, progress)
  parts["step"] = lambda: gpt_step.run(config.step, progress, time.perf_counter)
  for name, part in parts.items():
    if time.perf_counter() - start > 60 * minutes * 0.75:
      result["left_out"].append(name)
      continue
    result[name] = part()
    result["minutes"] = round((time.perf_counter() - start) / 60, 2)
    save(result)
  return result


def summarize(result: dict) -> list[str]:
  """What was measured, a line each."""
  lines = []
  for shape in result["config"]["shapes"]:
    n, d = shape
    part = result.get(f"{n} x {d}")
    if part is None:
      continue
    seconds = part["seconds"]
    for name in part["mib"]:
      own = seconds[ours_ := f"energy, {name}"]
      # Three products of half of the pairs, of two operations each.
      speed = 3 * n * n * d / min(own) / 1e12
      share = 100 * speed / ALGORITHMS[name].reachable
      against = [
        f"{ratio(seconds, ours_, other):.2f} of {other}"
        for other in seconds
        if not other.startswith("energy")
      ]
      lines.append(
        f"{n} x {d}, {name}: {1e3 * min(own):.2f} ms, {part['mib'][name]:.0f} MiB, "
        f"{speed:.1f} TFLOP/s ({share:.0f}% of an H200's); "
        + ("; ".join(against) or "no rival fits")
      )
    if part["refused"]:
      lines.append(f"{n} x {d}: refused by the compiler: {', '.join(part['refused'])}")
  for size, times in result.get("tiles", {}).items():
    lines.append(f"tiles of {size}: {1e3 * min(times):.2f} ms")
  if "step" in result:
    seconds = result["step"]["seconds"]
    for name in gpt_step.ARMS:
      ms = 1e3 * min(seconds[name])
      lines.append(f"step of a GPT, {name}: {ms:.2f} ms")
  return [*lines, f"left out: {', '.join(result['left_out']) or 'nothing'}"]


def main(
  preset: Literal["full", "smoke"] = "full",
  output: pathlib.Path = pathlib.Path("runs"),
  minutes: float = 6.0,
) -> None:
  """Measures accuracy, time and memory of exact energies on the default device.

  Args:
    preset: "full", for an accelerator, or "smoke" (for the tests).
    output: folder for benchmark_accelerator.json.
    minutes: no part begins after three quarters of them.
  """
  console = Console()
  output.mkdir(parents=True, exist_ok=True)
  save = functools.partial(write_json, output / "benchmark_accelerator.json")
  with rich.progress.Progress(console=console) as progress:
    result = run(PRESETS[preset], minutes, save, progress)
  save(result)
  for line in summarize(result):
    console.print(line, highlight=False, soft_wrap=True)
  console.print(f"Wrote {output}/benchmark_accelerator.json.")


if __name__ == "__main__":
  tyro.cli(main)
