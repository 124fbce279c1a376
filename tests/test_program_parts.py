"""Projections in parts, head by head and in turns, against matrices made by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import heads, in_groups, last
from programs import arrays, attend, check_program, heads_of
from sets import normal32

SEQUENCE = normal32(2, 5, 8, seed=9)


def parts_by_index(y):
  y = y.reshape(2, 5, 2, 3, 4)
  return y[..., 0, :], y[..., 1, :], y[..., 2, :]


def parts_by_split(y):
  return jnp.split(y.reshape(2, 5, 2, 12), 3, axis=-1)


def parts_by_moving(y):
  return jnp.moveaxis(y.reshape(2, 5, 2, 3, 4), -2, 0)


def parts_by_unstacking(y):
  return jnp.unstack(y.reshape(2, 5, 2, 3, 4), axis=-2)


PARTS = [parts_by_index, parts_by_split, parts_by_moving, parts_by_unstacking]


@pytest.mark.parametrize("parts", PARTS)
def test_queries_keys_and_values_head_by_head(parts):
  def forward(params, x):
    return attend(*parts(x @ params["qkv"])) @ params["out"]

  def by_head(kernel):
    rows = np.asarray(kernel).T.reshape(2, 3, 4, 8)  # Heads, parts, size.
    return np.stack([rows[:, part].reshape(8, 8) for part in range(3)])

  params = arrays(qkv=(8, 24), out=(8, 8))
  layers = {"qkv": by_head, "out": last}
  check_program(forward, params, (SEQUENCE,), layers, output=["out"])


def test_parts_on_an_axis_of_their_own():
  """As einsum gives them: (3, heads, size), and (3, ...) as first axis."""

  def forward(params, x):
    q, k, v = jnp.einsum("btd,dphk->pbthk", x, params["qkv"])
    x = x + attend(q, k, v) @ params["out"]
    q, k, v = jnp.einsum("btd,pdhk->pbthk", x, params["other"])
    return attend(q, k, v) @ params["head"]

  def parts(kernel):
    return np.stack([heads(kernel[:, p]) for p in range(3)])

  def stacked(kernel):
    return np.stack([heads(kernel[p]) for p in range(3)])

  params = arrays(qkv=(8, 3, 2, 4), out=(8, 8), other=(3, 8, 2, 4), head=(8, 6))
  layers = {"qkv": parts, "out": last, "other": stacked, "head": last}
  check_program(forward, params, (SEQUENCE,), layers, output=["head"])


def test_parts_of_unequal_sizes_are_one_set():
  def forward(params, x):
    q, k, v = jnp.split(x @ params["qkv"], [8, 12], axis=-1)
    k, v = (jnp.repeat(heads_of(part, 1), 2, axis=2) for part in (k, v))
    return attend(heads_of(q, 2), k, v) @ params["out"]

  params = arrays(qkv=(8, 16), out=(8, 8))
  layers = dict.fromkeys(params, last)
  check_program(forward, params, (SEQUENCE,), layers, output=["out"])


def test_interleaved_gates():
  """Neighbors take turns, as in gate[::2] * up[1::2]."""

  def forward(params, x):
    y = x @ params["gate_up"]
    return (jax.nn.silu(y[..., ::2]) * y[..., 1::2]) @ params["down"]

  def turns(kernel):
    return np.stack([np.asarray(kernel).T[part::2] for part in range(2)])

  params = arrays(gate_up=(8, 12), down=(6, 8))
  layers = {"gate_up": turns, "down": last}
  check_program(forward, params, (SEQUENCE,), layers, output=["down"])


def test_weights_that_are_sliced_before_the_product():
  def forward(params, x):
    q, k, v = (heads_of(x @ w, 2) for w in jnp.split(params["qkv"], 3, axis=1))
    return attend(q, k, v) @ params["out"]

  params = arrays(qkv=(8, 24), out=(8, 8))
  layers = {"qkv": in_groups(3), "out": last}
  check_program(forward, params, (SEQUENCE,), layers, output=["out"])


def test_weights_that_are_joined_before_the_product():
  def forward(params, x):
    w = jnp.concatenate([params["q"], params["k"], params["v"]], axis=1)
    q, k, v = (heads_of(y, 2) for y in jnp.split(x @ w, 3, axis=-1))
    return attend(q, k, v) @ params["out"]

  params = arrays(q=(8, 8), k=(8, 8), v=(8, 8), out=(8, 8))
  layers = dict.fromkeys(params, last)
  check_program(forward, params, (SEQUENCE,), layers, output=["out"])
