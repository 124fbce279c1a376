"""Each objective alone, minimized over directions, and measured by all others."""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mhe_jax import (
  Gaussian,
  KoLeo,
  LogDet,
  LogMean,
  Objective,
  Orthonormality,
  Riesz,
  Separation,
  nearest_neurons,
  relative_excess,
)
from mhe_jax.objectives.pair_energy import as_objective


@dataclasses.dataclass(frozen=True)
class Isometry(Objective):
  r"""Largest deviation of a Gram eigenvalue from one: SRIP, of directions.

  .. math:: \lVert U U^\top - I \rVert_2

  References:
    Bansal et al., `Can We Gain More from Orthogonality Regularizations in Training Deep
    CNNs? <https://arxiv.org/abs/1810.09102>`_, NeurIPS 2018.
  """

  def evaluate(self, units, *, half_space, key):
    del half_space, key
    n, d = units.shape[-2:]
    # The smaller Gram matrix has the same eigenvalues, but for n - d zeros.
    gram = units @ units.mT if n <= d else units.mT @ units
    deviations = jnp.abs(jnp.linalg.eigvalsh(gram) - 1.0)
    return jnp.maximum(jnp.max(deviations, -1), 0.0 if n <= d else 1.0)


OBJECTIVES = {
  "energy, s = 2": as_objective(Riesz(2.0)),
  "energy, s = 0": as_objective(Riesz(0.0)),
  "Gaussian, t = 2": as_objective(Gaussian(2.0)),
  "orthonormality": Orthonormality(),
  "SRIP": Isometry(),
  "KoLeo": KoLeo(),
  "mean angle to nearest": Separation(),
  # Of lines this is mutual coherence; smoothed, so that a step moves more than a pair.
  "smallest angle": LogMean(Gaussian(20.0)),
  "LogDet": LogDet(),
}
MEASURES = {
  "energy, s = 2": OBJECTIVES["energy, s = 2"],
  "orthonormality": Orthonormality(),
  "SRIP": Isometry(),
  "KoLeo": KoLeo(),
  "smallest angle": Separation("min"),
  "LogDet": LogDet(),
}
# Of more neurons the descent of this one takes too long: O(n^3) a step.
LARGEST = {"LogDet": 32}
STARTS = ("random", "copies")
SPACES = ("full", "half")
SETTINGS = {
  "cpu": {
    "sizes": [[8, 16], [32, 16], [128, 16]],
    "objectives": list(OBJECTIVES),
    "steps": 1000,
    "seeds": [0, 1, 2, 3, 4],
  },
  "smoke": {
    "sizes": [[6, 4]],
    "objectives": ["energy, s = 2", "orthonormality"],
    "steps": 20,
    "seeds": [0, 1],
  },
}


def start_of(kind: str, n: int, d: int, seed: int) -> jax.Array:
  """Unit vectors ``[n, d]`` to start from.

  Args:
    kind: ``"random"``; or ``"copies"``, two of each of n / 2 random directions, about
      one degree apart.
    n: neurons, an even number for copies.
    d: dimensions.
    seed: of the random directions.
  """
  key = jax.random.key(seed)
  if kind == "random":
    return _unit(jax.random.normal(key, (n, d)))
  half = _unit(jax.random.normal(key, (n // 2, d)))
  noise = jax.random.normal(jax.random.fold_in(key, 1), (n, d)) / d**0.5
  # The difference of two of these is the square root of two as long.
  return _unit(jnp.concatenate([half, half]) + np.radians(1.0) / 2**0.5 * noise)


def _unit(x):
  return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def minimize(
  objective: Objective, starts: jax.Array, half_space: bool, steps: int
) -> jax.Array:
  """Where descent ends: the same one for every objective.

  Gradient descent with momentum on unit vectors, whose steps have a length that is
  given: it moves with the set when that is rotated, does not depend on the objective's
  units, and bears kinks, as those of nearest neighbors. The length falls to nothing.

  Args:
    objective: that is minimized.
    starts: ``[sets, n, d]``.
    half_space: its half-space form.
    steps: of the descent.

  Returns:
    Unit vectors ``[sets, n, d]``.
  """
  n = starts.shape[-2]
  length = optax.exponential_decay(0.01, steps, 1e-5)
  tx = optax.chain(
    optax.normalize_by_update_norm(n**0.5), optax.sgd(length, momentum=0.9)
  )
  grad = jax.grad(lambda x: objective(x, half_space=half_space))

  def step(carry, _):
    x, state = carry
    updates, state = tx.update(grad(x), state)
    return (_unit(optax.apply_updates(x, updates)), state), None

  def descend(x):
    (x, _), _ = jax.lax.scan(step, (x, tx.init(x)), length=steps)
    return x

  return jax.vmap(descend)(starts)


def measures(x: jax.Array, half_space: bool) -> dict[str, list[float]]:
  """What all criteria say of sets of directions ``[sets, n, d]``.

  Returns:
    By set, the values of MEASURES; ``"excess"``, the relative excess of the energy with
    s = 2; ``"angle"``, the smallest one in degrees; and ``"condition"``, the ratio of
    the largest singular value to the smallest of the min(n, d) that there are.
  """
  return {
    name: [round(float(v), 6) for v in values]
    for name, values in _measures(x, half_space).items()
  }


@functools.partial(jax.jit, static_argnums=1)
def _measures(x, half_space):
  found = {
    name: objective(x, half_space=half_space) for name, objective in MEASURES.items()
  }
  found["excess"] = relative_excess(x, Riesz(2.0), half_space=half_space)
  angles, _ = nearest_neurons(x, half_space=half_space)
  found["angle"] = jnp.degrees(angles.min((1, 2)))
  sizes = jnp.linalg.svd(x, compute_uv=False)
  found["condition"] = sizes[:, 0] / sizes[:, -1]
  return found


def minimize_all(
  sizes: list[list[int]], objectives: list[str], steps: int, seeds: list[int]
) -> dict[str, Any]:
  """Minimizes each objective from each start, and measures where it ends.

  Args:
    sizes: pairs of n, neurons, and d, dimensions.
    objectives: names in OBJECTIVES, of what is minimized.
    steps: of each descent.
    seeds: of the starts.

  Returns:
    ``{"cases": [{"n", "d", "start", "space", "before": measures of the starts, "ends":
    {objective: measures}}]}``; measures are those of :func:`measures`.
  """
  cases = []
  for (n, d), start, space in itertools.product(sizes, STARTS, SPACES):
    half_space = space == "half"
    starts = jnp.stack([start_of(start, n, d, seed) for seed in seeds])
    ends = {
      name: measures(minimize(OBJECTIVES[name], starts, half_space, steps), half_space)
      for name in objectives
      if n <= LARGEST.get(name, n)
    }
    before = measures(starts, half_space)
    cases.append(
      {"n": n, "d": d, "start": start, "space": space, "before": before, "ends": ends}
    )
  return {"cases": cases}
