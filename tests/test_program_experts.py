"""Experts and ensembles, written by hand, against matrices made by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import first, heads_first, in_groups, last, stacked
from jax import lax
from programs import arrays, check_program, cross_entropy
from sets import normal32
from trees import F32

X = normal32(6, 8, seed=9)
members = stacked(last)


def by_gates(axis):
  """Members along an axis, each in two parts."""
  return stacked(in_groups(2), axis)


# --- mixtures of experts ------------------------------------------------------------


def dispatched(x, gates):
  """Tokens to places of experts, and back, by products with one-hot arrays."""
  num_experts, capacity = gates.shape[1], 4
  hot = jax.nn.one_hot(gates.argmax(1), num_experts, dtype=x.dtype)
  place = (jnp.cumsum(hot, axis=0) * hot).sum(1) - 1.0
  places = jax.nn.one_hot(place.astype(int), capacity, dtype=x.dtype)
  return hot[:, :, None] * places[:, None, :]


def experts(params, x):
  gate, up = jnp.split(jnp.einsum("ecd,edf->ecf", x, params["w1"]), 2, axis=-1)
  return jnp.einsum("ecf,efd->ecd", jax.nn.silu(gate) * up, params["w2"])


def by_einsum(params, x, gates):
  dispatch = dispatched(x, gates)
  y = experts(params, jnp.einsum("td,tec->ecd", x, dispatch))
  combine = dispatch * gates.max(1)[:, None, None]
  return jnp.einsum("ecd,tec->td", y, combine)


def by_ragged_products(params, x, gates):
  order = jnp.argsort(gates.argmax(1))
  sizes = jnp.bincount(gates.argmax(1), length=gates.shape[1]).astype(jnp.int32)
  gate, up = jnp.split(lax.ragged_dot(x[order], params["w1"], sizes), 2, axis=-1)
  y = lax.ragged_dot(jax.nn.silu(gate) * up, params["w2"], sizes)
  return y[jnp.argsort(order)] * gates.max(1)[:, None]


def by_lookup(params, x, gates):
  """The weights of each token's expert."""
  w1, w2 = (params[k][gates.argmax(1)] for k in ("w1", "w2"))
  gate, up = jnp.split(jnp.einsum("td,tdf->tf", x, w1), 2, axis=-1)
  y = jnp.einsum("tf,tfd->td", jax.nn.silu(gate) * up, w2)
  return y * gates.max(1)[:, None]


def by_all(params, x, gates):
  """Every token through every expert, weighted."""
  everywhere = jnp.broadcast_to(x, (3, *x.shape))
  y = experts(params, everywhere)
  return jnp.einsum("etd,te->td", y, gates)


def by_vmap(params, x, gates):
  def expert(w1, w2):
    gate, up = jnp.split(x @ w1, 2, axis=-1)
    return (jax.nn.silu(gate) * up) @ w2

  y = jax.vmap(expert)(params["w1"], params["w2"])
  return (y * gates.T[:, :, None]).sum(0)


def by_soft_slots(params, x, gates):
  """Of Soft MoE: every place takes a mean of all tokens."""
  dispatch = jax.nn.softmax(jnp.repeat(gates, 2, axis=1), axis=0).reshape(6, 3, 2)
  y = experts(params, jnp.einsum("td,tec->ecd", x, dispatch))
  return jnp.einsum("ecd,tec->td", y, dispatch)


MIXTURES = [
  by_einsum, by_ragged_products, by_lookup, by_all, by_vmap, by_soft_slots
]  # fmt: skip


@pytest.mark.parametrize("mixture", MIXTURES)
def test_experts_with_a_router(mixture):
  def loss(params, x, labels):
    logits = x @ params["router"]
    x = x + mixture(params, x, jax.nn.softmax(logits))
    z_loss = (jax.nn.logsumexp(logits, axis=-1) ** 2).mean()
    return cross_entropy(x @ params["head"], labels) + 1e-3 * z_loss

  params = arrays(router=(8, 3), w1=(3, 8, 10), w2=(3, 5, 8), head=(8, 7))
  layers = {"router": last, "w1": by_gates(0), "w2": members, "head": last}
  inputs = X, jnp.arange(6)
  check_program(loss, params, inputs, layers, output=["head"])


def test_experts_whose_outputs_are_summed_in_the_product():
  """Sets by the first product, and so for the second one's, which sums over them."""

  def forward(params, x):
    h = jax.nn.relu(jnp.einsum("td,edf->etf", x, params["w1"]))
    h = jnp.einsum("etf,efg->etg", h, params["w2"])
    return jnp.einsum("etg,egd->td", h, params["w3"]) @ params["head"]

  params = arrays(w1=(3, 8, 5), w2=(3, 5, 6), w3=(3, 6, 8), head=(8, 7))
  layers = dict.fromkeys(("w1", "w2", "w3"), members) | {"head": last}
  check_program(forward, params, (X,), layers, output=["head"])


# --- ensembles ----------------------------------------------------------------------


def member(p, x):
  gate, up = jnp.split(x @ p["w1"] + p["b"], 2, axis=-1)
  return (jax.nn.silu(gate) * up) @ p["w2"]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("axis", [0, 1])
def test_ensembles(axis, shared):
  forward = jax.vmap(
    member, in_axes=({"w1": axis, "w2": axis, "b": 0}, None if shared else 0)
  )
  if axis == 0:
    params = arrays(w1=(3, 8, 10), b=(3, 10), w2=(3, 5, 7))
  else:
    params = arrays(w1=(8, 3, 10), b=(3, 10), w2=(5, 3, 7))
  layers = {"w1": by_gates(axis), "w2": stacked(last, axis)}
  x = X if shared else normal32(3, 6, 8)
  check_program(forward, params, (x,), layers, output=["w2"])


def test_equal_sizes_do_not_confuse_ensembles():
  forward = jax.vmap(lambda p, x: jnp.tanh(x @ p["w1"]) @ p["w2"], in_axes=(0, None))
  params = arrays(w1=(4, 4, 4), w2=(4, 4, 4))
  layers = dict.fromkeys(params, members)
  check_program(forward, params, (normal32(4, 4),), layers, output=["w2"])


def test_ensemble_of_convolutions():
  def one(p, x):
    dims = ("NHWC", "HWIO", "NHWC")
    for k in ("w1", "w2"):
      x = lax.conv_general_dilated(x, p[k], (1, 1), "SAME", dimension_numbers=dims)
      x = jax.nn.relu(x)
    return x.mean((1, 2)) @ p["head"]

  params = arrays(w1=(5, 3, 3, 3, 4), w2=(5, 3, 3, 4, 6), head=(5, 6, 7))
  windows = stacked(last)
  layers = {"w1": windows, "w2": windows, "head": members}
  forward = jax.vmap(one, in_axes=(0, None))
  check_program(forward, params, (normal32(2, 6, 6, 3),), layers, output=["head"])


def test_ensemble_of_losses():
  def loss(params, x, labels):
    losses = jax.vmap(
      lambda p: cross_entropy(jax.nn.relu(x @ p["w"]) @ p["head"], labels)
    )
    return losses(params).mean()

  params = arrays(w=(3, 8, 6), head=(3, 6, 7))
  layers = dict.fromkeys(params, members)
  check_program(loss, params, (X, jnp.arange(6)), layers, output=["head"])


def test_twin_critics():
  """Two trees of one input, of which the smaller value counts."""

  def loss(params, x, targets):
    values = [jax.nn.relu(x @ p["w"]) @ p["head"] for p in params]
    return sum(((v - targets) ** 2).mean() for v in values)

  params = [arrays(w=(8, 6), head=(6, 2)) for _ in range(2)]
  layers = {f"{i}/{k}": last for i in (0, 1) for k in ("w", "head")}
  inputs = X, np.ones((6, 2), np.float32)
  check_program(loss, params, inputs, layers, output=["0/head", "1/head"])


def test_rank_one_members():
  """BatchEnsemble: one matrix, and vectors for each member."""

  def forward(params, x):
    x = jnp.broadcast_to(x, (3, *x.shape))
    x = (x * params["r"][:, None]) @ params["w"] * params["s"][:, None]
    return jax.nn.relu(x) @ params["head"]

  params = arrays(r=(3, 8), s=(3, 6), w=(8, 6), head=(6, 5))
  layers = dict.fromkeys(("w", "head"), last)
  check_program(forward, params, (X,), layers, output=["head"])


def test_attention_head_by_head():
  """A vmap over heads: each a set of its own, as they are stored."""

  def head(p, x):
    scores = (x @ p["q"]) @ (x @ p["k"]).T
    return jax.nn.softmax(scores) @ (x @ p["v"])

  def forward(params, x):
    y = jax.vmap(head, in_axes=(0, None))(params["heads"], x)
    return y.swapaxes(0, 1).reshape(len(x), -1) @ params["out"]

  params = {
    "heads": arrays(q=(2, 8, 4), k=(2, 8, 4), v=(2, 8, 4)),
    "out": normal32(8, 8),
  }
  layers = {f"heads/{k}": members for k in "qk"}
  # Values meet scores, not a parameter of each head: one set of all.
  layers["heads/v"] = heads_first
  layers["out"] = last
  layers |= {f"heads/{k}": layers["heads/v"] for k in "qk"}
  check_program(forward, params, (X,), layers, output=["out"])


def test_tables_of_members():
  def forward(params, tokens):
    one = lambda p: p["table"][tokens] @ p["head"]  # noqa: E731
    return jax.vmap(one)(params)

  params = arrays(table=(3, 7, 4), head=(3, 4, 5))
  layers = {"table": stacked(first), "head": members}
  tokens = jnp.array([[0, 6]])
  check_program(forward, params, (tokens,), layers, output=["head"])


def test_codebooks_of_parts():
  """Product quantization: a codebook for each part of a vector."""

  def loss(params, x):
    z = (x @ params["encoder"]).reshape(6, 2, 4)
    distances = ((z[:, :, None] - params["codes"]) ** 2).sum(-1)
    hot = jax.nn.one_hot(distances.argmin(-1), 5, dtype=F32)
    q = jnp.einsum("bpk,pkd->bpd", hot, params["codes"])
    y = (z + lax.stop_gradient(q - z)).reshape(6, -1) @ params["decoder"]
    return ((x - y) ** 2).mean() + ((z - q) ** 2).mean()

  params = arrays(encoder=(8, 8), codes=(2, 5, 4), decoder=(8, 8))
  layers = {"encoder": last, "codes": stacked(first), "decoder": last}
  check_program(loss, params, (X,), layers, output=["decoder"])
