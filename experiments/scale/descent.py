r"""Spreading many directions out: descent on the exact energy, and on its estimate.

A step of either is counted in multiplications of its matrix products, for a time
depends on the machine and on what else it does. With N rows of d numbers and m samples:

- the exact energy and its gradient take N^2 / 2 cosines and the pulls of as many pairs
  both ways: 1.5 N^2 d;
- the estimate takes two products with a d x d matrix, cosines and pulls within N / m
  blocks of m rows, and those of m samples with all rows: 2 N d (d + 2 m).

The steps are those of one optimizer; only its rate differs.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.errors import InputError
from experiments.runs.settings import Settings
from experiments.scale import tokens
from experiments.scale.excess import Scale
from mhe_jax import Riesz, Sampled, hyperspherical_energy
from mhe_jax.sphere import normalize

Method = Literal["exact", "sampled"]


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """What is spread out, and how.

  Attributes:
    matrix: ``minilm``, or made up ``clusters``, of
    n: rows, and
    d: dimensions; of ``minilm``, rows drawn at random where n is not all.
    method: energy that is descended.
    s: of the Riesz energy.
    num_samples: of the estimate.
    exact_steps: steps of the exact energy; the estimate has as many as take no more
      multiplications than these.
    rate: of Adam, of the estimate. Rows have norm 1: one turns by at most about this
      times the square root of d, in radians, in a step.
    exact_rate: of the exact energy, whose few steps want to be longer.
    seed: of all that is random.
  """

  matrix: Literal["minilm", "clusters"] = "minilm"
  n: int = 30_522
  d: int = 384
  method: Method = "sampled"
  s: float = 2.0
  num_samples: int = 256
  exact_steps: int = 4
  rate: float = 1e-2
  exact_rate: float = 2e-2
  seed: int = 0

  def __post_init__(self):
    super().__post_init__()
    self.check_least(
      n=2, d=4, s=0, num_samples=1, exact_steps=1, rate=0, exact_rate=0,
      seed=0,
    )  # fmt: skip
    if self.n <= self.num_samples:
      raise InputError(
        f"num_samples must be less than n = {self.n}, got {self.num_samples}."
      )
    if self.s >= self.d - 1:  # Random directions have infinite energy.
      raise InputError(f"s must be less than d - 1 = {self.d - 1}, got {self.s:g}.")

  @property
  def products_a_step(self) -> float:
    """Multiplications of a step of the method."""
    return products(self.n, self.d, self.num_samples, self.method)

  @property
  def steps(self) -> int:
    """Steps of the method."""
    budget = self.exact_steps * products(self.n, self.d, self.num_samples, "exact")
    return int(budget / self.products_a_step)


def products(n: int, d: int, num_samples: int, method: Method) -> float:
  """Multiplications of matrix products in a step: see the head of this file."""
  if method == "exact":
    return 1.5 * n**2 * d
  return 2.0 * n * d * (d + 2 * num_samples)


def rows_of(config: Config) -> tuple[np.ndarray, str]:
  """The matrix ``[n, d]``, and where it is from.

  Raises:
    InputError: it is not there, or smaller than is asked for.
  """
  if config.matrix == "clusters":
    return tokens.clusters(config.n, config.d, config.seed), "made up"
  rows, digest = tokens.minilm()
  if config.d != rows.shape[1] or config.n > len(rows):
    raise InputError(
      f"n and d of 'minilm' must be at most {len(rows)} and just {rows.shape[1]}, got "
      f"{config.n} and {config.d}."
    )
  # Its first rows are not used, and nearly equal: a trial of them would mislead.
  chosen = np.random.default_rng(config.seed).permutation(len(rows))[: config.n]
  return rows[np.sort(chosen)], f"{tokens.PACKAGE} {tokens.VERSION}, sha256 {digest}"


def make_step(config: Config) -> Any:
  """A jitted ``step(rows, state, key)``, which consumes both, and the energy before it.

  Of "sampled", the energy is an estimate.
  """
  potential, tx = Riesz(config.s), optimizer(config)
  sampled = Sampled(potential, config.num_samples)

  def energy(rows, key):
    if config.method == "exact":
      return hyperspherical_energy(rows, potential)
    return sampled(rows, key=key)

  def step(rows, state, key):
    value, gradient = jax.value_and_grad(energy)(rows, key)
    updates, state = tx.update(gradient, state, rows)
    # Norms say nothing: held, they keep the turns of all rows comparable.
    return normalize(jnp.asarray(optax.apply_updates(rows, updates))), state, value

  return jax.jit(step, donate_argnums=(0, 1))


def optimizer(config: Config) -> optax.GradientTransformation:
  """Adam, with an eps that is small beside gradients of the order 1 / n^1.5."""
  rate = config.exact_rate if config.method == "exact" else config.rate
  schedule = optax.cosine_decay_schedule(rate, config.steps)
  return optax.adam(schedule, b1=0.9, b2=0.99, eps=1e-30)


def spread(config: Config, on_step: Callable[[int], None]) -> dict[str, Any]:
  """Descends; returns what the JSON holds beside the environment.

  Args:
    config: of what, and how.
    on_step: is told the number of steps so far.

  Returns:
    Exact relative excesses in ``history``: of the exact energy before every step, of
    the other at the start; and at the end. Of the other also the ``estimates`` before
    every step, that of each step's own sample.

  Raises:
    InputError: the matrix is not there.
  """
  matrix, source = rows_of(config)
  scale = Scale.of(config.n, config.d, config.s)
  start = normalize(jnp.asarray(matrix))
  rows = jnp.copy(start)  # The first is kept, and a step consumes what it is given.
  state, keys = optimizer(config).init(rows), jax.random.key(config.seed)
  program = make_step(config).lower(rows, state, keys).compile()
  exact = jax.jit(lambda rows: hyperspherical_energy(rows, Riesz(config.s)))
  history, estimates, seconds = [], [], []

  def measured(number, energy):
    excess = scale.excess(float(energy))
    products = number * config.products_a_step
    history.append({"step": number, "products": products, "excess": excess})

  if config.method == "sampled":
    measured(0, exact(rows))
  for number in range(config.steps):
    begin = time.perf_counter()
    rows, state, value = program(rows, state, jax.random.fold_in(keys, number))
    jax.block_until_ready(rows)
    seconds.append(time.perf_counter() - begin)
    # The energy, or its estimate, comes with the gradient.
    if config.method == "exact":
      measured(number, value)
    else:
      estimates.append(scale.excess(float(value)))
    on_step(number + 1)
  measured(config.steps, exact(rows))
  cosines = np.asarray(jnp.sum(rows * start, -1))
  return {
    "source": source,
    "history": history,
    "estimates": estimates,
    "excess": history[-1]["excess"],
    "seconds_a_step": float(np.median(seconds)),
    "turn": float(np.median(np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0))))),
  }
