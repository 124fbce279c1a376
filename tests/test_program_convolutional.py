"""Convolutional programs, written by hand, against matrices made by hand."""

import jax
import jax.numpy as jnp
import pytest
from by_hand import first, in_groups, last, second_last, stacked
from jax import lax
from programs import arrays, check_program, cross_entropy, norm
from sets import normal32
from trees import F32

NHWC = ("NHWC", "HWIO", "NHWC")
IMAGES = normal32(2, 8, 8, 3)
LABELS = jnp.array([0, 3])


def conv(x, w, stride=1, groups=1, padding="SAME"):
  return lax.conv_general_dilated(
    x, w, (stride, stride), padding, dimension_numbers=NHWC, feature_group_count=groups
  )


def batch_norm(x, scale, bias):
  mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
  return (x - mean) * lax.rsqrt(var + 1e-5) * scale + bias, (mean, var)


# --- classifiers --------------------------------------------------------------------


def residual_network(params, images):
  statistics = {}
  x, statistics["stem"] = batch_norm(conv(images, params["stem"]), *params["norm0"])
  for i, p in enumerate(params["blocks"]):
    y, statistics[f"{i}a"] = batch_norm(conv(jax.nn.relu(x), p["w1"], 2), *p["norm1"])
    y, statistics[f"{i}b"] = batch_norm(conv(jax.nn.relu(y), p["w2"]), *p["norm2"])
    x = conv(x, p["short"], 2) + y
  x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME")
  return x.mean((1, 2)) @ params["head"] + params["bias"], statistics


def residual_loss(params, images, labels):
  logits, statistics = residual_network(params, images)
  return cross_entropy(logits, labels), (statistics, logits.argmax(-1))


@pytest.mark.parametrize(
  "function", [residual_network, residual_loss, jax.grad(residual_loss, has_aux=True)]
)
def test_residual_network_that_gives_statistics_too(function):
  def block(i):
    shapes = {"w1": (3, 3, i, 6), "w2": (3, 3, 6, 6), "short": (1, 1, i, 6)}
    return {
      **arrays(**shapes),
      "norm1": [jnp.ones(6, F32)] * 2,
      "norm2": [jnp.ones(6, F32)] * 2,
    }

  params = {
    **arrays(stem=(3, 3, 3, 4), head=(6, 5), bias=(5,)),
    "norm0": [jnp.ones(4, F32)] * 2,
    "blocks": [block(4), block(6)],
  }
  layers = {"stem": last, "head": last}
  layers |= {f"blocks/{i}/{k}": last for i in (0, 1) for k in ("w1", "w2", "short")}
  inputs = (IMAGES,) if function is residual_network else (IMAGES, LABELS)
  check_program(function, params, inputs, layers, output=["head"])


def test_convnext():
  def forward(params, images):
    p = params
    x = norm(conv(images, p["stem"], 2, padding="VALID"), p["norm0"])
    y = norm(conv(x, p["depthwise"], groups=6), p["norm1"])
    y = jax.nn.gelu(y @ p["up"] + p["bias"])
    y = y * (1.0 + p["scale"] * jnp.linalg.norm(y, axis=(1, 2), keepdims=True))
    x = x + p["gamma"] * (y @ p["down"])
    return norm(x.mean((1, 2)), p["norm2"]) @ p["head"]

  params = arrays(
    stem=(2, 2, 3, 6), norm0=(6,), depthwise=(7, 7, 1, 6), norm1=(6,), up=(6, 24),
    bias=(24,), scale=(24,), down=(24, 6), gamma=(6,), norm2=(6,), head=(6, 5),
  )  # fmt: skip
  layers = {"stem": last, **dict.fromkeys(("up", "down", "head"), last)}
  check_program(forward, params, (IMAGES,), layers, output=["head"])


def test_squeeze_and_excite():
  def forward(params, images):
    p = params
    x = jax.nn.relu(conv(images, p["expand"]))
    x = jax.nn.relu(conv(x, p["depthwise"], groups=8))
    gate = jax.nn.relu(x.mean((1, 2)) @ p["squeeze"]) @ p["excite"]
    x = conv(x * jax.nn.sigmoid(gate)[:, None, None], p["project"])
    return x.mean((1, 2)) @ p["head"]

  params = arrays(
    expand=(1, 1, 3, 8), depthwise=(3, 3, 1, 8), squeeze=(8, 2), excite=(2, 8),
    project=(1, 1, 8, 6), head=(6, 5),
  )  # fmt: skip
  layers = {k: last for k in ("expand", "project")}
  layers |= {k: last for k in ("squeeze", "excite", "head")}
  check_program(forward, params, (IMAGES,), layers, output=["head"])


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_grouped_convolutions(groups):
  def forward(params, images):
    x = jax.nn.relu(conv(conv(images, params["stem"]), params["w"], groups=groups))
    return x.mean((1, 2)) @ params["head"]

  params = arrays(stem=(3, 3, 3, 8), w=(3, 3, 8 // groups, 12), head=(12, 5))
  layers = {"stem": last, "w": in_groups(groups), "head": last}
  check_program(forward, params, (IMAGES,), layers, output=["head"])


def test_channels_are_mixed_between_groups():
  def forward(params, images):
    x = conv(images, params["stem"], groups=1)
    x = conv(x, params["w1"], groups=2)
    x = x.reshape(*x.shape[:-1], 2, 4).swapaxes(-1, -2).reshape(x.shape)
    return conv(conv(x, params["w2"], groups=2), params["w3"])

  params = arrays(stem=(1, 1, 3, 8), w1=(1, 1, 4, 8), w2=(3, 3, 4, 8), w3=(3, 3, 8, 4))
  layers = {"stem": last, "w1": in_groups(2), "w2": in_groups(2)}
  layers["w3"] = last
  check_program(forward, params, (IMAGES,), layers, output=["w3"])


@pytest.mark.parametrize("layout", ["OIHW", "HWOI", "IHWO", "flipped", "matrix"])
def test_layouts_of_kernels(layout):
  def forward(params, images):
    w = params["w"]
    if layout == "flipped":
      y = conv(images, w[::-1, ::-1])
    elif layout == "matrix":  # Windows as one long axis.
      dims = dict(dimension_numbers=NHWC)
      windows = lax.conv_general_dilated_patches(images, (3, 3), (1, 1), "SAME", **dims)
      y = windows @ w
    else:
      dims = ("NHWC", layout, "NHWC")
      y = lax.conv_general_dilated(images, w, (1, 1), "SAME", dimension_numbers=dims)
    return y.mean((1, 2)) @ params["head"]

  shapes = {"OIHW": (4, 3, 3, 3), "HWOI": (3, 3, 4, 3), "IHWO": (3, 3, 3, 4)}
  params = arrays(w=shapes.get(layout, (3, 3, 3, 4)), head=(4, 5))
  reading = {"OIHW": first, "HWOI": second_last}.get(layout, last)
  if layout == "matrix":
    params, reading = arrays(w=(27, 4), head=(4, 5)), last
  check_program(
    forward, params, (IMAGES,), {"w": reading, "head": last}, output=["head"]
  )


def test_locally_connected():
  """A kernel for each position: as many sets."""

  def forward(params, images):
    y = lax.conv_general_dilated_local(
      images, params["w"], (2, 2), "VALID", (2, 2), dimension_numbers=NHWC
    )
    return jax.nn.relu(y).reshape(2, -1) @ params["head"]

  params = arrays(w=(4, 4, 12, 5), head=(80, 3))
  local = stacked(stacked(last))
  layers = {"w": local, "head": last}
  check_program(forward, params, (IMAGES,), layers, output=["head"])
