"""Matrices of neurons made by hand, to compare with what is read by class."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from trees import F32, normal

from mhe_jax import neuron_matrices


def rows_of(kernel, order, batch=0, neurons=1, groups=1):
  """Axes of a kernel in the order batch, neurons, features, as a matrix.

  Groups are sliced out one by one: contiguous, equal parts of the neurons.
  """
  x = np.transpose(np.asarray(kernel), order)
  stack, rest = x.shape[:batch], x.shape[batch:]
  n = math.prod(rest[:neurons])
  x = x.reshape(*stack, n, -1)
  if groups == 1:
    return x
  size = n // groups
  parts = [x[..., g * size : (g + 1) * size, :] for g in range(groups)]
  return np.stack(parts, axis=batch)


def last(ndim, **options):
  return functools.partial(rows_of, order=(ndim - 1, *range(ndim - 1)), **options)


def second_last(ndim):
  return functools.partial(rows_of, order=(ndim - 2, *range(ndim - 2), ndim - 1))


def first(ndim, **options):
  return functools.partial(rows_of, order=range(ndim), **options)


heads = functools.partial(rows_of, order=(1, 2, 0), neurons=2)


OFF = {"use_bias": False}


def check(params, rules, readings):
  """These layers and no others, each as by hand; the rest is not read."""
  arrays = {
    "/".join(
      part
      for key in path
      for part in jax.tree_util.keystr((key,), simple=True).split("/")
    ): x
    for path, x in jax.tree_util.tree_flatten_with_path(params)[0]
  }
  matrices = neuron_matrices(params, rules)
  assert set(matrices) == set(readings)
  for path, reading in readings.items():
    expected = reading(arrays[path])
    assert matrices[path].shape == expected.shape, path
    np.testing.assert_array_equal(matrices[path], expected, err_msg=path)


def inputs_of(shape):
  return jnp.arange(6) % 7 if shape == "tokens" else normal(shape, seed=9)


class TwoTables(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = nn.Conv(6, (3, 3), feature_group_count=3, name="depthwise")(x)
    bias = nn.Embed(4, 5, name="relative_attention_bias")(jnp.arange(4))
    return nn.Dense(5)(x) + bias[None, 0, None, None]


K = {"key": jax.random.key(0), "dtype": F32}


def core(make):
  def forward(x):
    cell = make()
    return cell(x, cell.initial_state(len(x)))

  return forward
