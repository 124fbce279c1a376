"""Weights that are made of parameters, against matrices made by hand."""

import functools

import jax
import jax.numpy as jnp
import pytest
from by_hand import last
from jax import lax
from programs import arrays, check_program, cross_entropy
from sets import normal32
from trees import F32

X = normal32(2, 8, seed=9)
PARAMS = arrays(w=(8, 6), b=(6,), head=(6, 5))
LAYERS = dict.fromkeys(("w", "head"), last)


def weight_norm(w):
  return w / jnp.linalg.norm(w, axis=0, keepdims=True)


def standardized(w):
  mean, var = w.mean(0, keepdims=True), w.var(0, keepdims=True)
  return (w - mean) * lax.rsqrt(var * w.shape[0] + 1e-4)


def spectral_norm(w):
  u = jnp.ones((w.shape[1],), w.dtype)
  for _ in range(2):
    v = w @ u
    v = v / jnp.linalg.norm(v)
    u = w.T @ v
    u = u / jnp.linalg.norm(u)
  return w / (lax.stop_gradient(v) @ w @ lax.stop_gradient(u))


def spectral_norm_in_a_loop(w):
  def turn(_, u):
    v = w @ u
    u = w.T @ (v / jnp.linalg.norm(v))
    return u / jnp.linalg.norm(u)

  u = lax.fori_loop(0, 3, turn, jnp.ones((w.shape[1],), w.dtype))
  return w / jnp.linalg.norm(w @ u)


def masked(w):
  return w * jnp.tril(jnp.ones_like(w))


def masked_by_where(w):
  return jnp.where(jnp.tril(jnp.ones(w.shape, bool)), w, 0.0)


def pruned_by_magnitude(w):
  return jnp.where(jnp.abs(w) > jnp.quantile(jnp.abs(w), 0.3), w, jnp.zeros_like(w))


def straight_through(w):
  scale = lax.stop_gradient(jnp.max(jnp.abs(w), axis=0, keepdims=True)) / 7.0
  return w + lax.stop_gradient(jnp.round(w / scale) * scale - w)


@jax.custom_jvp
def rounded(x):
  return jnp.round(x)


rounded.defjvp(lambda primals, tangents: (rounded(*primals), tangents[0]))


@jax.custom_vjp
def rounded_too(x):
  return jnp.round(x)


rounded_too.defvjp(lambda x: (rounded_too(x), None), lambda _, g: (g,))


def quantized(w, rounding=rounded):
  scale = jnp.max(jnp.abs(w)) / 127.0
  codes = jnp.clip(rounding(w / scale), -128, 127).astype(jnp.int8)
  return codes.astype(w.dtype) * scale


def binarized(w):
  return jnp.sign(w) * jnp.mean(jnp.abs(w), axis=0, keepdims=True)


def centered_and_scaled(w):
  return 2.0 * (w - w.mean()) / (w.std() + 1e-6)


def whole_in_half(w):
  return w.astype(jnp.bfloat16).astype(w.dtype)


def barrier(w):
  return lax.optimization_barrier(w)


def noisy(w):
  return w + 0.1 * jax.random.normal(jax.random.key(0), w.shape, w.dtype)


def dropped(w):
  return w * jax.random.bernoulli(jax.random.PRNGKey(0), 0.5, w.shape)


MADE = [
  weight_norm, standardized, spectral_norm, spectral_norm_in_a_loop, masked,
  masked_by_where, pruned_by_magnitude, straight_through, quantized,
  functools.partial(quantized, rounding=rounded_too), binarized, centered_and_scaled,
  whole_in_half, barrier, noisy, dropped,
]  # fmt: skip


@pytest.mark.parametrize("make", MADE)
def test_weights_made_of_one_parameter(make):
  def forward(params, x):
    x = jax.nn.relu(x @ make(params["w"]) + params["b"])
    return x @ make(params["head"])

  check_program(forward, PARAMS, (X,), LAYERS, output=["head"])


def test_weights_of_which_all_are_made():
  """A tree-map before the call, as of mixed precision, or an average of weights."""

  def loss(params, x, labels):
    params = jax.tree.map(lambda w: (0.5 * w + 0.5 * w).astype(jnp.bfloat16), params)
    logits = jax.nn.relu(x @ params["w"] + params["b"]) @ params["head"]
    return cross_entropy(logits.astype(F32), labels)

  inputs = X.astype(jnp.bfloat16), jnp.array([0, 4])
  check_program(loss, PARAMS, inputs, LAYERS, output=["head"])


def test_weight_norm_with_scales():
  def forward(params, x):
    w = params["g"] * weight_norm(params["w"])
    return jax.nn.relu(x @ w) @ params["head"]

  params = arrays(w=(8, 6), g=(1, 6), head=(6, 5))
  check_program(forward, params, (X,), LAYERS, output=["head"])


def test_standardized_convolution():
  def forward(params, x):
    w = params["w"]
    mean, var = w.mean((0, 1, 2), keepdims=True), w.var((0, 1, 2), keepdims=True)
    w = params["gain"] * (w - mean) / jnp.sqrt(var + 1e-4)
    dims = ("NHWC", "HWIO", "NHWC")
    y = lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=dims)
    return y.mean((1, 2)) @ params["head"]

  params = arrays(w=(3, 3, 3, 6), gain=(6,), head=(6, 5))
  layers = {"w": last, "head": last}
  check_program(forward, params, (normal32(2, 8, 8, 3),), layers, output=["head"])


@pytest.mark.parametrize("given", ["mask", "vectors"])
def test_weights_made_of_a_parameter_and_inputs(given):
  def by_mask(params, x, mask):
    return jax.nn.relu(x @ (params["w"] * mask)) @ params["head"]

  def by_vectors(params, x, u):
    v = params["w"] @ u
    v = v / jnp.linalg.norm(v)
    sigma = v @ params["w"] @ u
    return jax.nn.relu(x @ (params["w"] / sigma)) @ params["head"], v

  function = by_mask if given == "mask" else by_vectors
  other = jnp.ones((8, 6), F32) if given == "mask" else jnp.ones((6,), F32)
  params = arrays(w=(8, 6), head=(6, 5))
  check_program(function, params, (X, other), LAYERS, output=["head"])


# --- several parameters -------------------------------------------------------------


@pytest.mark.parametrize("merged", [False, True])
def test_lora(merged):
  def forward(params, x):
    p = params
    if merged:
      x = x @ (p["w"] + 0.5 * p["a"] @ p["b"])
    else:
      x = x @ p["w"] + 0.5 * (x @ p["a"]) @ p["b"]
    return jax.nn.relu(x) @ p["head"]

  params = arrays(w=(8, 6), a=(8, 2), b=(2, 6), head=(6, 5))
  check_program(forward, params, (X,), dict.fromkeys(params, last), output=["head"])


def test_lora_of_a_frozen_model():
  """Of two trees the first is read."""

  def loss(adapters, frozen, x):
    w = jax.tree.map(lambda w, ab: w + ab["a"] @ ab["b"], frozen, adapters,
                     is_leaf=lambda x: isinstance(x, jax.Array))  # fmt: skip
    return (jax.nn.relu(x @ w["in"]) @ w["out"]).sum()

  adapters = {"in": arrays(a=(8, 2), b=(2, 6)), "out": arrays(a=(6, 2), b=(2, 5))}
  frozen = arrays(**{"in": (8, 6), "out": (6, 5)})
  layers = {f"{w}/{k}": last for w in ("in", "out") for k in "ab"}
  check_program(loss, adapters, (frozen, X), layers)


def test_magnitudes_and_directions():
  """DoRA: a merged weight, normalized."""

  def forward(params, x):
    p = params
    w = p["w"] + p["a"] @ p["b"]
    w = p["m"] * w / jnp.linalg.norm(w, axis=0, keepdims=True)
    return jax.nn.relu(x @ w) @ p["head"]

  params = arrays(w=(8, 6), a=(8, 2), b=(2, 6), m=(1, 6), head=(6, 5))
  layers = dict.fromkeys(("w", "a", "b", "head"), last)
  check_program(forward, params, (X,), layers, output=["head"])


def test_sums_of_weights():
  def forward(params, x):
    return jax.nn.relu(x @ (params["a"] + params["b"])) @ params["head"]

  params = arrays(a=(8, 6), b=(8, 6), head=(6, 5))
  check_program(forward, params, (X,), dict.fromkeys(params, last), output=["head"])


def test_shared_weights():
  def forward(params, x):
    for _ in range(3):
      x = jnp.tanh(x @ params["w"])
    return x @ params["head"]

  params = arrays(w=(8, 8), head=(8, 5))
  check_program(forward, params, (X,), dict.fromkeys(params, last), output=["head"])


def test_weights_of_a_hypernetwork_are_no_parameters():
  def forward(params, task, x):
    hidden = jax.nn.relu(task @ params["hidden"])
    w = (hidden @ params["w"] + params["b"]).reshape(8, 6)
    return jax.nn.relu(x @ w) @ params["head"]

  params = arrays(hidden=(3, 4), w=(4, 48), b=(48,), head=(6, 5))
  layers = dict.fromkeys(("hidden", "w", "head"), last)
  check_program(forward, params, (normal32(3), X), layers, output=["head"])


def test_a_hypernetwork_of_learned_tasks():
  """Of a product of two parameters, either could be the learned input."""

  def forward(params, x):
    w = (jax.nn.relu(params["task"] @ params["w1"]) @ params["w2"]).reshape(8, 6)
    return jax.nn.relu(x @ w) @ params["head"]

  params = arrays(task=(1, 3), w1=(3, 4), w2=(4, 48), head=(6, 5))
  layers = dict.fromkeys(("w1", "w2", "head"), last)
  check_program(forward, params, (X,), layers, output=["head"])


def test_orthogonal_weights():
  """Behind a decomposition nothing can be seen: it is said, and not guessed."""

  def forward(params, x):
    q, _ = jnp.linalg.qr(params["w"])
    return jax.nn.relu(x @ q) @ params["head"]

  params = arrays(w=(8, 6), head=(6, 5))
  layers = {"head": last}
  check_program(forward, params, (X,), layers, output=["head"], unread=["w"])
