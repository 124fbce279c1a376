"""Time and memory of exact energies, beside what a user would take instead.

Value and gradient, float32. Rivals take turns in one process; a figure is the median
over the rounds of the ratio of two times of the same round.

  python -m experiments.benchmarks.energy                    # minutes on two cores
  python -m experiments.benchmarks.energy --preset smoke     # seconds, in the tests

PyTorch and KeOps take part where they are installed: pip install -e ".[benchmarks]".
The run writes OUTPUT/benchmark_energy.json and .png and prints the tables.
"""

import dataclasses
import functools
import importlib.util
import json
import pathlib
import subprocess
import sys
import time
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import rich.progress
import tyro
from rich.console import Console

from experiments.benchmarks import peers
from experiments.benchmarks.tables import claims, tables
from experiments.benchmarks.timing import ratio, time_in_turns
from experiments.environment import environment
from experiments.kept import write_json
from experiments.models import OUTPUT_RULES, ResNet
from mhe_jax import Riesz, hyperspherical_energy, network_energy, neuron_matrices


@dataclasses.dataclass(frozen=True)
class Config:
  """Shapes are (n, d): neurons, and weights of each."""

  large: tuple[int, int] = (8192, 512)
  layers: tuple[tuple[int, int], ...] = (
    (64, 27), (64, 576), (128, 576), (128, 1152), (256, 1152), (256, 2304),
    (256, 4096), (512, 512), (512, 4608), (100, 256),
  )  # fmt: skip
  lazy: tuple[int, int] = (2048, 64)
  huge: tuple[tuple[int, int], ...] = ((65536, 64), (131072, 64))
  num_layers: int = 110  # Of the ResNet that is compiled.
  rounds: int = 11
  layer_rounds: int = 31
  huge_rounds: int = 2


PRESETS = {
  "cpu": Config(),
  "smoke": Config(
    large=(256, 32), layers=((32, 16), (64, 27)), lazy=(64, 8), huge=((2000, 8),),
    num_layers=8, rounds=2, layer_rounds=3, huge_rounds=1,
  ),
}  # fmt: skip


def installed(*modules: str) -> bool:
  """Whether a peer is there."""
  return all(importlib.util.find_spec(module) for module in modules)


def neurons(n: int, d: int) -> np.ndarray:
  """Random neurons."""
  return np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)


def ours(w, potential=Riesz(2.0), **options):
  """Our value and gradient: a function of no arguments, and its memory in MiB."""
  x = jnp.asarray(w)
  energy = functools.partial(hyperspherical_energy, potential=potential, **options)
  compiled = jax.jit(jax.value_and_grad(energy)).lower(x).compile()
  return (lambda: compiled(x)), temporary_mib(compiled)


def temporary_mib(compiled) -> float:
  """Memory besides arguments and results."""
  return round(compiled.memory_analysis().temp_size_in_bytes / 2**20, 2)


def two_products(w):
  """The arithmetic that the gradient is made of: U U^T, then K U."""
  x = jnp.asarray(w)

  def products(x):
    k = jnp.matmul(x, x.T, precision="highest")
    return jnp.matmul(k, x, precision="highest")

  compiled = jax.jit(products).lower(x).compile()
  return lambda: compiled(x)


def measure_large(config, progress) -> dict:
  """All potentials at one large size, and the rivals."""
  n, d = config.large
  w = neurons(n, d)
  functions = {"two products": two_products(w)}
  for s in (0, 1, 2):
    functions[f"s = {s}"] = ours(w, Riesz(s))[0]
    functions[f"s = {s}, half-space"] = ours(w, Riesz(s), half_space=True)[0]
    functions[f"s = {s}, geodesic"] = ours(w, Riesz(s, "geodesic"))[0]
  functions["dense, s = 2"] = ours(w, implementation="dense")[0]
  functions["naive JAX, s = 2"] = peers.naive_jax(w)
  if installed("torch"):
    functions["PyTorch, s = 2"] = peers.pytorch(w)
  seconds = time_in_turns(functions, config.rounds, progress, f"{n} x {d}")
  return {"shape": [n, d], "seconds": seconds}


def measure_blocks(config, progress) -> dict:
  """Tile sizes."""
  n, d = config.large
  w = neurons(n, d)
  sizes = [size for size in (256, 512, 1024, 2048) if size <= n]
  functions = {str(size): ours(w, block_size=size)[0] for size in sizes}
  functions = {"two products": two_products(w), **functions}
  seconds = time_in_turns(functions, max(2, config.rounds // 2), progress, "tile sizes")
  return {"shape": [n, d], "seconds": seconds}


def measure_layers(config, progress) -> list[dict]:
  """Layers of CNNs, half-space; PyTorch and naive JAX in full space, as they are."""
  results = []
  for n, d in config.layers:
    w = neurons(n, d)
    functions = {
      "default": ours(w, half_space=True)[0],
      "dense": ours(w, half_space=True, implementation="dense")[0],
      "naive JAX": peers.naive_jax(w),
    }
    if installed("torch"):
      functions["PyTorch"] = peers.pytorch(w)
    seconds = time_in_turns(functions, config.layer_rounds, progress, f"{n} x {d}")
    results.append({"shape": [n, d], "seconds": seconds})
  return results


def measure_lazy(config, progress) -> dict:
  """Against KeOps, which needs no matrix either."""
  n, d = config.lazy
  w = neurons(n, d)
  functions = {"default": ours(w)[0]}
  if installed("torch", "pykeops"):
    functions["KeOps"] = peers.keops(w)
  seconds = time_in_turns(functions, max(2, config.rounds // 3), progress, "KeOps")
  return {"shape": [n, d], "seconds": seconds}


def measure_huge(config, progress) -> list[dict]:
  """Each in a process of its own, which tells its peak of memory."""
  results = []
  for n, d in config.huge:
    task = progress.add_task(f"{n} x {d}", total=1)
    command = [sys.executable, "-m", "experiments.benchmarks.huge", str(n), str(d)]
    output = subprocess.run(
      [*command, str(config.huge_rounds)], check=True, capture_output=True, text=True
    ).stdout
    results.append(json.loads(output.splitlines()[-1]))
    progress.advance(task)
  return results


def measure_compilation(config, progress) -> dict:
  """Gradient of a deep network's energy, against a loop over its layers."""
  model = ResNet(num_layers=config.num_layers)
  images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
  params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]

  def loop(params, implementation):
    energies = [
      hyperspherical_energy(
        w,
        Riesz(2.0),
        half_space=path != "score/kernel",
        implementation=implementation,
      )
      for path, w in neuron_matrices(params).items()
    ]
    return jnp.stack(energies).sum()

  def network(params):
    return network_energy(params, Riesz(2.0), rules=OUTPUT_RULES)

  rivals = {
    "network_energy": network,
    "loop over the layers": functools.partial(loop, implementation=None),
    "loop over the layers, dense": functools.partial(loop, implementation="dense"),
  }
  seconds = {name: [] for name in rivals}
  task = progress.add_task("compilation", total=2 * len(rivals))
  for _ in range(2):
    for name, energy in rivals.items():
      jax.clear_caches()
      start = time.perf_counter()
      jax.jit(jax.grad(energy)).lower(params).compile()
      seconds[name].append(round(time.perf_counter() - start, 3))
      progress.advance(task)
  return {"num_layers": config.num_layers, "seconds": seconds}


def plot(result: dict, path: pathlib.Path) -> None:
  """Bars of the times at the large size, in units of the two products."""
  import matplotlib.pyplot as plt  # noqa: PLC0415  (only when called)

  large = result["large"]
  names = list(large["seconds"])
  ratios = [ratio(large["seconds"], name, "two products") for name in names]
  rivals = ("dense", "naive", "PyTorch")
  colors = [
    "#333333" if name == "two products"
    else "#bbbbbb" if name.startswith(rivals)
    else "#c8102e"
    for name in names
  ]  # fmt: skip
  figure, axes = plt.subplots(figsize=(7.5, 4), layout="constrained")
  bars = axes.barh(names, ratios, color=colors)
  axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
  axes.axvline(0.75, color="black", linewidth=0.8, linestyle=":")
  axes.annotate("arithmetic floor", (0.75, -0.9), fontsize=7, ha="center")
  axes.invert_yaxis()
  axes.set_xlabel("time of value and gradient / time of the two products U Uᵀ and K U")
  axes.set_title("{} neurons of {} weights, float32".format(*large["shape"]))
  axes.spines[["top", "right"]].set_visible(False)
  figure.savefig(path, dpi=150)
  plt.close(figure)


def main(
  preset: Literal["smoke", "cpu"] = "cpu",
  output: pathlib.Path = pathlib.Path("runs"),
) -> None:
  """Times exact energies beside their rivals.

  Args:
    preset: "smoke" (seconds, for the tests) or "cpu".
    output: folder for benchmark_energy.json and benchmark_energy.png.
  """
  console = Console()
  output.mkdir(parents=True, exist_ok=True)
  config = PRESETS[preset]
  with rich.progress.Progress(console=console) as progress:
    result = {
      "command": "python -m experiments.benchmarks.energy",
      "config": dataclasses.asdict(config),
      **environment(),
      "large": measure_large(config, progress),
      "blocks": measure_blocks(config, progress),
      "layers": measure_layers(config, progress),
      "lazy": measure_lazy(config, progress),
      "huge": measure_huge(config, progress),
      "compilation": measure_compilation(config, progress),
    }
  write_json(output / "benchmark_energy.json", result)
  plot(result, output / "benchmark_energy.png")
  for text in [*tables(result), *claims(result)]:
    console.print(text, highlight=False, soft_wrap=True)
    console.print()
  console.print(f"Wrote {output}/benchmark_energy.json and benchmark_energy.png.")


if __name__ == "__main__":
  tyro.cli(main)
