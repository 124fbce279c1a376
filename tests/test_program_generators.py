"""Generators, sets and graphs, written by hand, against matrices made by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import in_groups, last, second_last
from jax import lax
from programs import arrays, check_program
from sets import normal32
from test_program_convolutional import IMAGES, NHWC, conv
from trees import F32

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
  **{f"down/{i}/w": last for i in (0, 1)},
  **{f"up/{i}/{k}": last for i in (0, 1) for k in ("up", "w")},
  **dict.fromkeys(("middle", "out"), last),
}


def test_u_net():
  check_program(u_net, u_net_params(), (IMAGES,), U_NET, output=["out"])


def test_transposed_convolution_with_a_transposed_kernel():
  """As the gradient of a convolution: channels in and out change places."""

  def forward(params, x):
    return lax.conv_transpose(
      x, params["w"], (2, 2), "SAME", dimension_numbers=NHWC, transpose_kernel=True
    )

  layers = {"w": second_last}
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
  layers = {**U_NET, "time1": last, "time2": last}
  layers |= {f"down/{i}/film": in_groups(2) for i in (0, 1)}
  for key in (jax.random.key(0), jax.random.PRNGKey(0)):
    check_program(loss, params, (IMAGES, key), layers, output=["out"])


def discriminator(p, x):
  x = jax.nn.leaky_relu(conv(x, p["w1"], 2))
  return jax.nn.leaky_relu(conv(x, p["w2"], 2)).reshape(len(x), -1) @ p["score"]


def generator(p, z):
  x = jax.nn.relu(z @ p["dense"]).reshape(-1, 2, 2, 6)
  x = jax.nn.relu(lax.conv_transpose(x, p["up1"], (2, 2), "SAME"))
  return jnp.tanh(lax.conv_transpose(x, p["up2"], (2, 2), "SAME"))


GENERATOR = {"dense": last, "up1": last, "up2": last}
DISCRIMINATOR = {"w1": last, "w2": last, "score": last}


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
  inputs = normal32(2, 4), IMAGES
  check_program(loss, gan_params(), inputs, layers, output=["1/score"])


def test_adversaries_one_by_one():
  g, d = gan_params()
  check_program(generator, g, (normal32(2, 4),), GENERATOR, output=["up2"])
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
  layers = dict.fromkeys(params, last) | {"posterior": in_groups(2)}
  inputs = normal32(2, 12), jax.random.key(0)
  check_program(loss, params, inputs, layers, output=["out"])


# --- no images ----------------------------------------------------------------------


def test_deep_sets():
  def forward(params, x):
    y = jax.nn.relu(x @ params["each"])
    pooled = jnp.concatenate([y.sum(1), y.max(1)], axis=-1)
    return jax.nn.relu(pooled @ params["all"]) @ params["head"]

  params = arrays(each=(3, 6), all=(12, 8), head=(8, 5))
  layers = dict.fromkeys(params, last)
  check_program(forward, params, (normal32(2, 7, 3),), layers, output=["head"])


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
  layers = {f"layers/{i}/{k}": last for i in (0, 1) for k in ("message", "update")}
  inputs = normal32(4, 6), jnp.array([0, 1, 2, 3, 0]), jnp.array([1, 2, 3, 0, 2])
  check_program(forward, params, inputs, {**layers, "head": last}, output=["head"])


def test_fourier_features_and_implicit_images():
  def forward(params, points, frequencies):
    angles = points @ frequencies
    x = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    for w in params["hidden"]:
      x = jnp.sin(30.0 * (x @ w))
    return x @ params["out"]

  params = {"hidden": [normal32(8, 6), normal32(6, 6, seed=1)], **arrays(out=(6, 3))}
  layers = dict.fromkeys(("hidden/0", "hidden/1", "out"), last)
  inputs = normal32(5, 2), np.ones((2, 4), np.float32)
  check_program(forward, params, inputs, layers, output=["out"])
