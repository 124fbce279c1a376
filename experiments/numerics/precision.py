"""How accurate cosines are for close neurons, by how their products are computed.

An accelerator multiplies short numbers much faster than float32. A float32 number is
the sum of three bfloat16 parts, or nearly of two TF32 parts, and a product of such sums
is a sum of products of parts, of which the smallest may be left out. Here each is
emulated in NumPy, with float32 sums, and computed by the compiler of this device where
that takes it. The error is that of the squared distance 2 - 2 cos, relative to float64
from the same neurons by differences: the worst of many pairs at an angle. Unit vectors
are rounded to float32 before any product: the error of exact products is what is left.

  python -m experiments.numerics.precision                    # seconds
  python -m experiments.numerics.precision --preset smoke     # in the tests

The run writes OUTPUT/precision.json and prints the table of docs/numerics.md. What
tensor cores add up, they may round in other ways than float32 sums do.
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import rich.markdown
import tyro
from rich.console import Console

from experiments.environment import environment
from experiments.kept import write_json
from experiments.numerics.accuracy import rounded
from experiments.numerics.accuracy_tables import short
from experiments.report.markdown import markdown
from mhe_jax.sphere import normalize


class Algorithm(NamedTuple):
  """A way to multiply float32 matrices.

  Attributes:
    precision: what JAX calls it.
    bits: of the mantissa of a part; 23 are all, in one part.
    parts: of each number.
    order: products of parts i and j are taken up to this i + j.
    peak: TFLOP/s of an NVIDIA H200 in such parts, by its data sheet, dense.
  """

  precision: jax.lax.Precision | jax.lax.DotAlgorithmPreset
  peak: float
  bits: int
  parts: int = 1
  order: int = 0

  @property
  def terms(self) -> list[tuple[int, int]]:
    """The parts that are multiplied, products of the smallest first."""
    terms = [(i, j) for i in range(self.parts) for j in range(self.parts)]
    return sorted((ij for ij in terms if sum(ij) <= self.order), key=sum, reverse=True)

  @property
  def reachable(self) -> float:
    """TFLOP/s of products of float32, at most."""
    return self.peak / len(self.terms)


_PRESETS = jax.lax.DotAlgorithmPreset
FLOAT32, TF32, BFLOAT16 = 67.0, 494.7, 989.5
ALGORITHMS = {
  "float32": Algorithm(jax.lax.Precision.HIGHEST, FLOAT32, 23),
  "bfloat16 x 9": Algorithm(_PRESETS.BF16_BF16_F32_X9, BFLOAT16, 7, 3, 4),
  "bfloat16 x 6": Algorithm(_PRESETS.BF16_BF16_F32_X6, BFLOAT16, 7, 3, 2),
  "TF32 x 3": Algorithm(_PRESETS.TF32_TF32_F32_X3, TF32, 10, 2, 1),
  "bfloat16 x 3": Algorithm(_PRESETS.BF16_BF16_F32_X3, BFLOAT16, 7, 2, 1),
  "TF32": Algorithm(_PRESETS.TF32_TF32_F32, TF32, 10),
  "bfloat16": Algorithm(_PRESETS.BF16_BF16_F32, BFLOAT16, 7),
}


@dataclasses.dataclass(frozen=True)
class Config:
  """Pairs of neurons of ``d`` weights, at each of some angles (radians)."""

  seed: int = 0
  pairs: int = 50
  d: int = 512
  angles: tuple[float, ...] = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3)


PRESETS = {"cpu": Config(), "smoke": Config(pairs=8, d=64, angles=(1e-1, 1e-2))}


def emulated(x: np.ndarray, y: np.ndarray, algorithm: Algorithm) -> np.ndarray:
  """The product of float32 matrices by products of their parts."""
  x_parts, y_parts = (_parts(z, algorithm) for z in (x, y))
  return functools.reduce(np.add, [x_parts[i] @ y_parts[j] for i, j in algorithm.terms])


def _parts(x, algorithm):
  """Numbers of few bits whose sum is nearly x: a product of two of them is exact."""
  parts = []
  for _ in range(algorithm.parts):
    parts.append(np.asarray(jax.lax.reduce_precision(x, 8, algorithm.bits)))
    x = x - parts[-1]
  return parts


def compiled(x: np.ndarray, y: np.ndarray, algorithm: Algorithm) -> np.ndarray | None:
  """The product as the compiler of this device makes it; None where it refuses."""
  multiply = functools.partial(jnp.matmul, precision=algorithm.precision)
  try:
    return np.asarray(jax.jit(multiply)(x, y))
  except Exception:  # Of whatever kind a compiler raises.
    return None


def pairs_at(config: Config, angle: float) -> tuple[np.ndarray, np.ndarray]:
  """Two neurons of each pair ``[pairs, d]``, float32, of different norms."""
  rng = np.random.default_rng(config.seed)
  q = np.linalg.qr(rng.normal(size=(config.pairs, config.d, 2)))[0]
  first, across = q[..., 0], q[..., 1]
  second = math.cos(angle) * first + math.sin(angle) * across
  norms = rng.uniform(0.5, 2.0, (2, config.pairs, 1))
  return tuple((norms * [first, second]).astype(np.float32))


def worst_error(
  config: Config, angle: float, product: Callable[..., np.ndarray | None]
) -> float | None:
  """Of the squared distances of pairs at an angle; None if there is no product."""
  first, second = pairs_at(config, angle)
  u, v = (np.asarray(normalize(jnp.asarray(w))) for w in (first, second))
  cosines = product(u, v.T)
  if cosines is None:
    return None
  squared = 2 - 2 * cosines.diagonal()
  u, v = (
    w / np.linalg.norm(w, axis=1, keepdims=True)
    for w in (first.astype(float), second.astype(float))
  )
  exact = np.sum((u - v) ** 2, axis=1)
  return rounded(np.max(np.abs(squared.astype(float) / exact - 1)))


def exact(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """The product in float64."""
  return x.astype(float) @ y.astype(float)


def measure(config: Config) -> dict:
  """Worst errors at each angle: of exact products, and ``{algorithm: {how: ...}}``."""

  def errors(product):
    return [worst_error(config, angle, product) for angle in config.angles]

  return {
    "exact": errors(exact),
    "errors": {
      name: {
        how.__name__: errors(functools.partial(how, algorithm=algorithm))
        for how in (emulated, compiled)
      }
      for name, algorithm in ALGORITHMS.items()
    },
  }


def table(result: dict) -> str:
  """A row for each algorithm, as emulated, with what an H200 could reach at most."""
  angles = [f"{short(angle)} rad" for angle in result["config"]["angles"]]
  rows = [["products", *angles, "TFLOP/s, at most"]]
  rows.append(["exact", *map(short, result["exact"]), ""])
  for name, errors in result["errors"].items():
    reachable = f"{ALGORITHMS[name].reachable:.0f}"
    rows.append([name, *map(short, errors["emulated"]), reachable])
  return markdown(*rows)


def main(
  preset: Literal["smoke", "cpu"] = "cpu",
  output: pathlib.Path = pathlib.Path("runs"),
) -> None:
  """Measures errors of squared distances by how products are computed.

  Args:
    preset: "smoke" (for the tests) or "cpu".
    output: folder for precision.json.
  """
  config, console = PRESETS[preset], Console()
  output.mkdir(parents=True, exist_ok=True)
  result = {
    "command": "python -m experiments.numerics.precision",
    "config": dataclasses.asdict(config),
    **environment(),
    **measure(config),
  }
  write_json(output / "precision.json", result)
  console.print(rich.markdown.Markdown(table(result)))
  refused = [k for k, e in result["errors"].items() if e["compiled"][0] is None]
  console.print(f"Not compiled for {result['device']}: {', '.join(refused) or 'none'}.")
  console.print(f"Wrote {output}/precision.json.")


if __name__ == "__main__":
  tyro.cli(main)
