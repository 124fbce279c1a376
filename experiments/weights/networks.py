"""Small networks for images of 16 x 16, with their convolutions as matrix products.

A convolution whose kernel differs from run to run becomes, under ``vmap``, a grouped
one, and those are slow on every device; and on CPU a convolution in a loop is slow too.
The product of patches and kernels is neither.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.weights.presets import OUTPUT, Network
from mhe_jax import LayerRule

SIZE = 16
RULES = (LayerRule(OUTPUT, role="output"),)

_he_normal = nn.initializers.he_normal()


class Conv(nn.Module):
  """A convolution of 3 x 3 with padding, without bias.

  Attributes:
    width: channels.
    strides: of both axes.
  """

  width: int
  strides: int = 1

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Activations ``[batch, height / strides, width / strides, width]``."""
    shape = (3, 3, x.shape[-1], self.width)
    kernel = jnp.asarray(self.param("kernel", _he_normal, shape, x.dtype))
    _, height, width, _ = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    step = self.strides
    patches = [
      x[:, i : i + height : step, j : j + width : step]
      for i in range(3)
      for j in range(3)
    ]
    return jnp.concatenate(patches, -1) @ kernel.reshape(-1, self.width)


class MLP(nn.Module):
  """Three hidden layers.

  Attributes:
    width: factor of 32 neurons.
  """

  width: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Logits ``[batch, 10]`` of images ``[batch, 16, 16, channels]``."""
    x = x.reshape(len(x), -1)
    for i in range(3):
      dense = nn.Dense(32 * self.width, kernel_init=_he_normal, name=f"dense{i}")
      x = nn.relu(dense(x))
    return nn.Dense(10, name="head")(x)


class CNN(nn.Module):
  """Six convolutions in three stages, an average over positions, and the classifier.

  Attributes:
    width: factor of 8, 16 and 32 channels.
    norm: with batch normalization.
  """

  width: int
  norm: bool

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Logits ``[batch, 10]`` of images ``[batch, 16, 16, channels]``."""
    for i in range(6):
      if i in (2, 4):
        x = _pool(x)
      x = Conv(8 * self.width * 2 ** (i // 2), name=f"conv{i}")(x)
      if self.norm:
        x = _norm(train)(x)
      x = nn.relu(x)
    return nn.Dense(10, name="head")(x.mean((1, 2)))


class ResNet(nn.Module):
  """ResNet-8: a convolution, three residual blocks of two, and the classifier.

  Attributes:
    width: factor of 8, 16 and 32 channels.
  """

  width: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Logits ``[batch, 10]`` of images ``[batch, 16, 16, channels]``."""
    x = nn.relu(_norm(train)(Conv(8 * self.width, name="conv")(x)))
    for i in range(3):
      width, strides = 8 * self.width * 2**i, 1 if i == 0 else 2
      y = nn.relu(_norm(train)(Conv(width, strides, name=f"block{i}_conv0")(x)))
      y = _norm(train)(Conv(width, name=f"block{i}_conv1")(y))
      if i:
        x = x[:, ::2, ::2]
        shortcut = nn.Dense(width, use_bias=False, name=f"block{i}_shortcut")
        x = _norm(train)(shortcut(x))
      x = nn.relu(x + y)
    return nn.Dense(10, name="head")(x.mean((1, 2)))


class ViT(nn.Module):
  """A vision transformer of two blocks over 16 patches of 4 x 4.

  Attributes:
    width: factor of 32 features and of 2 heads.
  """

  width: int

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Logits ``[batch, 10]`` of images ``[batch, 16, 16, channels]``."""
    features, heads = 32 * self.width, 2 * self.width
    x = x.reshape(len(x), 4, 4, 4, 4, -1).swapaxes(2, 3).reshape(len(x), 16, -1)
    x = nn.Dense(features, name="patches")(x)
    positions = nn.initializers.normal(0.02)
    x = x + self.param("positions", positions, (1, 16, features), x.dtype)
    for i in range(2):
      y = nn.LayerNorm()(x)
      query, key, value = (
        nn.Dense(features, name=f"block{i}_{name}")(y).reshape(len(x), 16, heads, -1)
        for name in ("query", "key", "value")
      )
      y = nn.dot_product_attention(query, key, value).reshape(x.shape)
      x = x + nn.Dense(features, name=f"block{i}_out")(y)
      y = nn.Dense(2 * features, name=f"block{i}_up")(nn.LayerNorm()(x))
      x = x + nn.Dense(features, name=f"block{i}_down")(nn.gelu(y))
    return nn.Dense(10, name="head")(nn.LayerNorm()(x).mean(1))


def build(network: Network, width: int) -> nn.Module:
  """A network by its name and the factor of its widths."""
  match network:
    case "mlp":
      return MLP(width)
    case "cnn" | "cnn-bn":
      return CNN(width, network == "cnn-bn")
    case "resnet":
      return ResNet(width)
    case "vit":
      return ViT(width)


def _norm(train: bool) -> nn.BatchNorm:
  return nn.BatchNorm(use_running_average=not train, momentum=0.9)


def _pool(x):
  """The largest of 2 x 2: Flax's pooling promotes dtypes."""
  batch, height, width, channels = x.shape
  return x.reshape(batch, height // 2, 2, width // 2, 2, channels).max((2, 4))
