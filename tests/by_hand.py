"""Matrices of neurons made by hand, to compare with what is read by class."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from sets import normal32
from trees import F32

from mhe_jax import neuron_matrices


def last(w):
  """The last axis is of neurons, those before of features."""
  w = np.asarray(w)
  return w.reshape(-1, w.shape[-1]).T


def second_last(w):
  return last(np.moveaxis(w, -2, -1))


def first(w):
  return np.reshape(w, (len(w), -1))


def heads(w):
  """Of ``[..., heads, size]``."""
  return last(np.reshape(w, (*w.shape[:-2], -1)))


def heads_first(w):
  """Of ``[heads, in, size]``."""
  return heads(np.moveaxis(w, 0, -2))


def in_groups(num, reading=last):
  """Contiguous, equal parts of the neurons; one part is no group."""
  return reading if num == 1 else lambda w: np.stack(np.split(reading(w), num))


def stacked(reading, axis=0):
  """Layers along an axis, one by one."""
  return lambda w: np.stack([reading(layer) for layer in np.moveaxis(w, axis, 0)])


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
  return jnp.arange(6) % 7 if shape == "tokens" else normal32(*shape, seed=9)


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
