"""Initializers of kernels."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn


def drawn_as_matrix(initializer: nn.initializers.Initializer):
  """The same numbers ``[kh, kw, in, out]``, drawn as ``[kh * kw * in, out]``.

  XLA takes seconds to compile random bits of four axes for a CPU, and ten times less
  for two (jax 0.10).

  Args:
    initializer: whose scale depends on the fan-in, which both have, or on nothing.
  """

  def init(key, shape, dtype=jnp.float32, **options) -> jax.Array:
    matrix = (math.prod(shape[:-1]), shape[-1])
    return initializer(key, matrix, dtype, **options).reshape(shape)

  return init


he_normal = drawn_as_matrix(nn.initializers.he_normal())
lecun_normal = drawn_as_matrix(nn.initializers.lecun_normal())
