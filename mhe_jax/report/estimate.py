"""How long a report will take: from its shapes, and a second of measurement."""

import time
from collections.abc import Callable, Sequence

import numpy as np

from mhe_jax.neurons import nearest_neurons
from mhe_jax.potentials.base import Potential
from mhe_jax.report.layers import StoredLayer
from mhe_jax.report.measures import NUM_SAMPLES, energy_of
from mhe_jax.report.spectrum import LARGEST_SIDE, gram

_SIDE = 1024


def estimate(
  layers: Sequence[StoredLayer], potential: Potential, exact_up_to: int
) -> str:
  """A sentence: the time on this machine, and the memory of the largest tensor.

  Counts pairs times weights, products of Gram matrices, and the cubes of their sides,
  and takes the time of each from a matrix of 2,048 x 1,024. Good to a factor of two or
  so; a layer that is sampled is counted by its sample.

  Args:
    layers: what the report has rows of.
    potential: of the energies.
    exact_up_to: as of the report.
  """
  pairs = grams = cubes = 0.0
  for layer in layers:
    sets, n, d = layer.shape
    side = min(n, d)
    pairs += sets * n * d * (n if n <= exact_up_to else 2 * (NUM_SAMPLES + d))
    grams += sets * n * d * side
    cubes += sets * side**3 if side <= LARGEST_SIDE else 0.0
  w = np.random.default_rng(0).normal(size=(2 * _SIDE, _SIDE)).astype(np.float32)
  of_pairs = _seconds(
    lambda: (
      energy_of(w, potential, half_space=True, exact_up_to=len(w)),
      np.asarray(nearest_neurons(w, half_space=True)[0]),
    )
  )
  product = gram(w)
  of_gram = _seconds(lambda: gram(w))
  of_cube = _seconds(lambda: np.linalg.eigvalsh(product))
  seconds = (
    of_pairs * pairs / w.size / len(w)
    + of_gram * grams / w.size / _SIDE
    + of_cube * cubes / _SIDE**3
  )
  largest = max((layer.tensor for layer in layers), key=_numbers, default=None)
  memory = _bytes_of(layers, largest)
  return (
    f"{len(layers)} layers, {sum(map(_numbers, _tensors(layers))):,} weights: about "
    f"{_in_words(seconds)} on this machine, and up to {memory / 1e9:.1f} GB of "
    "memory."
  )


def _tensors(layers):
  return {layer.tensor.name: layer.tensor for layer in layers}.values()


def _numbers(tensor) -> int:
  return int(np.prod(tensor.shape))


def _bytes_of(layers, largest) -> float:
  """The tensor as stored, six copies in float32, Gram matrices, and what JAX takes.

  Measured: 0.9, 1.6 and 3.8 GB for 4,096, 11,008 and 32,000 rows of 4,096 in bfloat16.
  """
  if largest is None:
    return 0.0
  of_tensor = _numbers(largest) * largest.dtype.itemsize
  return (
    3e8
    + of_tensor
    + max(
      n * d * 4 * 6 + 3 * 8 * min(n, d) ** 2 for _, n, d in (x.shape for x in layers)
    )
  )


def _seconds(function: Callable) -> float:
  function()  # Compiles.
  times = []
  for _ in range(2):
    start = time.perf_counter()
    function()
    times.append(time.perf_counter() - start)
  return min(times)


def _in_words(seconds) -> str:
  if seconds < 90:
    return f"{seconds:.0f} seconds"
  if seconds < 90 * 60:
    return f"{seconds / 60:.0f} minutes"
  return f"{seconds / 3600:.1f} hours"
