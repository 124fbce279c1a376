"""Dtypes and layouts of weights, against matrices made by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import first, last
from jax import lax
from programs import arrays, check_program
from sets import normal32
from trees import F32

X = normal32(2, 8, seed=9)
PARAMS = arrays(w=(8, 6), b=(6,), head=(6, 5))
LAYERS = dict.fromkeys(("w", "head"), last)


# --- dtypes -------------------------------------------------------------------------


def test_weights_in_bfloat16():
  def forward(params, x):
    p = jax.tree.map(lambda w: w.astype(F32), params)
    return jax.nn.relu(x @ p["w"] + p["b"]) @ p["head"]

  params = jax.tree.map(lambda w: w.astype(jnp.bfloat16), PARAMS)
  check_program(forward, params, (X,), LAYERS, output=["head"])


def test_weights_in_eight_bits():
  def forward(params, x):
    w = params["w"].astype(jnp.bfloat16) * params["scale"]
    y = lax.dot_general(
      x.astype(jnp.float8_e4m3fn), params["direct"], (((1,), (0,)), ((), ())),
      preferred_element_type=F32,
    )  # fmt: skip
    return (x.astype(jnp.bfloat16) @ w).astype(F32) @ params["head"] + y

  params = arrays(w=(8, 6), direct=(8, 5), head=(6, 5))
  params |= {k: params[k].astype(jnp.float8_e4m3fn) for k in ("w", "direct")}
  params["scale"] = jnp.ones((1, 6), jnp.bfloat16)
  layers = dict.fromkeys(("w", "direct", "head"), last)
  check_program(forward, params, (X,), layers)


def test_codes_of_eight_bits_are_no_neurons():
  def forward(params, x):
    w = params["codes"].astype(F32) * params["scale"]
    return jax.nn.relu(x @ w) @ params["head"]

  params = arrays(codes=(8, 6), scale=(6,), head=(6, 5))
  params["codes"] = params["codes"].astype(jnp.int8)
  check_program(forward, params, (X,), {"head": last}, output=["head"])


# --- transposed and sparse ----------------------------------------------------------


@pytest.mark.parametrize("form", ["w @ x", "x @ w.T", "einsum", "vmap"])
def test_rows_as_neurons(form):
  def forward(params, x):
    w = params["w"]
    if form == "w @ x":
      y = (w @ x.T).T
    elif form == "x @ w.T":
      y = x @ w.T
    elif form == "einsum":
      y = jnp.einsum("oi,bi->bo", w, x)
    else:
      y = jax.vmap(lambda x: w @ x)(x)
    return jnp.tanh(y) @ params["head"]

  params = arrays(w=(6, 8), head=(6, 5))
  check_program(forward, params, (X,), {"w": first, "head": last}, output=["head"])


def test_blocks_on_a_diagonal():
  def forward(params, x):
    y = jnp.einsum("bgi,gio->bgo", x.reshape(2, 4, 2), params["w"])
    return y.reshape(2, -1) @ params["head"]

  params = arrays(w=(4, 2, 3), head=(12, 5))
  layers = {"w": lambda w: np.asarray(w).swapaxes(1, 2), "head": last}
  check_program(forward, params, (X,), layers, output=["head"])


def test_padded_weights():
  def forward(params, x):
    w = jnp.pad(params["w"], ((0, 0), (0, 2)))
    return jax.nn.relu(x @ w) @ params["head"]

  params = arrays(w=(8, 6), head=(8, 5))
  check_program(forward, params, (X,), LAYERS, output=["head"])


def test_kronecker_products():
  """Neurons are products of neurons of the factors."""

  def forward(params, x):
    return jax.nn.relu(x @ jnp.kron(params["a"], params["b"])) @ params["head"]

  params = arrays(a=(2, 2), b=(4, 3), head=(6, 5))
  check_program(forward, params, (X,), dict.fromkeys(params, last), output=["head"])
