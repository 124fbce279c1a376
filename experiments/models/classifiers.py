"""Networks for images, as the paper trains them."""

import re
from collections.abc import Sequence

import flax.linen as nn
import jax

from experiments.errors import InputError
from experiments.models.initializers import he_normal
from mhe_jax import LayerRule

OUTPUT = "score/kernel"
OUTPUT_RULES = (LayerRule(OUTPUT, role="output"),)


class CNN(nn.Module):
  """CNN-6, CNN-9 or CNN-15: blocks of convolution, batch norm and ReLU, no biases.

  Three stages of ``depth`` blocks each, a pooling after each stage, a linear layer of
  256 neurons over all positions (a 4 x 4 convolution for images of 32 x 32), and the
  classifier, ``score``.

  Attributes:
    depth: blocks in a stage: 2, 3 or 5 for CNN-6, 9 and 15.
    widths: channels of the three stages.
    num_classes: outputs.
    num_features: neurons of the linear layer.
    authors: no bias in the classifier either, and the authors' constants of batch
      normalization: epsilon 1e-3 and running averages of the last 1,000 batches,
      which lag behind in short training.

  References:
    The authors' code, https://github.com/wy1iu/MHE.
  """

  depth: int = 3
  widths: Sequence[int] = (64, 128, 256)
  num_classes: int = 100
  num_features: int = 256
  authors: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Logits ``[batch, num_classes]`` of images ``[batch, height, width, 3]``."""
    for stage, width in enumerate(self.widths):
      for block in range(self.depth):
        x = _convolution(width, f"conv{stage}_{block}")(x)
        x = nn.relu(_norm(train, f"norm{stage}_{block}", self.authors)(x))
      x = nn.max_pool(x, (2, 2), (2, 2))
    x = x.reshape(x.shape[0], -1)
    x = nn.Dense(
      self.num_features, use_bias=False, kernel_init=he_normal, name="features"
    )(x)
    return nn.Dense(
      self.num_classes,
      use_bias=not self.authors,
      kernel_init=he_normal,
      name="score",
    )(x)


class ResNet(nn.Module):
  """A residual network for small images: 6 k + 2 layers in three stages.

  Attributes:
    num_layers: 20, 32, 110, ...: 6 k + 2.
    width: channels of the first stage; the others have two and four times it.
    num_classes: outputs.

  References:
    He et al., Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2,
    with projections (option B) where the shape changes.
  """

  num_layers: int = 32
  width: int = 16
  num_classes: int = 100

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Logits ``[batch, num_classes]`` of images ``[batch, height, width, 3]``."""
    depth, rest = divmod(self.num_layers - 2, 6)
    if rest or depth < 1:
      raise ValueError(f"num_layers must be 6 k + 2, got {self.num_layers}.")
    x = nn.relu(_norm(train, "norm")(_convolution(self.width, "conv")(x)))
    for stage in range(3):
      for block in range(depth):
        strides = 2 if stage > 0 and block == 0 else 1
        name = f"block{stage}_{block}"
        x = ResidualBlock(self.width * 2**stage, strides, name=name)(x, train=train)
    x = x.mean((1, 2))
    return nn.Dense(self.num_classes, kernel_init=he_normal, name="score")(x)


class ImageNetResNet(nn.Module):
  """ResNet-18 or ResNet-34, for large images.

  Attributes:
    num_layers: 18 or 34.
    width: channels of the first stage.
    num_classes: outputs.

  References:
    He et al., Deep Residual Learning for Image Recognition, CVPR 2016, table 1.
  """

  num_layers: int = 18
  width: int = 64
  num_classes: int = 1000

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """Logits ``[batch, num_classes]`` of images ``[batch, height, width, 3]``."""
    x = _convolution(self.width, "conv", kernel_size=(7, 7), strides=2)(x)
    x = nn.relu(_norm(train, "norm")(x))
    x = nn.max_pool(x, (3, 3), (2, 2), padding="SAME")
    for stage, depth in enumerate(_IMAGENET_BLOCKS[self.num_layers]):
      for block in range(depth):
        strides = 2 if stage > 0 and block == 0 else 1
        name = f"block{stage}_{block}"
        x = ResidualBlock(self.width * 2**stage, strides, name=name)(x, train=train)
    x = x.mean((1, 2))
    return nn.Dense(self.num_classes, kernel_init=he_normal, name="score")(x)


_IMAGENET_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


def build(
  name: str, *, width: int, num_classes: int, authors: bool = False
) -> nn.Module:
  """A network by its name in the paper.

  Args:
    name: ``cnn-6``, ``cnn-9``, ``cnn-15``, or any other multiple of 3; ``resnet-18``
      and ``resnet-34``, for ImageNet; any other ``resnet-N`` with N = 6 k + 2, for
      small images.
    width: channels of the first stage.
    num_classes: outputs.
    authors: of a CNN, the details of the authors' code; see :class:`CNN`. They
      published none of their residual networks, which are those of He et al.

  Raises:
    InputError: there is no such network.
  """
  # One name for a network, for runs are named by it: no cnn-09.
  match = re.fullmatch("(cnn|resnet)-([1-9][0-9]*)", name)
  kind, depth = (match[1], int(match[2])) if match else ("", 0)
  if kind == "cnn" and depth >= 3 and depth % 3 == 0:
    widths = width, 2 * width, 4 * width
    return CNN(depth // 3, widths, num_classes, authors=authors)
  if kind == "resnet" and depth in _IMAGENET_BLOCKS:
    return ImageNetResNet(depth, width, num_classes)
  if kind == "resnet" and depth >= 8 and depth % 6 == 2:
    return ResNet(depth, width, num_classes)
  raise InputError(
    "model must be cnn-N with N a multiple of 3, resnet-18, resnet-34, or resnet-N "
    f"with N = 6 k + 2, got {name!r}."
  )


class ResidualBlock(nn.Module):
  """Two convolutions and a shortcut, projected where the shape changes."""

  width: int
  strides: int = 1

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Activations ``[batch, height / strides, width / strides, width]``."""
    y = _convolution(self.width, "conv0", strides=self.strides)(x)
    y = nn.relu(_norm(train, "norm0")(y))
    y = _norm(train, "norm1")(_convolution(self.width, "conv1")(y))
    if x.shape != y.shape:
      x = _convolution(self.width, "projection", (1, 1), self.strides)(x)
      x = _norm(train, "projection_norm")(x)
    return nn.relu(x + y)


def _convolution(
  width: int, name: str, kernel_size: tuple[int, int] = (3, 3), strides: int = 1
) -> nn.Conv:
  return nn.Conv(
    width,
    kernel_size,
    strides=strides,
    use_bias=False,
    kernel_init=he_normal,
    name=name,
  )


def _norm(train: bool, name: str, authors: bool = False) -> nn.BatchNorm:
  momentum, epsilon = (0.999, 1e-3) if authors else (0.9, 1e-5)
  return nn.BatchNorm(
    use_running_average=not train, momentum=momentum, epsilon=epsilon, name=name
  )
