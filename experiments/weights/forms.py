"""The forms of the energy that are compared, as one formula with numbers in it.

The exponent, the space, the form and its weight are numbers that may be traced, so that
a network is compiled once for all of them. ``mhe_jax``, whose potentials are static,
gives the same values: the tests compare.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.weights.presets import FORMS, Space
from mhe_jax import Riesz, energy_lower_bound, uniform_energy
from mhe_jax.sphere import normalize

# Squared distance below which a pair exerts no force: mhe_jax's, of float32.
_SOFTENING = 8.0 * float(np.finfo(np.float32).eps)


class Scales(NamedTuple):
  """Of a potential and a space, and of every layer.

  Attributes:
    s: exponent of the Riesz potential, a scalar.
    antipodes: ``[layers]``, 1 where the energy is the half-space one, and 0.
    bounds: ``[layers]``, lower bounds of the energies.
    spreads: ``[layers]``, what random directions have more than the bound.
  """

  s: jax.typing.ArrayLike
  antipodes: jax.typing.ArrayLike
  bounds: jax.typing.ArrayLike
  spreads: jax.typing.ArrayLike


def scales(
  shapes: Mapping[str, tuple[int, ...]], s: float, space: Space, output: str
) -> Scales:
  """Scales of layers, in the order of their sorted paths.

  Args:
    shapes: ``{path: (n, d)}``.
    s: exponent.
    space: of the hidden layers.
    output: path of the output layer, which is in full space.
  """
  rows = []
  for path, (n, d) in sorted(shapes.items()):
    half, potential = space == "half" and path != output, Riesz(s)
    bound = energy_lower_bound(n, d, potential, half_space=half)
    spread = uniform_energy(d, potential, half_space=half, n=n) - bound
    rows.append((half, bound, spread))
  antipodes, bounds, spreads = np.array(rows, np.float32).T
  return Scales(np.float32(s), antipodes, bounds, spreads)


def energies(
  matrices: Mapping[str, jax.Array], scales: Scales
) -> tuple[jax.Array, jax.Array]:
  """Mean pair energy and relative excess of the layers, ``[layers]`` each.

  Args:
    matrices: ``{path: [n, d]}``, in any order: JAX sorts dictionaries at times.
    scales: of these layers.
  """
  means = jnp.stack(
    [
      _mean_energy(w, scales.s, antipodes)
      for (_, w), antipodes in zip(
        sorted(matrices.items()), jnp.asarray(scales.antipodes)
      )
    ]
  )
  return means, (means - scales.bounds) / scales.spreads


def regularizer(
  matrices: Mapping[str, jax.Array], scales: Scales, weights: jax.Array
) -> jax.Array:
  """Sum over the forms and the layers.

  Args:
    matrices: ``{path: [n, d]}``.
    scales: of these layers.
    weights: ``[forms]``, of the mean energy, the relative excess x and log(1 + x),
      which is bounded in its pull where x is large.
  """
  means, excess = energies(matrices, scales)
  # Rounding can bring the excess of orthogonal neurons below 0, but not near -1.
  forms = jnp.stack([means.sum(), excess.sum(), jnp.log1p(excess).sum()])
  assert len(forms) == len(FORMS)
  return jnp.dot(weights, forms)


def _mean_energy(w, s, antipodes):
  n = len(w)
  units = normalize(w)
  cosines = jnp.matmul(units, units.T, precision=jax.lax.Precision.HIGHEST)
  pairs = ~jnp.eye(n, dtype=bool)
  cosines = jnp.where(pairs, cosines, 0.0)  # Before the potential: no 0 * inf.
  energies = _riesz(2.0 - 2.0 * cosines, s) + antipodes * _riesz(2.0 + 2.0 * cosines, s)
  total = 0.5 * jnp.where(pairs, energies, 0.0).sum()
  # With the virtual antipodes there are n (2n - 1) pairs; each of these counts twice,
  # and n of a neuron and its own antipode are added.
  total = (1.0 + antipodes) * total + antipodes * n * _riesz(jnp.full_like(s, 4.0), s)
  return total / (n * (n - 1) / 2 + antipodes * (n * (n - 1) * 1.5 + n))


def _riesz(r, s):
  """The potential of squared distances."""
  log = jnp.log(jnp.where(r <= _SOFTENING, _SOFTENING, r))
  return jnp.where(s == 0, -0.5 * log, jnp.exp(-0.5 * s * log))
