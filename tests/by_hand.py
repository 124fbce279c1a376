"""Matrices of neurons made by hand, to compare with what is read."""

import jax
import numpy as np
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


K = {"key": jax.random.key(0), "dtype": F32}
