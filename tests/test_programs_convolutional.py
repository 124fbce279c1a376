"""Convolutional programs, written by hand, against matrices made by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import first, last, rows_of, second_last
from jax import lax
from programs import arrays, check_program, cross_entropy, norm
from trees import F32, normal

NHWC = ("NHWC", "HWIO", "NHWC")
IMAGES = normal((2, 8, 8, 3))
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
  layers = {"stem": last(4), "head": last(2)}
  layers |= {f"blocks/{i}/{k}": last(4) for i in (0, 1) for k in ("w1", "w2", "short")}
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
  layers = {"stem": last(4), **dict.fromkeys(("up", "down", "head"), last(2))}
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
  layers = {k: last(4) for k in ("expand", "project")}
  layers |= {k: last(2) for k in ("squeeze", "excite", "head")}
  check_program(forward, params, (IMAGES,), layers, output=["head"])


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_grouped_convolutions(groups):
  def forward(params, images):
    x = jax.nn.relu(conv(conv(images, params["stem"]), params["w"], groups=groups))
    return x.mean((1, 2)) @ params["head"]

  params = arrays(stem=(3, 3, 3, 8), w=(3, 3, 8 // groups, 12), head=(12, 5))
  layers = {"stem": last(4), "w": last(4, groups=groups), "head": last(2)}
  check_program(forward, params, (IMAGES,), layers, output=["head"])


def test_channels_are_mixed_between_groups():
  def forward(params, images):
    x = conv(images, params["stem"], groups=1)
    x = conv(x, params["w1"], groups=2)
    x = x.reshape(*x.shape[:-1], 2, 4).swapaxes(-1, -2).reshape(x.shape)
    return conv(conv(x, params["w2"], groups=2), params["w3"])

  params = arrays(stem=(1, 1, 3, 8), w1=(1, 1, 4, 8), w2=(3, 3, 4, 8), w3=(3, 3, 8, 4))
  layers = {"stem": last(4), "w1": last(4, groups=2), "w2": last(4, groups=2)}
  layers["w3"] = last(4)
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
  reading = {"OIHW": first(4), "HWOI": second_last(4)}.get(layout, last(4))
  if layout == "matrix":
    params, reading = arrays(w=(27, 4), head=(4, 5)), last(2)
  check_program(
    forward, params, (IMAGES,), {"w": reading, "head": last(2)}, output=["head"]
  )


def test_locally_connected():
  """A kernel for each position: as many sets."""

  def forward(params, images):
    y = lax.conv_general_dilated_local(
      images, params["w"], (2, 2), "VALID", (2, 2), dimension_numbers=NHWC
    )
    return jax.nn.relu(y).reshape(2, -1) @ params["head"]

  params = arrays(w=(4, 4, 12, 5), head=(80, 3))
  local = functools.partial(rows_of, order=(0, 1, 3, 2), batch=2)
  layers = {"w": local, "head": last(2)}
  check_program(forward, params, (IMAGES,), layers, output=["head"])


# --- generators ---------------------------------------------------------------------


def u_net(params, x, embedded=None):
  skips = []
  for p in params["down"]:
    x = jax.nn.relu(conv(x, p["w"]))
    if embedded is not None:
      scale, shift = jnp.split(embedded @ p["film"], 2, axis=-1)
      x = x * (1.0 + scale[:, None, None]) + shift[:, None, None]
    skips.append(x)
    x = lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4.0
  x = jax.nn.relu(conv(x, params["middle"]))
  for p, skip in zip(params["up"], skips[::-1]):
    x = lax.conv_transpose(x, p["up"], (2, 2), "SAME", dimension_numbers=NHWC)
    x = jax.nn.relu(conv(jnp.concatenate([x, skip], axis=-1), p["w"]))
  return conv(x, params["out"])


def u_net_params(**more):
  return {
    "down": [arrays(w=(3, 3, 3, 4), **{k: (9, 8) for k in more}),
             arrays(w=(3, 3, 4, 6), **{k: (9, 12) for k in more})],
    "up": [arrays(up=(2, 2, 8, 6), w=(3, 3, 12, 6)),
           arrays(up=(2, 2, 6, 4), w=(3, 3, 8, 4))],
    **arrays(middle=(3, 3, 6, 8), out=(1, 1, 4, 3)),
  }  # fmt: skip


U_NET = {
  **{f"down/{i}/w": last(4) for i in (0, 1)},
  **{f"up/{i}/{k}": last(4) for i in (0, 1) for k in ("up", "w")},
  **dict.fromkeys(("middle", "out"), last(4)),
}


def test_u_net():
  check_program(u_net, u_net_params(), (IMAGES,), U_NET, output=["out"])


def test_transposed_convolution_with_a_transposed_kernel():
  """As the gradient of a convolution: channels in and out change places."""

  def forward(params, x):
    return lax.conv_transpose(
      x, params["w"], (2, 2), "SAME", dimension_numbers=NHWC, transpose_kernel=True
    )

  layers = {"w": second_last(4)}
  check_program(forward, arrays(w=(2, 2, 5, 3)), (IMAGES,), layers, output=["w"])


def test_diffusion():
  def loss(params, images, key):
    key_t, key_noise = jax.random.split(key)
    t = jax.random.uniform(key_t, (len(images),), F32)
    noise = jax.random.normal(key_noise, images.shape, F32)
    angles = t[:, None] * jnp.exp(-jnp.arange(3, dtype=F32))
    waves = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    hidden = jax.nn.silu(waves @ params["time1"]) @ params["time2"]
    alpha = jnp.cos(t)[:, None, None, None]
    noisy = alpha * images + jnp.sqrt(1.0 - alpha**2) * noise
    return jnp.mean((u_net(params, noisy, hidden) - noise) ** 2)

  params = {**u_net_params(film=()), **arrays(time1=(6, 9), time2=(9, 9))}
  layers = {**U_NET, "time1": last(2), "time2": last(2)}
  layers |= {f"down/{i}/film": last(2, groups=2) for i in (0, 1)}
  for key in (jax.random.key(0), jax.random.PRNGKey(0)):
    check_program(loss, params, (IMAGES, key), layers, output=["out"])


def discriminator(p, x):
  x = jax.nn.leaky_relu(conv(x, p["w1"], 2))
  return jax.nn.leaky_relu(conv(x, p["w2"], 2)).reshape(len(x), -1) @ p["score"]


def generator(p, z):
  x = jax.nn.relu(z @ p["dense"]).reshape(-1, 2, 2, 6)
  x = jax.nn.relu(lax.conv_transpose(x, p["up1"], (2, 2), "SAME"))
  return jnp.tanh(lax.conv_transpose(x, p["up2"], (2, 2), "SAME"))


GENERATOR = {"dense": last(2), "up1": last(4), "up2": last(4)}
DISCRIMINATOR = {"w1": last(4), "w2": last(4), "score": last(2)}


def critic_loss(trees, z, x):
  g, d = trees
  scores = discriminator(d, x), discriminator(d, generator(g, z))
  return jax.nn.softplus(-scores[0]).mean() + jax.nn.softplus(scores[1]).mean()


def generator_loss(trees, z, x):
  del x
  g, d = trees
  return jax.nn.softplus(-discriminator(d, generator(g, z))).mean()


def penalized_loss(trees, z, x):
  """With a penalty on the gradient of the critic."""
  g, d = trees
  fake = generator(g, z)
  gradient = jax.grad(lambda x: discriminator(d, x).sum())(0.5 * (x + fake))
  scores = discriminator(d, x), discriminator(d, fake)
  return scores[1].mean() - scores[0].mean() + ((gradient**2).sum() - 1.0) ** 2


def gan_params():
  g = arrays(dense=(4, 24), up1=(3, 3, 6, 5), up2=(3, 3, 5, 3))
  return g, arrays(w1=(3, 3, 3, 4), w2=(3, 3, 4, 4), score=(16, 2))


@pytest.mark.parametrize("loss", [critic_loss, generator_loss, penalized_loss])
def test_adversaries(loss):
  layers = {f"0/{k}": reading for k, reading in GENERATOR.items()}
  layers |= {f"1/{k}": reading for k, reading in DISCRIMINATOR.items()}
  inputs = normal((2, 4)), IMAGES
  check_program(loss, gan_params(), inputs, layers, output=["1/score"])


def test_adversaries_one_by_one():
  g, d = gan_params()
  check_program(generator, g, (normal((2, 4)),), GENERATOR, output=["up2"])
  check_program(discriminator, d, (IMAGES,), DISCRIMINATOR, output=["score"])


def test_variational_autoencoder():
  def loss(params, x, key):
    p = params
    hidden = jax.nn.relu(x @ p["encoder"])
    mean, log_var = jnp.split(hidden @ p["posterior"], 2, axis=-1)
    z = mean + jnp.exp(0.5 * log_var) * jax.random.normal(key, mean.shape, F32)
    logits = jax.nn.relu(z @ p["decoder"]) @ p["out"]
    nll = jnp.sum(jax.nn.softplus(logits) - x * logits)
    return nll - 0.5 * jnp.sum(1.0 + log_var - mean**2 - jnp.exp(log_var))

  params = arrays(encoder=(12, 8), posterior=(8, 6), decoder=(3, 8), out=(8, 12))
  layers = dict.fromkeys(params, last(2)) | {"posterior": last(2, groups=2)}
  inputs = normal((2, 12)), jax.random.key(0)
  check_program(loss, params, inputs, layers, output=["out"])


# --- no images ----------------------------------------------------------------------


def test_deep_sets():
  def forward(params, x):
    y = jax.nn.relu(x @ params["each"])
    pooled = jnp.concatenate([y.sum(1), y.max(1)], axis=-1)
    return jax.nn.relu(pooled @ params["all"]) @ params["head"]

  params = arrays(each=(3, 6), all=(12, 8), head=(8, 5))
  layers = dict.fromkeys(params, last(2))
  check_program(forward, params, (normal((2, 7, 3)),), layers, output=["head"])


def test_messages_on_a_graph():
  def forward(params, nodes, senders, receivers):
    for p in params["layers"]:
      edges = jnp.concatenate([nodes[senders], nodes[receivers]], axis=-1)
      messages = jax.nn.relu(edges @ p["message"])
      total = jax.ops.segment_sum(messages, receivers, num_segments=len(nodes))
      nodes = nodes + jnp.tanh(total @ p["update"])
    return nodes.mean(0) @ params["head"]

  params = {
    "layers": [arrays(message=(12, 8), update=(8, 6))] * 2,
    **arrays(head=(6, 5)),
  }
  layers = {f"layers/{i}/{k}": last(2) for i in (0, 1) for k in ("message", "update")}
  inputs = normal((4, 6)), jnp.array([0, 1, 2, 3, 0]), jnp.array([1, 2, 3, 0, 2])
  check_program(forward, params, inputs, {**layers, "head": last(2)}, output=["head"])


def test_fourier_features_and_implicit_images():
  def forward(params, points, frequencies):
    angles = points @ frequencies
    x = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    for w in params["hidden"]:
      x = jnp.sin(30.0 * (x @ w))
    return x @ params["out"]

  params = {"hidden": [normal((8, 6)), normal((6, 6), 1)], **arrays(out=(6, 3))}
  layers = dict.fromkeys(("hidden/0", "hidden/1", "out"), last(2))
  inputs = normal((5, 2)), np.ones((2, 4), np.float32)
  check_program(forward, params, inputs, layers, output=["out"])
