"""In which order the channels of a convolution are removed: one function a criterion.

All look at a layer as it was trained, and at nothing else. A kernel is a matrix of
neurons ``[n, d]``, a row of its d weights for each of the n channels that it puts out.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from mhe_jax import Riesz, nearest_neurons, neuron_energies

POTENTIAL = Riesz(2.0)


class Layer(NamedTuple):
  """What a criterion may look at."""

  neurons: np.ndarray  # [n, d], float32
  scale: np.ndarray  # [n], of the batch norm that follows
  seed: Sequence[int]  # of random choices


def by_energy(layer: Layer, *, half_space: bool = True) -> np.ndarray:
  """The most redundant first: the highest energy with all that are still there.

  One by one, for the energy of a neuron falls when one that is near to it has gone:
  of twins both have a high energy, and only one is superfluous.

  Args:
    layer: with n channels.
    half_space: neurons are lines: opposite ones are redundant, too.

  Returns:
    The order, a permutation of 0 to n - 1; the last one left is the last.
  """
  n = len(layer.neurons)
  stays, order = np.ones(n, bool), []
  for _ in range(n):
    energies = neuron_energies(
      layer.neurons, POTENTIAL, half_space=half_space, where=stays
    )
    order.append(int(np.argmax(np.where(stays, energies, -np.inf))))
    stays[order[-1]] = False
  return np.asarray(order)


def by_twins(layer: Layer) -> np.ndarray:
  """Of the two that are closest, the one of the smaller norm; and again.

  Twins have the same direction, not opposite ones: batch norm and ReLU follow, so that
  of a neuron and its negative one is silent where the other speaks.
  """
  norms = np.linalg.norm(layer.neurons, axis=1)
  left, order = np.array(layer.neurons), []
  for _ in range(len(left) - 1):
    angles, nearest = nearest_neurons(left)
    first = int(np.nanargmin(angles[:, 0]))
    pair = [first, int(nearest[first, 0])]
    order.append(pair[int(np.argmin(norms[pair]))])
    left[order[-1]] = np.nan  # Is nobody's neighbor.
  return np.asarray([*order, *np.setdiff1d(np.arange(len(left)), order)])


def by_norm(layer: Layer) -> np.ndarray:
  """The smallest norm of the kernel first: magnitude pruning."""
  return np.argsort(np.linalg.norm(layer.neurons, axis=1), kind="stable")


def by_scale(layer: Layer) -> np.ndarray:
  """The smallest scale of the batch norm first.

  Batch norm divides by the size of what the kernel puts out; its scale is what is left
  of magnitude.
  """
  return np.argsort(np.abs(layer.scale), kind="stable")


def at_random(layer: Layer) -> np.ndarray:
  """Any order."""
  return np.random.default_rng(layer.seed).permutation(len(layer.neurons))


CRITERIA: dict[str, Callable[[Layer], np.ndarray]] = {
  "energy": by_energy,
  "twins": by_twins,
  "norm": by_norm,
  "scale": by_scale,
  "random": at_random,
}
