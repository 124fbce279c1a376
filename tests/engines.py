"""The ways to go through pairs, each by the public function that takes it."""

import functools

import jax
import numpy as np
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from mhe_jax import (
  Riesz,
  batch_energy,
  hyperspherical_energy,
  nearest_neurons,
  neuron_energies,
  sampled_energy,
)

OPTIONS = {"potential": Riesz(2.0), "half_space": True}
NUM_DEVICES = 8
ROWS = np.array([0, 3])
energy = functools.partial(hyperspherical_energy, **OPTIONS)
sample = functools.partial(sampled_energy, jax.random.key(7), num_samples=6, **OPTIONS)


def mesh_of(axis_type=AxisType.Auto):
  return jax.make_mesh((NUM_DEVICES,), ("x",), (axis_type,))


def assert_close(actual, expected, rtol=1e-11):
  """Equal up to rtol of the largest number of each array, whatever the devices."""

  def check(x, y):
    assert x.shape == y.shape and x.dtype == y.dtype
    scale = np.abs(y).max(initial=1e-300)
    np.testing.assert_allclose(jax.device_get(x), y, rtol=0, atol=rtol * scale)

  jax.tree.map(check, actual, expected)


def ring(w):
  """Of rows that are divided among all devices."""
  spec = P(*[None] * (w.ndim - 2), "x")
  function = functools.partial(energy, axis_name="x")
  return jax.shard_map(function, mesh=mesh_of(), in_specs=spec, out_specs=P())(w)


# Of neurons [*batch, n, d]: an array [*batch], or with more axes behind these.
ENGINES = {
  "dense": functools.partial(energy, implementation="dense"),
  "default": energy,
  "tiled": functools.partial(energy, implementation="tiled", block_size=16),
  "ring": ring,
  "rows": functools.partial(neuron_energies, **OPTIONS),
  "nearest": lambda w: nearest_neurons(w, half_space=True, k=2)[0],
  "nearest of some": lambda w: nearest_neurons(w, k=2, rows=ROWS)[0],
  "field": sample,
  "minibatch": functools.partial(sample, method="minibatch"),
  "some rows": lambda w: batch_energy(w, ROWS, **OPTIONS),
}
