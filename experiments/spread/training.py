"""The runs of a cell: one compiled step for every form."""

import dataclasses
import functools
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.environment import environment
from experiments.spread.networks import Problem, problem
from experiments.spread.presets import VARIANTS, Cell, Optimizer, Start
from experiments.spread.variants import turned_by
from mhe_jax import (
  RECOMMENDED,
  Orthonormality,
  RelativeExcess,
  Riesz,
  layer_excess,
  spread,
  with_hyperspherical_energy,
)

# Usual rates, not tuned for any form.
_RATES = {"adam": 2e-3, "adamw": 2e-3, "sgd": 0.1, "lion": 3e-4}


def optimizer(name: Optimizer, steps: int) -> optax.GradientTransformation:
  """With a warm-up of a tenth of the steps, and a cosine."""
  warmup = max(1, steps // 10)
  rate = optax.warmup_cosine_decay_schedule(0.0, _RATES[name], warmup, steps)
  match name:
    case "adam":
      return optax.adam(rate)
    case "adamw":
      return optax.adamw(rate, weight_decay=0.1)
    case "sgd":
      return optax.sgd(rate, momentum=0.9)
    case "lion":
      return optax.lion(rate, weight_decay=0.1)


def transformation(
  form: str, base: optax.GradientTransformation, rules
) -> optax.GradientTransformationExtraArgs:
  """An optimizer with a form of the energy."""
  match form:
    case "without":
      return optax.with_extra_args_support(base)
    case "loss":
      log = RelativeExcess(Riesz(2.0), log=True)
      return with_hyperspherical_energy(base, 0.1, log, rules=rules)
    case "spread":
      return spread(base, rules=rules)
    case "orthonormal":
      return spread(base, objective=Orthonormality(), rules=rules)
  return turned_by(VARIANTS[form], base, rules)


def train(cell: Cell) -> dict[str, Any]:
  """Trains all runs of a cell; returns what its JSON holds."""
  start, whole = time.process_time(), problem(cell.network)
  runs, measures = [], _measures(whole)
  for form in cell.forms:
    base = optimizer(cell.optimizer, cell.steps)
    tx = transformation(form, base, whole.rules)
    step = _step(whole, tx)
    for begin in cell.starts:
      for seed in cell.seeds:
        runs.append(
          {
            "form": form,
            "start": begin,
            "seed": seed,
            **_run(whole, tx, step, measures, begin, seed, cell.steps),
          }
        )
  return {
    "command": "python -m experiments.spread",
    "config": dataclasses.asdict(cell),
    **environment(),
    "seconds": round(time.process_time() - start, 1),
    "runs": runs,
  }


def _step(whole: Problem, tx):
  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(params, state, batch):
    gradient = jax.grad(whole.loss)(params, batch)
    updates, state = tx.update(gradient, state, params)
    return optax.apply_updates(params, updates), state

  return step


def _run(whole: Problem, tx, step, measures, start: Start, seed: int, steps: int):
  """Loss in training, excess of the layers and norm, at the end."""
  params = whole.init(jax.random.key(seed), start)
  # Compiled, it does not warn of layers that start at zero, which are tried here.
  state, rng = jax.jit(tx.init)(params), np.random.default_rng(seed)
  for _ in range(steps):
    params, state = step(params, state, whole.draw(rng))
  loss, excess, norm = measures(params)
  return {
    "loss": _rounded(loss),
    "excess": {path: _rounded(x) for path, x in excess.items()},
    "norm": _rounded(norm),
  }


def _measures(whole: Problem):
  @jax.jit
  def measures(params):
    excess = layer_excess(params, RECOMMENDED, rules=whole.rules)
    norm = jnp.asarray(optax.tree.norm(params))
    return whole.loss(params, whole.measured), excess, norm

  return measures


def _rounded(x):
  """For JSON, which has no NaN: None."""
  return float(f"{float(x):.5g}") if math.isfinite(float(x)) else None
