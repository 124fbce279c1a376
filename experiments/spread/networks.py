"""Eight small networks, each with two initializations, and what they are trained on.

All are functions of parameters alone: normalization is over channels, not over images.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments.data.digits import read_digits
from experiments.models.transformer import Blocks, LanguageModel
from experiments.spread.presets import NETWORKS, Network, Start
from mhe_jax import LayerRule, NeuronAxes

Batch = Any


class Problem(NamedTuple):
  """A network and its loss.

  Attributes:
    init: parameters, of a key and of how it starts: with zeros in the last layers of
      its branches, or the usual way.
    loss: of parameters and a batch.
    draw: a batch, of a generator of random numbers.
    measured: the batch on which the loss in training is told.
    rules: how its parameters are read.
  """

  init: Callable[[jax.Array, Start], Any]
  loss: Callable[[Any, Batch], jax.Array]
  draw: Callable[[np.random.Generator], Batch]
  measured: Batch
  rules: tuple[LayerRule, ...]


# Their names do not say that windows are no stacks of layers.
CONVOLUTIONS = LayerRule(".*kernel", NeuronAxes(-1), optional=True)
HEAD = (
  LayerRule("head/kernel", role="output"),
  LayerRule("positions", role="skip", optional=True),
)
_ZERO = nn.initializers.zeros
_HE = nn.initializers.he_normal()


class MLP(nn.Module):
  """Residual blocks of two layers, on images that are one vector."""

  zero: bool = False
  width: int = 64
  blocks: int = 4
  outputs: int = 10

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Outputs ``[batch, outputs]``."""
    x = nn.Dense(self.width, name="first")(x.reshape(len(x), -1))
    last = _ZERO if self.zero else nn.initializers.lecun_normal()
    for i in range(self.blocks):
      y = nn.Dense(2 * self.width, name=f"up{i}")(nn.LayerNorm(name=f"norm{i}")(x))
      x = x + nn.Dense(self.width, kernel_init=last, name=f"down{i}")(nn.relu(y))
    return nn.Dense(self.outputs, kernel_init=last, name="head")(x)


class CNN(nn.Module):
  """The narrow convolutions of the quickstart, without its batch normalization."""

  zero: bool = False
  width: int = 8
  depth: int = 15

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Logits ``[batch, 10]``."""
    for i in range(self.depth):
      x = nn.relu(_conv(self.width, f"conv{i}", _HE)(x))
      if i + 1 in (self.depth // 3, 2 * self.depth // 3):
        x = nn.max_pool(x, (2, 2), (2, 2))
    last = _ZERO if self.zero else nn.initializers.lecun_normal()
    return nn.Dense(10, kernel_init=last, name="head")(x.mean((1, 2)))


class ResNet(nn.Module):
  """Residual blocks of two convolutions, whose last scale is zero or one."""

  zero: bool = False
  width: int = 8

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Logits ``[batch, 10]``."""
    x = _conv(self.width, "first", _HE)(x)
    scale = _ZERO if self.zero else nn.initializers.ones
    for i in range(4):
      width, strides = self.width * 2 ** (i // 2), 2 if i in (1, 2) else 1
      y = _conv(width, f"block{i}_conv0", _HE, strides)(nn.relu(_norm(f"n{i}")(x)))
      y = _conv(width, f"block{i}_conv1", _HE)(nn.relu(_norm(f"m{i}")(y)))
      y = nn.GroupNorm(num_groups=4, scale_init=scale, name=f"last{i}")(y)
      if y.shape != x.shape:
        shape = (1, 1)
        x = nn.Conv(width, shape, strides, use_bias=False, name=f"block{i}_skip")(x)
      x = x + y
    return nn.Dense(10, name="head")(nn.relu(_norm("norm")(x)).mean((1, 2)))


class UNet(nn.Module):
  """A denoiser: two scales, with the last layer of every branch zero or not."""

  zero: bool = False
  width: int = 12

  @nn.compact
  def __call__(self, x: jax.Array, noise: jax.Array) -> jax.Array:
    """The noise in images ``[batch, 14, 14, 1]`` of a level ``[batch]``."""
    noise = noise[:, None, None, None]
    level = jnp.broadcast_to(noise, x.shape)
    x = _conv(self.width, "first", _HE)(jnp.concatenate([x, level], -1))
    x = skip = self._branch("down", x)
    x = _conv(2 * self.width, "shrink", _HE, 2)(x)
    x = self._branch("middle1", self._branch("middle0", x))
    x = x.repeat(2, 1).repeat(2, 2)
    x = _conv(self.width, "grow", _HE)(jnp.concatenate([x, skip], -1))
    x = nn.relu(_norm("norm")(self._branch("up", x)))
    last = _ZERO if self.zero else nn.initializers.lecun_normal()
    return _conv(1, "last", last)(x)

  def _branch(self, name, x):
    width = x.shape[-1]
    last = _ZERO if self.zero else _HE
    y = _conv(width, f"{name}_conv0", _HE)(nn.relu(_norm(f"{name}_norm0")(x)))
    return x + _conv(width, f"{name}_conv1", last)(nn.relu(_norm(f"{name}_norm1")(y)))


class ViT(nn.Module):
  """A vision transformer over 49 patches of 2 x 2."""

  zero: bool = False
  width: int = 32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Logits ``[batch, 10]``."""
    x = x.reshape(len(x), 7, 2, 7, 2).swapaxes(2, 3).reshape(len(x), 49, 4)
    x = nn.Dense(self.width, name="patches")(x)
    small = nn.initializers.normal(0.02)
    x = x + self.param("positions", small, (49, self.width), x.dtype)[None]
    x = Blocks(self.zero, self.width, 2, 4, causal=False, name="blocks")(x)
    last = _ZERO if self.zero else nn.initializers.lecun_normal()
    return nn.Dense(10, kernel_init=last, name="head")(x.mean(1))


def _conv(width, name, init, strides=1):
  return nn.Conv(width, (3, 3), strides, use_bias=False, kernel_init=init, name=name)


def _norm(name):
  return nn.GroupNorm(num_groups=4, name=name)


@functools.cache
def digits() -> tuple[np.ndarray, np.ndarray]:
  """2,000 images ``[2000, 14, 14, 1]``, standardized, and labels 0 to 9."""
  images, labels = read_digits()
  rows = np.random.default_rng(0).permutation(len(labels))[:2000]
  images = images[rows].reshape(-1, 14, 2, 14, 2, 1).mean((2, 4)) / 255.0
  images = (images - images.mean()) / images.std()
  return images.astype(np.float32), labels[rows]


@functools.cache
def problem(network: Network) -> Problem:
  """What a network is trained on."""
  match network:
    case "mlp":
      return _classifier(MLP)
    case "cnn":
      return _classifier(CNN, batch_size=40)
    case "resnet":
      return _classifier(ResNet, batch_size=32)
    case "vit":
      return _classifier(ViT, batch_size=32)
    case "unet":
      return _denoiser()
    case "transformer":
      return _language_model()
    case "lora":
      return _low_rank()
    case "policy":
      return _policy()
  raise ValueError(f"network must be one of {NETWORKS}, got {network!r}.")


def _cross_entropy(logits, labels):
  logits = jax.nn.log_softmax(logits)
  return -jnp.take_along_axis(logits, labels[..., None], -1).mean()


def _init(make, *inputs):
  """Of a class of modules: parameters of a key and of the way to start."""

  @functools.partial(jax.jit, static_argnums=1)
  def init(key, start):
    return make(start == "zero").init(key, *inputs)["params"]

  return init


def _some_digits(size):
  images, labels = digits()

  def draw(rng):
    rows = rng.integers(0, len(labels), size)
    return images[rows], labels[rows]

  return draw, (images[:1000], labels[:1000])


def _classifier(make, batch_size=64):
  def loss(params, batch):
    images, labels = batch
    return _cross_entropy(make().apply({"params": params}, images), labels)

  draw, measured = _some_digits(batch_size)
  rules = (*HEAD, CONVOLUTIONS) if make is ResNet else HEAD
  return Problem(_init(make, measured[0][:1]), loss, draw, measured, rules)


def _denoiser():
  images, _ = digits()

  def noisy(rng, rows):
    level = rng.uniform(0.1, 1.0, len(rows)).astype(np.float32)
    noise = rng.normal(size=(len(rows), 14, 14, 1)).astype(np.float32)
    angle = (np.pi / 2) * level[:, None, None, None]
    return np.cos(angle) * images[rows] + np.sin(angle) * noise, level, noise

  def draw(rng):
    return noisy(rng, rng.integers(0, len(images), 16))

  def loss(params, batch):
    x, level, noise = batch
    return jnp.mean((UNet().apply({"params": params}, x, level) - noise) ** 2)

  measured = noisy(np.random.default_rng(1), np.arange(500))
  rules = (LayerRule("last/kernel", role="output", optional=True), CONVOLUTIONS)
  init = _init(UNet, measured[0][:1], measured[1][:1])
  return Problem(init, loss, draw, measured, rules)


def _language_model():
  text = np.frombuffer(_docstrings().encode(), np.uint8).astype(np.int32)
  length = 48
  make = functools.partial(LanguageModel, width=48, blocks=2, heads=4, length=length)

  def windows(starts):
    return text[starts[:, None] + np.arange(length + 1)]

  def draw(rng):
    return windows(rng.integers(0, len(text) - length, 16))

  def loss(params, batch):
    logits = make(False).apply({"params": params}, batch[:, :-1])
    return _cross_entropy(logits, batch[:, 1:])

  measured = windows(np.random.default_rng(1).integers(0, len(text) - length, 100))
  init = _init(make, measured[:1, :-1])
  return Problem(init, loss, draw, measured, HEAD)


def _docstrings():
  """Prose that is everywhere: the documentation in modules of NumPy."""
  modules = (np, np.linalg, np.fft, np.random, np.polynomial)
  found = (
    getattr(module, name).__doc__ or "" for module in modules for name in dir(module)
  )
  return "\n\n".join(dict.fromkeys(found))


def _low_rank():
  """A network that knows the digits learns their negatives, by products of rank 4."""
  images, _ = digits()
  rank = 4

  @functools.cache
  def base():
    params = _init(MLP, images[:1])(jax.random.key(0), "usual")
    rng = np.random.default_rng(0)
    draw, _ = _some_digits(64)

    @jax.jit
    def step(params, batch):
      def loss(params):
        return _cross_entropy(MLP().apply({"params": params}, batch[0]), batch[1])

      return jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params))

    for _ in range(200):
      params = step(params, draw(rng))
    return params

  def init(key, start):
    params = {}
    for i, (name, layer) in enumerate(sorted(base().items())):
      if "kernel" in layer:
        d, n = layer["kernel"].shape
        a, b = jax.random.split(jax.random.fold_in(key, i))
        params[name] = {
          "a": {"kernel": jax.random.normal(a, (d, rank)) / d**0.5},
          "b": {"kernel": jax.random.normal(b, (rank, n)) / rank**0.5 * 0.1},
        }
        if start == "zero":
          params[name]["b"]["kernel"] = jnp.zeros((rank, n))
    return params

  def loss(params, batch):
    images, labels = batch
    whole = dict(base())
    for name, factors in params.items():
      product = factors["a"]["kernel"] @ factors["b"]["kernel"]
      whole[name] = whole[name] | {"kernel": whole[name]["kernel"] + product}
    logits = MLP().apply({"params": whole}, -images)
    return _cross_entropy(logits, (labels + 1) % 10)

  draw, measured = _some_digits(64)
  return Problem(init, loss, draw, measured, ())


def _policy():
  """A policy gradient: it names a digit, and is told only whether it is right."""
  draw_digits, (images, labels) = _some_digits(256)

  def draw(rng):
    return *draw_digits(rng), rng.gumbel(size=(256, 10)).astype(np.float32)

  def loss(params, batch):
    images, labels, *gumbel = batch
    logits = jnp.asarray(MLP(blocks=2).apply({"params": params}, images))
    logs = jax.nn.log_softmax(logits)
    if not gumbel:  # How often it is wrong.
      return 1.0 - jnp.exp(logs)[jnp.arange(len(labels)), labels].mean()
    choice = jax.lax.stop_gradient(logs + gumbel[0]).argmax(-1)
    reward = (choice == labels) * 1.0
    chosen = logs[jnp.arange(len(labels)), choice]
    return -jnp.mean((reward - reward.mean()) * chosen)

  make = functools.partial(MLP, blocks=2)
  return Problem(_init(make, images[:1]), loss, draw, (images, labels), HEAD)
