"""The relative excess, by its definition, in float64."""

import numpy as np


def excess_by_hand(w, half_space):
  """From 0 at the best to 1 at random directions; s = 2, n <= d neurons.

  The best are at right angles, d^2 = 2, or in full space the simplex,
  d^2 = 2 n / (n - 1); two random directions have the mean energy (d - 2) / (2 (d - 3)).
  """
  n, d = w.shape
  assert n <= d
  u = w.astype(np.float64)
  u /= np.linalg.norm(u, axis=1, keepdims=True)
  t = (u @ u.T)[np.triu_indices(n, 1)]
  energy, best = np.mean(1.0 / (2.0 - 2.0 * t)), (n - 1.0) / (2.0 * n)
  if half_space:  # The own antipodes' share is the same in all three.
    energy, best = (energy + np.mean(1.0 / (2.0 + 2.0 * t))) / 2.0, 0.5
  return (energy - best) / ((d - 2.0) / (2.0 * (d - 3.0)) - best)
