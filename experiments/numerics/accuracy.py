"""How far rounding takes energies and gradients from what they would be without it.

Everything is compared with NumPy in float64, which computes from the very same rounded
parameters, by differences of unit vectors and not by cosines: its own error is 1e-10
for two neurons 1e-6 radians apart. The error of a value is relative; that of a gradient
is the norm of the difference over the norm of the exact one, each neuron's gradient
times the neuron's norm. Over random draws, the median and the worst are kept.

  python -m experiments.numerics.accuracy                    # a minute or two
  python -m experiments.numerics.accuracy --preset smoke     # seconds, in the tests

The run writes OUTPUT/accuracy.json and prints what docs/numerics.md takes from it.
"""

import dataclasses
import functools
import math
import pathlib
import time
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import rich.markdown
import rich.progress
import tyro
from rich.console import Console
from scipy.spatial.distance import cdist

import mhe_jax
from experiments.environment import environment
from experiments.kept import write_json
from experiments.numerics.accuracy_tables import claims, tables
from mhe_jax import Riesz, hyperspherical_energy
from mhe_jax.pair_sum import dense
from mhe_jax.sphere import normalize

POTENTIALS = {
  "s = 0": Riesz(0.0),
  "s = 1": Riesz(1.0),
  "s = 2": Riesz(2.0),
  "s = 1, geodesic": Riesz(1.0, "geodesic"),
}


@dataclasses.dataclass(frozen=True)
class Config:
  """What is measured: angles (radians) of one pair, alone or among ``n`` neurons."""

  seed: int = 0
  draws: int = 32
  n: int = 256
  d: int = 64
  potentials: tuple[str, ...] = tuple(POTENTIALS)
  angles: tuple[float, ...] = (
    *(1e-6, 1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0, math.pi / 2),
    *(math.pi - 1e-2, math.pi - 1e-4),
  )
  bfloat16_angles: tuple[float, ...] = (1e-2, 1e-1, 1.0, math.pi / 2)
  norms: tuple[float, ...] = (1e-30, 1e-15, 1.0, 1e15, 1e30)
  # Convolutions of 3 x 3 on 3 to 256 channels, and a dense layer.
  layers: tuple[tuple[int, int], ...] = (
    *((64, 27), (64, 576), (128, 576), (128, 1152)),
    *((256, 1152), (256, 2304), (256, 4096)),
  )
  layer_draws: int = 4


PRESETS = {
  "cpu": Config(),
  "smoke": Config(
    draws=2,
    n=2,
    potentials=("s = 2", "s = 1, geodesic"),
    angles=(1e-5, 1e-2, 1.0, math.pi - 1e-2),
    bfloat16_angles=(1.0,),
    norms=(1e-30, 1e30),
    layers=((64, 27),),
    layer_draws=1,
  ),
}


def exact(w: np.ndarray, potential: Riesz) -> tuple[float, np.ndarray]:
  """Mean energy of ``[n, d]`` and its gradient by directions, without softening."""
  w, n, s = w.astype(np.float64), len(w), potential.s
  u = w / np.linalg.norm(w, axis=1, keepdims=True)
  others = 1.0 - np.eye(n)
  # 2 sin(theta / 2), with 1 on the diagonal, and 2 cos(theta / 2).
  near, far = cdist(u, u) + np.eye(n), cdist(u, -u)
  if potential.metric == "chordal":
    z, z_by_minus_cosine = near, 1.0 / near
  else:
    z, z_by_minus_cosine = 2.0 * np.arctan2(near, far), 2.0 / (near * far)
  energies = -np.log(z) if s == 0 else z**-s
  gradient = (others * (s or 1.0) * z ** (-s - 1) * z_by_minus_cosine) @ u
  gradient -= (gradient * u).sum(1, keepdims=True) * u
  num_pairs = n * (n - 1) / 2
  return (others * energies).sum() / (2.0 * num_pairs), gradient / num_pairs


def tf32_energy(w: jax.Array, potential: Riesz) -> jax.Array:
  """The energy with cosines of unit vectors that have 10 bits of mantissa, as TF32."""
  units = normalize(w)
  rounded = jax.lax.reduce_precision(units, exponent_bits=8, mantissa_bits=10)
  units = units + jax.lax.stop_gradient(rounded - units)  # Exactly `rounded`.
  num_pairs = w.shape[-2] * (w.shape[-2] - 1) / 2
  return dense.dense_sum(units, potential, half_space=False) / num_pairs


@functools.partial(jax.jit, static_argnums=(0, 1))
def values_and_gradients(energy, potential, w):
  """Energies ``[draws]`` and gradients ``[draws, n, d]``."""

  def total(w):
    energies = energy(w, potential)
    return energies.sum(), energies

  gradients, energies = jax.grad(total, has_aux=True)(w)
  return energies, gradients


def measure(config: Config, w: np.ndarray, truth: np.ndarray, **energies) -> dict:
  """Errors of every energy and potential for ``w`` ``[draws, n, d]``.

  They are relative to the exact energies of ``truth``, which is ``w`` or what it was
  before it was rounded.
  """
  case = {kind: {} for kind in energies}
  for name in config.potentials:
    potential = POTENTIALS[name]
    references = [exact(x, potential) for x in truth]
    for kind, energy in energies.items():
      found = values_and_gradients(energy, potential, jnp.asarray(w))
      values, gradients = (np.asarray(x).astype(np.float64) for x in found)
      gradients *= np.linalg.norm(w.astype(np.float64), axis=-1, keepdims=True)
      by_draw = [
        (abs(v / value - 1), np.linalg.norm(g - gradient) / np.linalg.norm(gradient))
        for v, g, (value, gradient) in zip(values, gradients, references)
      ]
      case[kind][name] = {
        what: {"median": rounded(np.median(error)), "worst": rounded(np.max(error))}
        for what, error in zip(("value", "gradient"), zip(*by_draw))
      }
  return case


def rounded(x) -> float:
  """Three significant digits, to keep the JSON short."""
  return float(f"{x:.3g}")


def draw(config: Config, n: int, angle: float | None) -> np.ndarray:
  """Random neurons ``[draws, n, d]``, of which the first two form the angle."""
  rng = np.random.default_rng(config.seed)
  u = rng.normal(size=(config.draws, n, config.d))
  if angle is not None:
    q = np.linalg.qr(np.swapaxes(u[:, :2], 1, 2))[0]  # Two orthonormal directions.
    u[:, 0] = q[..., 0]
    u[:, 1] = math.cos(angle) * q[..., 0] + math.sin(angle) * q[..., 1]
  u /= np.linalg.norm(u, axis=-1, keepdims=True)
  return u * rng.uniform(0.5, 2.0, (config.draws, n, 1))


def measure_angle(config: Config, n: int, angle: float | None) -> dict:
  """Errors in float32, and with the cosines of TF32."""
  w = draw(config, n, angle).astype(np.float32)
  energies = {"float32": hyperspherical_energy, "tf32": tf32_energy}
  return {"angle": angle, **measure(config, w, w, **energies)}


def measure_bfloat16(config: Config, n: int, angle: float | None) -> dict:
  """Errors against the bfloat16 numbers themselves, and those before rounding."""
  w = draw(config, n, angle)
  x = w.astype(jnp.bfloat16)
  computation = measure(config, x, x, computation=hyperspherical_energy)
  storage = measure(config, x, w, storage=hyperspherical_energy)
  return {"angle": angle, **computation, **storage}


def measure_norm(config: Config, norm: float | None) -> dict:
  """Errors for neurons of about a norm, or of random norms in the whole range."""
  w = draw(config, config.n, None)
  low, high = np.log10([norm or config.norms[0], norm or config.norms[-1]])
  w *= 10 ** np.random.default_rng(config.seed).uniform(low, high, (*w.shape[:2], 1))
  w = w.astype(np.float32)
  return {"norm": norm, **measure(config, w, w, float32=hyperspherical_energy)}


def measure_layer(config: Config, n: int, d: int) -> dict:
  """Half-space energy, s = 2: random, the bound, and the error of the excess."""
  potential, rng = Riesz(2.0), np.random.default_rng(config.seed)
  random = mhe_jax.uniform_energy(d, potential, half_space=True, n=n)
  bound = mhe_jax.energy_lower_bound(n, d, potential, half_space=True)
  worst = 0.0
  for w in rng.normal(size=(config.layer_draws, n, d)).astype(np.float32):
    excess = float(mhe_jax.relative_excess(w, potential, half_space=True))
    energy, _ = exact(np.concatenate([w, -w]), potential)
    worst = max(worst, abs(excess - (energy - bound) / (random - bound)))
  error = rounded(worst)
  return {"n": n, "d": d, "random": random, "bound": bound, "excess_error": error}


def run(config: Config) -> dict:
  """Measures everything; returns what the JSON holds."""
  start = time.perf_counter()
  n, angles, wide = config.n, config.angles, config.bfloat16_angles
  jobs = [
    *(("pair", measure_angle, (2, angle)) for angle in angles),
    *(("set", measure_angle, (n, angle)) for angle in (*angles, None)),
    *(("bfloat16_pair", measure_bfloat16, (2, angle)) for angle in wide),
    ("bfloat16_set", measure_bfloat16, (n, None)),
    *(("norms", measure_norm, (norm,)) for norm in (*config.norms, None)),
    *(("layers", measure_layer, layer) for layer in config.layers),
  ]
  measured = {section: [] for section, *_ in jobs}
  for section, function, arguments in rich.progress.track(jobs, "measuring"):
    measured[section].append(function(config, *arguments))
  return {
    "command": "python -m experiments.numerics.accuracy",
    "config": dataclasses.asdict(config),
    **environment(),
    "seconds": round(time.perf_counter() - start, 1),
    **measured,
  }


def main(
  preset: Literal["smoke", "cpu"] = "cpu",
  output: pathlib.Path = pathlib.Path("runs"),
) -> None:
  """Measures the errors of energies and gradients against float64.

  Args:
    preset: "smoke" (seconds, for the tests) or "cpu".
    output: folder for accuracy.json.
  """
  console = Console()
  output.mkdir(parents=True, exist_ok=True)
  result = run(PRESETS[preset])
  write_json(output / "accuracy.json", result)
  for table in tables(result):
    console.print(rich.markdown.Markdown(table))
  for claim in claims(result):
    console.print(claim, highlight=False)
  console.print(f"{result['seconds']} s; wrote {output}/accuracy.json.")


if __name__ == "__main__":
  tyro.cli(main)
