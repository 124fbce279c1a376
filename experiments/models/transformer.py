"""A small transformer, and a language model of bytes made of it."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class Blocks(nn.Module):
  """Blocks of a transformer: attention and two dense layers.

  Attributes:
    zero: whether the last layers of the branches start at zero.
    width: of the activations.
    blocks: number of blocks.
    heads: of the attention.
    causal: whether a position sees none behind it.
  """

  zero: bool
  width: int
  blocks: int
  heads: int
  causal: bool

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Activations ``[batch, positions, width]``."""
    small = nn.initializers.normal(0.02)
    branch = nn.initializers.normal(0.02 / (2 * self.blocks) ** 0.5)
    last = nn.initializers.zeros if self.zero else branch
    length = x.shape[1]
    mask = jnp.tril(jnp.ones((1, 1, length, length), bool)) if self.causal else None
    for i in range(self.blocks):
      y = nn.LayerNorm(name=f"norm{i}a")(x)
      query, key, value = (
        nn.Dense(self.width, kernel_init=small, name=f"{part}{i}")(y).reshape(
          len(x), length, self.heads, -1
        )
        for part in ("query", "key", "value")
      )
      y = nn.dot_product_attention(query, key, value, mask=mask).reshape(x.shape)
      x = x + nn.Dense(self.width, kernel_init=last, name=f"out{i}")(y)
      y = nn.LayerNorm(name=f"norm{i}b")(x)
      y = nn.gelu(nn.Dense(4 * self.width, kernel_init=small, name=f"up{i}")(y))
      x = x + nn.Dense(self.width, kernel_init=last, name=f"down{i}")(y)
    return nn.LayerNorm(name="norm")(x)


class LanguageModel(nn.Module):
  """A language model of bytes.

  Attributes:
    zero: whether the last layers of the branches, and the head, start at zero;
      otherwise as in GPT-2.
    width: of the activations.
    blocks: number of blocks.
    heads: of the attention.
    length: positions.
  """

  zero: bool
  width: int
  blocks: int
  heads: int
  length: int

  @nn.compact
  def __call__(self, tokens: jax.Array) -> jax.Array:
    """Logits ``[batch, length, 256]`` of the bytes that follow."""
    small = nn.initializers.normal(0.02)
    x = nn.Embed(256, self.width, embedding_init=small, name="embed")(tokens)
    x = x + self.param("positions", small, (self.length, self.width), x.dtype)[None]
    x = Blocks(
      self.zero, self.width, self.blocks, self.heads, causal=True, name="blocks"
    )(x)
    last = nn.initializers.zeros if self.zero else small
    return nn.Dense(256, use_bias=False, kernel_init=last, name="head")(x)
