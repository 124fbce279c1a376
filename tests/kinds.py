"""Every kind of module of four libraries: how it is made and called, and what is read.

A kind that a library lacks here is one line more: tests/test_kinds.py reads them all.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import flax
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
from by_hand import OFF, K, first, heads, in_groups, last, second_last, stacked
from flax import nnx
from sets import normal32
from trees import F32, init


class MyDense(nn.Dense):
  """A subclass."""


class MyConv(nnx.Conv):
  """A subclass."""


class MyLinear(eqx.nn.Linear):
  """A subclass."""


class Tied(nn.Module):
  """A table that is used both ways."""

  @nn.compact
  def __call__(self, tokens):
    embed = nn.Embed(7, 4)
    return embed.attend(nn.Dense(4, **OFF)(embed(tokens)))


def linen_norms():
  return nn.Sequential([nn.Dense(4), nn.LayerNorm(), nn.GroupNorm(2), nn.PReLU()])


def nnx_norms(rngs):
  norms = nnx.BatchNorm(6, rngs=rngs), nnx.RMSNorm(6, rngs=rngs)
  return nnx.Sequential(nnx.Linear(4, 6, rngs=rngs), *norms)


def equinox_norms(**options):
  """One of them with a scale of two axes."""
  fold = eqx.nn.Lambda(lambda x: x.reshape(4, 2))
  norms = eqx.nn.LayerNorm((4, 2), dtype=F32), eqx.nn.GroupNorm(2, 4, dtype=F32)
  return eqx.nn.Sequential([eqx.nn.Linear(3, 8, **options), fold, *norms])


def called(make):
  """A module of Haiku is made when it is called."""
  return lambda *inputs: make()(*inputs)  # noqa: PLW0108


def from_rest(cell, *args, **options):
  """A cell of Haiku and the state that it starts from."""
  cell = cell(*args, **options)
  return lambda x: cell(x, cell.initial_state(len(x)))


def haiku_attention():
  w_init = hk.initializers.RandomNormal()
  attention = hk.MultiHeadAttention(2, 4, model_size=6, w_init=w_init)
  return lambda x: attention(x, x, x)


def each(reading, path, names):
  """``{path: reading}``, with each of these names in the path."""
  return {path.format(name): reading for name in names.split()}


of, members = functools.partial, stacked(last)
TOKENS, QKV = jnp.arange(6), "query key value"

# {library: {name: (how it is made, its inputs, {path: matrix by hand})}}
# fmt: off
KINDS = {
  "linen": {
    "Dense": (of(nn.Dense, 5, **OFF), (2, 3), {"kernel": last}),
    "subclass": (of(MyDense, 5, **OFF), (2, 3), {"kernel": last}),
    "DenseGeneral out": (of(nn.DenseGeneral, (2, 4), **OFF), (2, 8), {"kernel": heads}),
    "DenseGeneral in": (of(nn.DenseGeneral, 4, axis=(-2, -1), **OFF),
      (2, 3, 5), {"kernel": last}),
    "DenseGeneral batch": (of(nn.DenseGeneral, 4, batch_dims=(0,), **OFF),
      (3, 5), {"kernel": members}),
    "Conv 1d": (of(nn.Conv, 4, (3,), **OFF), (1, 5, 3), {"kernel": last}),
    "Conv 2d": (of(nn.Conv, 4, (3, 2), **OFF), (1, 5, 5, 3), {"kernel": last}),
    "Conv 3d": (of(nn.Conv, 4, (1, 2, 3), **OFF), (1, 4, 4, 4, 3), {"kernel": last}),
    "Conv 1x1": (of(nn.Conv, 8, (1, 1), name="query", **OFF),
      (1, 5, 5, 16), {"kernel": last}),
    "Conv groups": (of(nn.Conv, 6, (3, 3), feature_group_count=2, **OFF),
      (1, 5, 5, 4), {"kernel": in_groups(2)}),
    "ConvLocal": (of(nn.ConvLocal, 4, (3,), padding="VALID", **OFF),
      (1, 5, 2), {"kernel": members}),
    "ConvTranspose": (of(nn.ConvTranspose, 4, (2, 2), **OFF),
      (1, 5, 5, 4), {"kernel": last}),
    "ConvTranspose transposed": (
      of(nn.ConvTranspose, 4, (2, 2), transpose_kernel=True, **OFF),
      (1, 5, 5, 4), {"kernel": second_last}),
    "Einsum": (of(nn.Einsum, (3, 4, 5), "ac,cde->ade", **OFF),
      (2, 3), {"kernel": heads}),
    "Einsum batch": (of(nn.Einsum, (3, 4, 5), "bec,ecd->bed", **OFF),
      (2, 3, 4), {"kernel": members}),
    "Embed": (of(nn.Embed, 7, 3), TOKENS, {"embedding": first}),
    "tied Embed": (Tied, TOKENS, {"Embed_0/embedding": first, "Dense_0/kernel": last}),
    "attention": (of(nn.MultiHeadDotProductAttention, 4, qkv_features=16, **OFF),
      (1, 5, 4), {**each(heads, "{}/kernel", QKV), "out/kernel": last}),
    "SimpleCell": (of(nn.RNN, nn.SimpleCell(4)),
      (1, 5, 3), each(last, "cell/{}/kernel", "i h")),
    "LSTMCell": (of(nn.RNN, nn.LSTMCell(4)),
      (1, 5, 3), each(last, "cell/{}/kernel", "ii if ig io hi hf hg ho")),
    "OptimizedLSTMCell": (of(nn.RNN, nn.OptimizedLSTMCell(4)),
      (1, 5, 3), each(last, "cell/{}/kernel", "ii if ig io hi hf hg ho")),
    "GRUCell": (of(nn.RNN, nn.GRUCell(4)),
      (1, 5, 3), each(last, "cell/{}/kernel", "ir iz in hr hz hn")),
    "MGUCell": (of(nn.RNN, nn.MGUCell(4)),
      (1, 5, 3), each(last, "cell/{}/kernel", "if in hf hn")),
    "ConvLSTMCell": (of(nn.RNN, nn.ConvLSTMCell(4, (3, 3))),
      (1, 2, 5, 5, 3), each(in_groups(4), "cell/{}/kernel", "ih hh")),
    "norms": (linen_norms, (2, 3), {"layers_0/kernel": last}),
  },
  "nnx": {
    "Linear": (of(nnx.Linear, 3, 5, **OFF), (2, 3), {"kernel": last}),
    "LinearGeneral": (of(nnx.LinearGeneral, 3, (4, 5), **OFF),
      (2, 3), {"kernel": heads}),
    "LinearGeneral batch": (of(nnx.LinearGeneral, 4, 5, batch_axis={0: 3}, **OFF),
      (3, 4), {"kernel": members}),
    "Einsum": (of(nnx.Einsum, "ntd,dhk->nthk", (3, 4, 5)),
      (2, 5, 3), {"kernel": heads}),
    "Einsum experts": (of(nnx.Einsum, "bed,edf->bef", (3, 4, 5)),
      (2, 3, 4), {"kernel": members}),
    "Conv 1d": (of(nnx.Conv, 3, 4, 3, **OFF), (1, 5, 3), {"kernel": last}),
    "Conv 2d": (of(nnx.Conv, 3, 4, (3, 2), **OFF), (1, 5, 5, 3), {"kernel": last}),
    "Conv groups": (of(nnx.Conv, 4, 6, (3, 3), feature_group_count=2),
      (1, 5, 5, 4), {"kernel": in_groups(2)}),
    "subclass": (of(MyConv, 3, 4, (3, 2), **OFF), (1, 5, 5, 3), {"kernel": last}),
    "ConvTranspose": (of(nnx.ConvTranspose, 3, 3, 2, **OFF),
      (1, 5, 3), {"kernel": last}),
    "ConvTranspose transposed": (
      of(nnx.ConvTranspose, 3, 3, 2, transpose_kernel=True, **OFF),
      (1, 5, 3), {"kernel": second_last}),
    "Embed": (of(nnx.Embed, 7, 3), TOKENS, {"embedding": first}),
    "attention": (of(nnx.MultiHeadAttention, 4, 4, 16, decode=False, **OFF),
      (1, 5, 4), {**each(heads, "{}/kernel", QKV), "out/kernel": last}),
    "SimpleCell": (of(nnx.SimpleCell, 3, 4),
      [(2, 4), (2, 3)], each(last, "dense_{}/kernel", "i h")),
    "LSTMCell": (of(nnx.LSTMCell, 3, 4),
      [[(2, 4), (2, 4)], (2, 3)], each(last, "{}/kernel", "ii if_ ig io hi hf hg ho")),
    "OptimizedLSTMCell": (of(nnx.OptimizedLSTMCell, 3, 4),
      [[(2, 4), (2, 4)], (2, 3)], each(in_groups(4), "dense_{}/kernel", "i h")),
    "GRUCell": (of(nnx.GRUCell, 3, 4),
      [(2, 4), (2, 3)], each(in_groups(3), "dense_{}/kernel", "i h")),
    "LoRA": (of(nnx.LoRA, 5, 2, 6), (2, 5), each(last, "lora_{}", "a b")),
    "LoRALinear": (of(nnx.LoRALinear, 5, 6, lora_rank=2),
      (2, 5), {"kernel": last, **each(last, "lora/lora_{}", "a b")}),
    "norms": (nnx_norms, (2, 4), {"layers/0/kernel": last}),
    "WeightNorm": (lambda rngs: nnx.WeightNorm(nnx.Linear(4, 6, rngs=rngs), rngs=rngs),
      (2, 4), {"layer_instance/kernel": last}),
  },
  "equinox": {
    "Linear": (of(eqx.nn.Linear, 3, 5), (3,), {"weight": first}),
    "Linear scalar": (of(eqx.nn.Linear, "scalar", 5), (), {"weight": first}),
    "subclass": (of(MyLinear, 3, 5), (3,), {"weight": first}),
    "Conv1d": (of(eqx.nn.Conv1d, 3, 4, 3), (3, 5), {"weight": first}),
    "Conv2d": (of(eqx.nn.Conv2d, 3, 4, (3, 2)), (3, 5, 5), {"weight": first}),
    "Conv2d groups": (of(eqx.nn.Conv2d, 4, 6, 3, groups=2),
      (4, 5, 5), {"weight": in_groups(2, first)}),
    "ConvTranspose2d": (of(eqx.nn.ConvTranspose2d, 3, 4, 3),
      (3, 5, 5), {"weight": first}),
    "Embedding": (of(eqx.nn.Embedding, 7, 3), jnp.array(3), {"weight": first}),
    "MLP": (of(eqx.nn.MLP, 3, 2, 5, depth=2),
      (3,), each(first, "layers/{}/weight", "0 1 2")),
    "MultiheadAttention": (of(eqx.nn.MultiheadAttention, 2, 8),
      [(5, 8)] * 3, each(first, "{}_proj/weight", f"{QKV} output")),
    "GRUCell": (of(eqx.nn.GRUCell, 3, 4),
      [(3,), (4,)], each(in_groups(3, first), "weight_{}", "ih hh")),
    "LSTMCell": (of(eqx.nn.LSTMCell, 3, 4),
      [(3,), [(4,), (4,)]], each(in_groups(4, first), "weight_{}", "ih hh")),
    "norms": (equinox_norms, (3,), {"layers/0/weight": first}),
    "WeightNorm": (lambda **k: eqx.nn.WeightNorm(eqx.nn.Linear(3, 5, **k)),
      (3,), {"layer/weight": first}),
  },
  "haiku": {
    "Linear": (of(hk.Linear, 5), (2, 3), {"linear/w": last}),
    "Conv1D": (of(hk.Conv1D, 4, 3), (1, 5, 3), {"conv1_d/w": last}),
    "Conv2D": (of(hk.Conv2D, 4, 3), (1, 5, 5, 3), {"conv2_d/w": last}),
    "Conv2D channels first": (of(hk.Conv2D, 4, 3, data_format="NCHW"),
      (1, 3, 5, 5), {"conv2_d/w": last}),
    "Conv2D groups": (of(hk.Conv2D, 6, 3, feature_group_count=2),
      (1, 5, 5, 4), {"conv2_d/w": in_groups(2)}),
    "Conv2DTranspose": (of(hk.Conv2DTranspose, 4, 3),
      (1, 5, 5, 4), {"conv2_d_transpose/w": second_last}),
    "Embed": (of(hk.Embed, 7, 3), TOKENS, {"embed/embeddings": first}),
    "MLP": (of(hk.nets.MLP, [5, 4]), (2, 3), each(last, "mlp/~/linear_{}/w", "0 1")),
    "attention": (haiku_attention,
      (1, 5, 3), each(last, "multi_head_attention/{}/w", f"{QKV} linear")),
    "VanillaRNN": (of(from_rest, hk.VanillaRNN, 4),
      (2, 3), each(last, "vanilla_rnn/{}/w", "linear linear_1")),
    "LSTM": (of(from_rest, hk.LSTM, 4), (2, 3), {"lstm/linear/w": in_groups(4)}),
    "GRU": (of(from_rest, hk.GRU, 4), (2, 3), each(in_groups(3), "gru/w_{}", "i h")),
    "norms": (lambda: hk.Sequential([hk.Linear(5), hk.LayerNorm(-1, True, True)]),
      (2, 3), {"linear/w": last}),
  },
}
# fmt: on


def inputs_of(inputs):
  """Of shapes, or arrays; lists are tuples of these."""
  if isinstance(inputs, list):
    return tuple(map(inputs_of, inputs))
  return normal32(*inputs, seed=9) if isinstance(inputs, tuple) else inputs


class Model(NamedTuple):
  """A module of a kind, and the same as a function.

  Attributes:
    module: the module, or transformed function.
    inputs: a tuple.
    params: its parameters in dicts, or in a tree of the module's class.
    apply: ``apply(params, *inputs)``.
    trees: other trees of its parameters, whose paths may begin with ``params/`` and end
      with ``/value``.
    layers: matrices by hand, by path.
  """

  module: Any
  inputs: tuple
  params: Any
  apply: Callable
  trees: tuple
  layers: dict


@functools.cache
def model_of(library, name):
  make, inputs, layers = KINDS[library][name]
  inputs = inputs_of(inputs if isinstance(inputs, list) else [inputs])
  if library == "nnx":
    module = make(rngs=nnx.Rngs(0))
    parts = of_nnx(module)
  elif library == "equinox":
    module = make(**K)
    parts = of_equinox(module)
  else:
    module = make() if library == "linen" else hk.transform(called(make))
    params = init(module, *inputs)
    if library == "linen":
      params, apply = params["params"], lambda p, *x: module.apply({"params": p}, *x)
    else:
      apply = lambda p, *x: module.apply(p, None, *x)  # noqa: E731
    parts = params, apply, ({"params": params}, flax.core.freeze(params))
  return Model(module, inputs, *parts, layers)


def of_nnx(module):
  graph, state, rest = nnx.split(module, nnx.Param, ...)
  treedef, params = jax.tree.structure(state), nnx.to_pure_dict(state)

  def apply(params, *inputs):
    state = treedef.unflatten(jax.tree.leaves(params))
    return nnx.merge(graph, state, rest, copy=True)(*inputs)

  whole = nnx.split(module)[1]
  saved = jax.tree.map(lambda x: {"value": x}, params)
  return params, apply, (module, state, whole, nnx.to_pure_dict(whole), saved)


def of_equinox(module):
  params, static = eqx.partition(module, eqx.is_array)
  apply = lambda params, *x: eqx.combine(params, static)(*x)  # noqa: E731
  return params, apply, (module, {"params": params})
