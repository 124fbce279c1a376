"""One run of the language model."""

import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.environment import environment
from experiments.language.plan import Run
from experiments.language.text import Text
from experiments.models.transformer import LanguageModel
from mhe_jax import (
  LayerRule,
  Objective,
  Orthonormality,
  RelativeExcess,
  Riesz,
  layer_excess,
  neuron_matrices,
  spread,
  with_hyperspherical_energy,
)

HEAD = LayerRule("head/kernel", role="output")
_POSITIONS = LayerRule("positions", role="skip")
RULES = (HEAD, _POSITIONS)
_EVALUATIONS = 10


def optimizer(run: Run) -> optax.GradientTransformationExtraArgs:
  """What trains it: a warm-up of a tenth and a cosine, gradients clipped at 1."""
  warmup = max(1, run.steps // 10)
  rate = optax.warmup_cosine_decay_schedule(0.0, run.rate, warmup, run.steps)
  if run.optimizer == "muon":
    # Its own rate for what is no hidden matrix: a tenth, as 0.002 is of 0.02.
    base = optax.contrib.muon(
      rate,
      adam_learning_rate=lambda count: 0.1 * rate(count),
      weight_decay=0.1,
      adam_weight_decay=0.1,
      muon_weight_dimension_numbers=_hidden,
    )
  else:
    base = optax.adamw(rate, b2=0.99, weight_decay=0.1)
  base = optax.chain(optax.clip_by_global_norm(1.0), base)
  orthonormality = RelativeExcess(Orthonormality())
  match run.form:
    case "without":
      tx = base
    case "today":
      log = RelativeExcess(Riesz(2.0), log=True)
      tx = with_hyperspherical_energy(base, 0.1, log, rules=RULES)
    case "spread":
      tx = spread(base, rules=RULES)
    case "spread 1":
      tx = spread(base, 1.0, rules=RULES)
    case "orthonormal":
      tx = spread(base, 0.5, orthonormality, rules=RULES)
    case "orthonormal 1":
      tx = spread(base, 1.0, orthonormality, rules=RULES)
    case "hidden":
      ends = LayerRule("embed/embedding|head/kernel", weight=0.0)
      tx = spread(base, 1.0, rules=(ends, _POSITIONS))
    case "ends":
      hidden = LayerRule("blocks/.*", weight=0.0)
      tx = spread(base, 1.0, rules=(HEAD, _POSITIONS, hidden))
    case "held":
      tx = hold_norms(base)
    case "spread held":
      tx = hold_norms(spread(base, rules=RULES))
    case "spread 1 held":
      tx = hold_norms(spread(base, 1.0, rules=RULES))
    case "random":
      tx = spread(base, 1.0, AnyDirection(), rules=RULES, key=jax.random.key(7))
  return optax.with_extra_args_support(tx)


def _hidden(params):
  """Which parameters are matrices for Muon: those of the blocks."""
  from optax.contrib import MuonDimensionNumbers  # noqa: PLC0415

  def of(path, leaf):
    is_hidden = "blocks" in jax.tree_util.keystr(path) and leaf.ndim == 2
    return MuonDimensionNumbers() if is_hidden else None

  return jax.tree_util.tree_map_with_path(of, params)


def hold_norms(tx: optax.GradientTransformation) -> optax.GradientTransformation:
  """A control: neurons keep the norms that they have before a step."""
  tx = optax.with_extra_args_support(tx)

  def update(updates, state, params=None, **extra):
    updates, state = tx.update(updates, state, params, **extra)
    before = neuron_matrices(params, RULES)
    assert params is not None
    flat = jax.tree_util.tree_flatten_with_path(updates)[0]
    leaves, treedef = jax.tree.flatten(updates)
    olds = jax.tree.leaves(params)
    for i, (path, _) in enumerate(flat):
      name = "/".join(str(entry.key) for entry in path)
      if name in before:
        old, axis = olds[i], 1 if name == "embed/embedding" else 0
        new = old + leaves[i]
        norm = functools.partial(jnp.linalg.norm, axis=axis, keepdims=True)
        usable = (norm(old) > 0) & (norm(new) > 0)
        ratio = norm(old) / jnp.where(usable, norm(new), 1.0)
        leaves[i] = jnp.where(usable, new * ratio, new) - old
    return treedef.unflatten(leaves), state

  return optax.GradientTransformationExtraArgs(tx.init, update)


@dataclasses.dataclass(frozen=True)
class AnyDirection(Objective):
  """A control: it pulls neurons anywhere, as far as they may be turned."""

  @property
  def needs_key(self) -> bool:
    return True

  def evaluate(self, units, *, half_space, key):
    assert key is not None
    noise = jax.random.normal(key, units.shape, units.dtype)
    return 1.0 + jnp.sum(noise * units, (-2, -1))

  def scale(self, n: int, d: int, *, half_space: bool = False) -> tuple[float, float]:
    return 0.0, 1.0


def train(run: Run, text: Text) -> dict[str, Any]:
  """Trains a model.

  Returns:
    What the JSON of a run holds: losses in nats a byte.
  """
  model = LanguageModel(run.zero, run.width, run.blocks, 4, run.length)
  tx = optimizer(run)
  seed = 1000 * run.half + run.seed
  rng = np.random.default_rng(seed)

  def windows(text, starts):
    return text[starts[:, None] + np.arange(run.length + 1)]

  def loss(params, tokens):
    logits = jnp.asarray(model.apply({"params": params}, tokens[:, :-1]))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
    return losses.mean()

  starts = np.linspace(0, len(text.validation) - run.length - 1, 128).astype(int)
  judged = windows(text.validation, starts)

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(params, state, tokens):
    value, gradient = jax.value_and_grad(loss)(params, tokens)
    updates, state = tx.update(gradient, state, params)
    return optax.apply_updates(params, updates), state, value

  evaluate, excess = jax.jit(loss), jax.jit(_excess)
  init = jax.jit(model.init)
  params = init(jax.random.key(seed), judged[:1, :-1])["params"]
  state = tx.init(params)
  history, seconds, losses = [], 0.0, []
  every = max(1, run.steps // _EVALUATIONS)
  for count in range(1, run.steps + 1):
    tokens = windows(
      text.train, rng.integers(0, len(text.train) - run.length, run.batch_size)
    )
    start = time.process_time()
    params, state, value = step(params, state, tokens)
    jax.block_until_ready(value)
    if count > 1:  # Not the compilation.
      seconds += time.process_time() - start
    losses.append(float(value))
    if count % every == 0:
      history.append(
        {
          "step": count,
          "seconds": round(seconds, 2),
          "validation": round(float(evaluate(params, judged)), 5),
          "train": round(float(np.mean(losses[-every:])), 5),
          "norm": round(float(optax.tree.norm(params)), 3),
          "excess": {k: round(float(v), 4) for k, v in excess(params).items()},
        }
      )
  return {
    "command": "python -m experiments.language",
    "config": dataclasses.asdict(run),
    **environment(),
    "text": {"from": text.source, "digest": text.digest, "bytes": len(text.train)},
    "history": history,
  }


def _excess(params):
  return layer_excess(params, Riesz(2.0), rules=RULES)
