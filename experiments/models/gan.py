"""The generator and the discriminator of MHE-GAN, for images of 32 x 32 pixels."""

import flax.linen as nn
import jax

from experiments.models.initializers import he_normal, lecun_normal

SIDE = 32  # Pixels of the sides of an image.
LATENT = 128  # Dimensions of what the generator is given.


class Discriminator(nn.Module):
  """Seven convolutions and a linear layer, leaky ReLU, with or without SN.

  Every layer but the first keeps its input's side (3 x 3) or halves it (4 x 4, stride
  2): widths w, 2w, 2w, 4w, 4w, 8w, 8w.

  Attributes:
    width: channels of the first layer, w; 64 in the paper.
    spectral_norm: divide the weights of every layer by their largest singular value
      (Miyato et al., Spectral Normalization for Generative Adversarial Networks, ICLR
      2018), of kernels as matrices ``[kh * kw * in, out]``. The parameters keep their
      paths: ``conv0/kernel``, ..., ``score/kernel`` with it and without.

  References:
    The authors' code, https://github.com/wy1iu/MHE. Initialization is He et al.'s
    (2015): the paper names none, and it keeps the scale of what narrow layers pass on.
  """

  width: int = 64
  spectral_norm: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, *, update_stats: bool = False) -> jax.Array:
    """Logits ``[batch]`` of images ``[batch, 32, 32, channels]``, -1 to 1.

    Args:
      x: images.
      update_stats: keep the step of the power iteration that each call makes, in the
        collection ``batch_stats``.
    """

    def apply(layer, x):
      if self.spectral_norm:
        wrapped = nn.SpectralNorm(layer, name=f"{layer.name}_norm")
        return wrapped(x, update_stats=update_stats)
      return layer(x)

    for i, factor in enumerate((1, 2, 2, 4, 4, 8, 8)):
      size, strides = (4, 2) if i % 2 else (3, 1)
      layer = nn.Conv(
        factor * self.width,
        (size, size),
        strides=strides,
        kernel_init=he_normal,
        name=f"conv{i}",
      )
      x = nn.leaky_relu(apply(layer, x), 0.1)
    x = x.reshape(x.shape[0], -1)
    score = nn.Dense(1, kernel_init=he_normal, name="score")
    return apply(score, x)[:, 0]


class Generator(nn.Module):
  """A linear layer, three transposed convolutions and a convolution.

  All but the last are followed by batch normalization and ReLU, the last by tanh.

  Attributes:
    width: channels of the last hidden layer, w; the others have 8w, 4w, 2w.
    channels: of the images.
    momentum: of the running averages of batch normalization; 0 makes them the
      statistics of the last batch, see :func:`experiments.gan.training.statistics`.

  References:
    The authors' code, https://github.com/wy1iu/MHE. No biases where batch
    normalization follows, which would take them away.
  """

  width: int = 64
  channels: int = 3
  momentum: float = 0.0

  @nn.compact
  def __call__(self, z: jax.Array, *, train: bool = False) -> jax.Array:
    """Images ``[batch, 32, 32, channels]``, -1 to 1, of latents ``[batch, 128]``."""

    def activate(x, name):
      norm = nn.BatchNorm(
        use_running_average=not train, momentum=self.momentum, name=name
      )
      return nn.relu(norm(x))

    side = SIDE // 8
    x = nn.Dense(side * side * 8 * self.width, use_bias=False, name="linear")(z)
    x = x.reshape(z.shape[0], side, side, -1)
    x = activate(x, "linear_norm")
    for i, factor in enumerate((4, 2, 1)):
      layer = nn.ConvTranspose(
        factor * self.width,
        (4, 4),
        strides=(2, 2),
        use_bias=False,
        kernel_init=lecun_normal,
        name=f"deconv{i}",
      )
      x = activate(layer(x), f"deconv{i}_norm")
    last = nn.Conv(self.channels, (3, 3), kernel_init=lecun_normal, name="image")
    return nn.tanh(last(x))
