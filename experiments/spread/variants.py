"""Forms of a bounded turn that were tried before one was chosen, as plain formulas."""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mhe_jax import Objective, RelativeExcess, Riesz, layer_excess
from mhe_jax.layers.select import select
from mhe_jax.network import _values_of


@dataclasses.dataclass(frozen=True)
class Variant:
  share: float = 0.5
  cap: Literal["layer", "neuron"] = "layer"
  # add: a tangent vector; rotate: of the new neuron, by as much; hold: rotate, and the
  # norms stay those from before the optimizer's step.
  move: Literal["add", "rotate", "hold"] = "add"
  # Up to where the turn falls with the force or the excess.
  fade: Literal[
    "force", "root", "linear", "newton", "never", "min", "force2", "square", "layer"
  ] = "force"
  objective: str = "riesz"
  log: bool = False
  # share decays by a cosine over so many steps
  decay: int = 0
  random: bool = False


OBJ = {"riesz": Riesz(2.0), "riesz0": Riesz(0.0), "riesz1": Riesz(1.0)}


class State(NamedTuple):
  count: Any
  inner: Any


def variant(optimizer, v: Variant, rules=()):
  from mhe_jax import Orthonormality

  objective = RelativeExcess({**OBJ, "orth": Orthonormality()}[v.objective], log=v.log)
  inner_tx = optax.with_extra_args_support(optimizer)

  def init(params):
    return State(jnp.zeros([], jnp.int32), inner_tx.init(params))

  def update(updates, state, params, **extra):
    updates, inner = inner_tx.update(updates, state.inner, params, **extra)
    layers = select(params, rules).layers
    leaves = {l.index: l.leaf for l in layers}

    def total(leaves):
      ls = [dataclasses.replace(l, leaf=leaves[l.index]) for l in layers]
      return sum(x.sum() for x in _values_of(ls, objective, True, None).values())

    grads = jax.grad(total)(leaves)
    flat, treedef = jax.tree.flatten(updates)
    share = v.share
    if v.decay:
      share = (
        share * 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(1.0, state.count / v.decay)))
      )
    for l in layers:
      w, back = jax.vjp(l.axes.to_matrix, l.leaf)
      u = l.axes.to_matrix(flat[l.index])
      g = l.axes.to_matrix(grads[l.index])
      norm = lambda x: jnp.sqrt(jnp.sum(x * x, -1, keepdims=True))
      inv = lambda x: jnp.where(x > 1e-30, 1 / jnp.where(x > 1e-30, x, 1.0), 0.0)
      n, d = w.shape[-2:]
      nw = norm(w)
      wh = w * inv(nw)
      new = w + u
      nn_ = norm(new)
      nh = new * inv(nn_)
      ut = u - jnp.sum(u * wh, -1, keepdims=True) * wh
      a = norm(ut) * inv(jnp.maximum(nw, nn_)) * (nw > 0)
      A = jnp.sqrt(jnp.mean(a**2, (-2, -1), keepdims=True))
      f = -nw * g
      if v.random:
        f = jax.random.normal(
          jax.random.fold_in(jax.random.key(7), state.count * 100 + l.index), f.shape
        )
        f = f - jnp.sum(f * wh, -1, keepdims=True) * wh
      F = jnp.sqrt(jnp.sum(f * f, (-2, -1), keepdims=True))
      m = min(n, d)
      ref = 4 * d**0.5 / n
      ref2 = 4 * d**0.5 / m if l.in_half_space(True) else 2 * d / (n + d)
      kappa = 8 * d / (n * m)
      from mhe_jax.network import excess_or_nan

      x = objective(w, half_space=l.in_half_space(True))[..., None, None]
      x = jnp.maximum(jnp.expm1(x) if v.log else x, 0.0)
      full = share * n**0.5 * A
      if v.cap == "layer":
        size = {
          "force": full * F / jnp.maximum(F, ref),
          "force2": full * F / jnp.maximum(F, ref2),
          "square": full * jnp.minimum(1, (F / (ref2)) ** 2),
          "root": full * jnp.minimum(1, jnp.sqrt(x)),
          "linear": full * jnp.minimum(1, x),
          "newton": jnp.minimum(full, F / kappa),
          "never": full,
          "min": jnp.minimum(full * jnp.minimum(1, jnp.sqrt(x)), F / kappa),
        }[v.fade]
        if v.random:
          size = full
        phi = size * f * inv(F)
      else:
        fi = norm(f)
        fade = {
          "force": fi / jnp.maximum(fi, ref / n**0.5),
          "force2": fi / jnp.maximum(fi, ref2 / n**0.5),
          "layer": F / jnp.maximum(F, ref),
          "linear": jnp.minimum(1, x),
          "root": jnp.minimum(1, jnp.sqrt(x)),
          "never": 1.0,
        }[v.fade]
        size = share * a * fade
        phi = size * f * inv(fi)
      phi = phi - jnp.sum(phi * nh, -1, keepdims=True) * nh
      if v.move == "add":
        add = phi * jnp.minimum(nw, nn_)
      else:
        angle = norm(phi)
        to = nn_ if v.move == "rotate" else jnp.where(nw > 0, nw, nn_)
        turned = jnp.cos(angle) * nh + jnp.sinc(angle / jnp.pi) * phi
        add = turned * to - new
      flat[l.index] = flat[l.index] + back(add)[0]
    return treedef.unflatten(flat), State(state.count + 1, inner)

  return optax.GradientTransformationExtraArgs(init, update)
