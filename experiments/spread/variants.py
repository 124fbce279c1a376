"""Other forms of a bounded turn, that were tried before one was chosen.

Plain formulas, layer by layer; with its defaults a variant is `mhe_jax.spread`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mhe_jax import RECOMMENDED, LayerRule, Objective
from mhe_jax.layers.select import select


@dataclasses.dataclass(frozen=True)
class Variant:
  """A form of a bounded turn.

  Attributes:
    share: of the optimizer's turn.
    cap: whether the layer is turned by at most a share of its own turn, or every
      neuron.
    move: "add" a vector that is orthogonal to the neuron after the step; "rotate" it by
      as much instead, so that its norm is what the optimizer made of it; "hold" the
      norm that it had before the step, too.
    fade: when the turn is less than the share. "pull": where the pull is less than that
      of random directions; "pull / n": less than 4 sqrt(d) / n, in layers of more
      neurons than dimensions, too; "root" and "linear": as the root of the excess, or
      the excess, from random directions on; "newton": where the best is nearer than the
      share; "never".
    decay: the share falls to zero as half a cosine does, in so many steps.
    anywhere: neurons turn in random directions.
    objective: whose excess pulls.
  """

  share: float = 0.5
  cap: Literal["layer", "neuron"] = "layer"
  move: Literal["add", "rotate", "hold"] = "add"
  fade: Literal["pull", "pull / n", "root", "linear", "newton", "never"] = "pull"
  decay: int = 0
  anywhere: bool = False
  objective: Objective = RECOMMENDED


class VariantState(NamedTuple):
  """The number of updates, and the state of the optimizer."""

  count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]
  inner: Any


def turned_by(
  variant: Variant, optimizer: optax.GradientTransformation, rules: Sequence[LayerRule]
) -> optax.GradientTransformationExtraArgs:
  """An optimizer, beside which neurons turn apart as a variant has it."""
  optimizer = optax.with_extra_args_support(optimizer)

  def init(params):
    return VariantState(jnp.zeros([], jnp.int32), optimizer.init(params))

  def update(updates, state, params=None, **extra):
    updates, inner = optimizer.update(updates, state.inner, params, **extra)
    leaves, treedef = jax.tree.flatten(updates)
    share = variant.share
    if variant.decay:
      part = jnp.minimum(1.0, state.count / variant.decay)
      share = share * 0.5 * (1.0 + jnp.cos(jnp.pi * part))
    for layer in select(params, rules).layers:
      w, back = jax.vjp(layer.axes.to_matrix, layer.leaf)
      u = layer.axes.to_matrix(leaves[layer.index])
      key = jax.random.fold_in(jax.random.key(layer.index), state.count)
      more = _more(variant, share, w, u, layer.in_half_space(True), key)
      leaves[layer.index] += back(more)[0]
    return treedef.unflatten(leaves), VariantState(state.count + 1, inner)

  return optax.GradientTransformationExtraArgs(init, update)


def _more(variant, share, w, u, half_space, key):
  """What is added to the updates u of neurons w, ``[n, d]``."""
  n, d = w.shape
  norm, after = _norm(w), w + u
  direction, direction_after = _over(w, norm), _over(after, _norm(after))
  turns = _over(_norm(_across(u, direction)), jnp.maximum(norm, _norm(after)))
  excess, gradient = jax.value_and_grad(
    lambda w: variant.objective(w, half_space=half_space)
  )(direction)
  pull = -gradient
  if variant.anywhere:
    pull = _across(jax.random.normal(key, w.shape), direction)
  size = jnp.sqrt(jnp.sum(pull**2))
  fade = _fade(variant.fade, size, excess, n, d, half_space, share * turns)
  if variant.cap == "neuron":
    phi = _over(pull, _norm(pull)) * turns
  else:
    phi = _over(pull, size) * n**0.5 * jnp.sqrt(jnp.mean(turns**2))
  phi = _across(share * (1.0 if variant.anywhere else fade) * phi, direction_after)
  if variant.move == "add":
    return phi * jnp.minimum(norm, _norm(after))
  angle = _norm(phi)
  turned = jnp.cos(angle) * direction_after + jnp.sinc(angle / jnp.pi) * phi
  held = jnp.where(norm > 0.0, norm, _norm(after))
  return turned * (held if variant.move == "hold" else _norm(after)) - after


def _fade(kind, size, excess, n, d, half_space, turns):
  excess = jnp.maximum(excess, 0.0)
  if kind == "never":
    return 1.0
  if kind in ("root", "linear"):
    return jnp.minimum(1.0, excess if kind == "linear" else jnp.sqrt(excess))
  if kind == "newton":
    step = size * n * min(n, d) / (8.0 * d)
    return jnp.minimum(1.0, _over(step, jnp.sqrt(jnp.sum(turns**2))))
  random = 4.0 * d**0.5 / min(n, d) if half_space else 2.0 * d / (n + d)
  if kind == "pull / n":
    random = 4.0 * d**0.5 / n
  return size / jnp.maximum(size, random)


def _norm(x):
  return jnp.sqrt(jnp.sum(x**2, -1, keepdims=True))


def _over(x, norm):
  return jnp.where(norm > 0.0, x / jnp.where(norm > 0.0, norm, 1.0), 0.0)


def _across(x, direction):
  return x - jnp.sum(x * direction, -1, keepdims=True) * direction
