"""The networks of SphereFace."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.errors import InputError
from experiments.models.initializers import drawn_as_matrix

# Residual blocks of the four stages.
BLOCKS = {
  4: (0, 0, 0, 0),
  10: (0, 1, 2, 0),
  20: (1, 2, 4, 1),
  36: (2, 4, 8, 2),
  64: (3, 8, 16, 3),
}


class SphereFace(nn.Module):
  """Four stages, each of half the size and twice the width; no normalization.

  A stage begins with a 3 x 3 convolution of stride 2 and has some residual blocks of
  two 3 x 3 convolutions; each convolution is followed by a PReLU. At the end, a linear
  layer over all positions.

  Attributes:
    layers: convolutions: 4, 10, 20, 36 or 64; the linear layer is not counted.
    width: channels of the first stage.
    features: dimension of what it makes of an image.

  References:
    Liu et al., SphereFace: Deep Hypersphere Embedding for Face Recognition, CVPR 2017,
    table 2. There are no projections: within a stage, the shape stays. Initialization
    as remembered of the authors' Caffe files: Glorot's of the first convolution of a
    stage, standard deviation 0.01 in the blocks, which so begin close to the identity.
  """

  layers: int = 20
  width: int = 64
  features: int = 512

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    """Features ``[batch, features]`` of images ``[batch, height, width, channels]``.

    Pixels are from -1 to 1.
    """
    x = images
    for stage, blocks in enumerate(BLOCKS[self.layers]):
      width = self.width * 2**stage
      x = _convolution(width, f"conv{stage}", nn.initializers.glorot_uniform(), 2)(x)
      x = PReLU(name=f"prelu{stage}")(x)
      for block in range(blocks):
        y = x
        for i in range(2):
          name = f"{stage}_{block}_{i}"
          y = _convolution(width, f"conv{name}", _small_normal)(y)
          y = PReLU(name=f"prelu{name}")(y)
        x = x + y
    x = x.reshape(x.shape[0], -1)
    return nn.Dense(
      self.features, kernel_init=nn.initializers.glorot_uniform(), name="features"
    )(x)


class PReLU(nn.Module):
  """max(x, 0) + a min(x, 0), with a learned slope a of each channel, at first 0.25.

  References:
    He et al., Delving Deep into Rectifiers, ICCV 2015.
  """

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Of the shape of ``x``, whose last axis has the channels."""
    slope = self.param("slope", nn.initializers.constant(0.25), (x.shape[-1],), x.dtype)
    return jnp.where(x >= 0, x, x * jnp.broadcast_to(slope, x.shape))


_small_normal = drawn_as_matrix(nn.initializers.normal(0.01))


def check_layers(layers: int) -> None:
  """Raises an InputError unless the family has such a network."""
  if layers not in BLOCKS:
    raise InputError(
      f"layers must be one of {', '.join(map(str, BLOCKS))}, got {layers}."
    )


def _convolution(width, name, init, strides=1):
  return nn.Conv(width, (3, 3), strides, padding=1, kernel_init=init, name=name)
