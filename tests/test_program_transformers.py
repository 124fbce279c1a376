"""Transformers and their kin, written by hand, against matrices made by hand."""

import functools

import jax
import jax.numpy as jnp
import pytest
from by_hand import first, in_groups, last, stacked
from programs import arrays, attend, check_program, cross_entropy, heads_of, norm
from sets import normal32

TOKENS = jnp.arange(10).reshape(2, 5) % 7
SEQUENCE = normal32(2, 5, 8, seed=9)


def decoder_params(**blocks):
  return {
    **arrays(table=(7, 8), positions=(6, 8), norm=(8,)),
    "blocks": [arrays(**blocks), arrays(**blocks)],
  }


def in_blocks(layers):
  return {f"blocks/{i}/{k}": reading for i in range(2) for k, reading in layers.items()}


# --- decoders -----------------------------------------------------------------------


def decoder(params, tokens):
  x = params["table"][tokens] + params["positions"][: tokens.shape[1]]
  for p in params["blocks"]:
    parts = jnp.split(norm(x, p["norm1"]) @ p["qkv"], 3, axis=-1)
    x = x + attend(*(heads_of(part, 2) for part in parts)) @ p["out"]
    gate, up = jnp.split(norm(x, p["norm2"]) @ p["gate_up"], 2, axis=-1)
    x = x + (jax.nn.silu(gate) * up) @ p["down"]
  return norm(x, params["norm"]) @ params["table"].T


def decoder_loss(params, tokens):
  return cross_entropy(decoder(params, tokens)[:, :-1], tokens[:, 1:])


@pytest.mark.parametrize("function", [decoder, decoder_loss])
def test_decoder_with_tied_head(function):
  params = decoder_params(
    norm1=(8,), norm2=(8,), qkv=(8, 24), out=(8, 8), gate_up=(8, 12), down=(6, 8)
  )
  layers = {
    "qkv": in_groups(3),
    "out": last,
    "gate_up": in_groups(2),
    "down": last,
  }
  layers = {"table": first, **in_blocks(layers)}
  check_program(function, params, (TOKENS,), layers, output=["table"])


def halves(x, sin, cos):
  a, b = jnp.split(x, 2, axis=-1)
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def rotated(x, sin, cos):
  a, b = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
  twice = functools.partial(jnp.tile, reps=2)
  return x * twice(cos) + jnp.concatenate([-b, a], -1) * twice(sin)


def interleaved(x, sin, cos):
  a, b = x[..., ::2], x[..., 1::2]
  return jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(x.shape)


def in_pairs(x, sin, cos):
  a, b = jnp.moveaxis(x.reshape(*x.shape[:-1], -1, 2), -1, 0)
  return jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(x.shape)


def by_complex_numbers(x, sin, cos):
  pairs = x.reshape(*x.shape[:-1], -1, 2)
  turned = jax.lax.complex(pairs[..., 0], pairs[..., 1]) * jax.lax.complex(cos, sin)
  return jnp.stack([turned.real, turned.imag], axis=-1).reshape(x.shape)


def partial_halves(x, sin, cos):
  sin, cos = sin[..., ::2], cos[..., ::2]
  turning, rest = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
  return jnp.concatenate([halves(turning, sin, cos), rest], axis=-1)


ROTARY = [halves, rotated, interleaved, in_pairs, by_complex_numbers, partial_halves]


@pytest.mark.parametrize("rotary", ROTARY)
def test_grouped_queries_with_rotary_positions(rotary):
  def forward(params, x):
    positions = jnp.arange(x.shape[1], dtype=x.dtype)[:, None, None]
    angles = positions / 10.0 ** jnp.arange(4, dtype=x.dtype)
    angles = jnp.broadcast_to(angles, (x.shape[1], 1, 4))
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    q = rotary(heads_of(x @ params["q"], 4), sin, cos)
    k = rotary(heads_of(x @ params["k"], 2), sin, cos)
    v = heads_of(x @ params["v"], 2)
    k, v = (jnp.repeat(part, 2, axis=2) for part in (k, v))
    x = x + attend(q, k, v) @ params["out"]
    return x @ params["head"]

  params = arrays(q=(8, 32), k=(8, 16), v=(8, 16), out=(32, 8), head=(8, 5))
  layers = dict.fromkeys(params, last)
  check_program(forward, params, (SEQUENCE,), layers, output=["head"])


def test_rotary_positions_of_fused_projections():
  """Halves of parts are no parts, parts stay some."""

  def forward(params, x):
    angles = jnp.arange(5.0)[:, None, None] * jnp.ones((1, 1, 2))
    q, k, v = (heads_of(y, 2) for y in jnp.split(x @ params["qkv"], 3, -1))
    turn = functools.partial(halves, sin=jnp.sin(angles), cos=jnp.cos(angles))
    return attend(turn(q), turn(k), v) @ params["out"]

  params = arrays(qkv=(8, 24), out=(8, 8))
  layers = {"qkv": in_groups(3), "out": last}
  check_program(forward, params, (SEQUENCE,), layers, output=["out"])


# --- encoders, and two towers -------------------------------------------------------


def test_cross_attention():
  def forward(params, source, target):
    keys_values = jnp.tanh(params["source"][source] @ params["encoder"])
    x = params["target"][target]
    k, v = jnp.split(keys_values @ params["kv"], 2, axis=-1)
    q = heads_of(x @ params["q"], 2)
    x = x + attend(q, heads_of(k, 2), heads_of(v, 2)) @ params["out"]
    return cross_entropy(x @ params["head"], target)

  params = arrays(
    source=(9, 8), target=(7, 8), encoder=(8, 8), kv=(8, 16), q=(8, 8), out=(8, 8),
    head=(8, 7),
  )  # fmt: skip
  layers = dict.fromkeys(params, last)
  layers |= dict.fromkeys(("source", "target"), first) | {"kv": in_groups(2)}
  inputs = jnp.arange(12).reshape(2, 6) % 9, TOKENS
  check_program(forward, params, inputs, layers, output=["head"])


def test_vision_transformer_with_patches_by_reshape():
  def forward(params, images):
    x = images.reshape(2, 4, 2, 4, 2, 3).transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(2, 16, 12) @ params["patches"] + params["bias"]
    token = jnp.broadcast_to(params["token"], (2, 1, 8))
    x = jnp.concatenate([token, x], axis=1) + params["positions"]
    q, k, v = (heads_of(y, 2) for y in jnp.split(x @ params["qkv"], 3, axis=-1))
    x = x + attend(q, k, v) @ params["out"]
    return norm(x, params["norm"])[:, 0] @ params["head"]

  params = arrays(
    patches=(12, 8), bias=(8,), token=(1, 1, 8), positions=(1, 17, 8), qkv=(8, 24),
    out=(8, 8), norm=(8,), head=(8, 5),
  )  # fmt: skip
  layers = dict.fromkeys(("patches", "out", "head"), last)
  layers["qkv"] = in_groups(3)
  check_program(forward, params, (normal32(2, 8, 8, 3),), layers, output=["head"])


@pytest.mark.parametrize("form", ["einsum", "swapaxes"])
def test_mixer(form):
  def mlp(x, w1, w2):
    return jax.nn.gelu(x @ w1) @ w2

  def forward(params, x):
    p = params
    if form == "einsum":
      hidden = jnp.einsum("btd,ts->bsd", x, p["tokens1"])
      x = x + jnp.einsum("bsd,st->btd", jax.nn.gelu(hidden), p["tokens2"])
    else:
      y = mlp(x.swapaxes(1, 2), p["tokens1"], p["tokens2"])
      x = x + y.swapaxes(1, 2)
    x = x + mlp(x, p["channels1"], p["channels2"])
    return x.mean(1) @ p["head"]

  params = arrays(
    tokens1=(5, 6), tokens2=(6, 5), channels1=(8, 12), channels2=(12, 8), head=(8, 3)
  )
  layers = dict.fromkeys(params, last)
  check_program(forward, params, (SEQUENCE,), layers, output=["head"])


def test_spatial_gating():
  def forward(params, x):
    u, v = jnp.split(jax.nn.gelu(x @ params["up"]), 2, axis=-1)
    v = jnp.einsum("btd,ts->bsd", norm(v, params["norm"]), params["space"])
    return (u * (v + params["bias"][:, None])) @ params["down"]

  params = arrays(up=(8, 12), norm=(6,), space=(5, 5), bias=(5,), down=(6, 8))
  layers = {"up": in_groups(2), "space": last, "down": last}
  check_program(forward, params, (SEQUENCE,), layers, output=["down"])


def towers(params, images, tokens):
  unit = lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
  a = jax.nn.relu(images @ params["image"]) @ params["image_head"]
  b = jnp.tanh(params["table"][tokens]).mean(1) @ params["text_head"]
  return unit(a), unit(b), jnp.exp(params["scale"])


def contrast(params, images, tokens):
  a, b, scale = towers(params, images, tokens)
  logits = scale * a @ b.T
  labels = jnp.arange(len(a))
  return cross_entropy(logits, labels) + cross_entropy(logits.T, labels)


@pytest.mark.parametrize(
  ("function", "output"), [(towers, ["image_head", "text_head"]), (contrast, [])]
)
def test_two_towers(function, output):
  """Their products with each other came through both: neither is a classifier."""
  params = arrays(
    image=(12, 8), image_head=(8, 6), table=(7, 8), text_head=(8, 6), scale=()
  )
  layers = dict.fromkeys(("image", "image_head", "text_head"), last)
  layers["table"] = first
  check_program(function, params, (normal32(2, 12), TOKENS), layers, output=output)


# --- stacks -------------------------------------------------------------------------


def stack_forward(axis, remat, unroll=1):
  def block(x, p):
    q, k, v = (heads_of(y, 2) for y in jnp.split(x @ p["qkv"], 3, axis=-1))
    x = x + attend(q, k, v) @ p["out"]
    gate, up = jnp.split(x @ p["gate_up"], 2, axis=-1)
    return x + (jax.nn.silu(gate) * up) @ p["down"], None

  def forward(params, x):
    blocks = jax.tree.map(lambda w: jnp.moveaxis(w, axis, 0), params["blocks"])
    x, _ = jax.lax.scan(remat(block), x, blocks, unroll=unroll)
    return x @ params["head"]

  return forward


SAVED = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
REMAT = {
  "none": lambda block: block,
  "all": jax.checkpoint,
  "policy": functools.partial(jax.checkpoint, policy=SAVED),
}


@pytest.mark.parametrize("remat", REMAT)
@pytest.mark.parametrize("axis", [0, 1])
def test_scanned_stack_along_any_axis(axis, remat):
  shapes = {"qkv": (8, 24), "out": (8, 8), "gate_up": (8, 8), "down": (4, 8)}
  stacks = {k: (*s[:axis], 4, *s[axis:]) for k, s in shapes.items()}
  groups = {"qkv": in_groups(3), "gate_up": in_groups(2)}
  params = {"blocks": arrays(**stacks), **arrays(head=(8, 5))}
  layers = {f"blocks/{k}": stacked(groups.get(k, last), axis) for k in shapes}
  layers["head"] = last
  forward = stack_forward(axis, REMAT[remat])
  check_program(forward, params, (SEQUENCE,), layers, output=["head"])


@pytest.mark.parametrize("form", ["fori_loop", "python", "scan over numbers"])
def test_layers_taken_out_of_a_stack(form):
  def forward(params, x):
    w = params["w"]
    layer = lambda i, x: jnp.tanh(x @ w[i])  # noqa: E731
    if form == "fori_loop":
      x = jax.lax.fori_loop(0, len(w), layer, x)
    elif form == "python":
      for i in range(len(w)):
        x = layer(i, x)
    else:
      x, _ = jax.lax.scan(lambda x, i: (layer(i, x), None), x, jnp.arange(len(w)))
    return x @ params["head"]

  params = arrays(w=(3, 8, 8), head=(8, 5))
  layers = {"w": stacked(last), "head": last}
  check_program(forward, params, (SEQUENCE,), layers, output=["head"])
