"""Potentials and objectives, and sets of neurons, that many tests go through."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mhe_jax import (
  Adversarial,
  AnglePreserving,
  Covering,
  Gaussian,
  Grouped,
  KoLeo,
  LogDet,
  LogMean,
  MeanDirection,
  Orthonormality,
  Polarization,
  Projected,
  RelativeExcess,
  Riesz,
  Sampled,
  Separation,
  SlicedUniformity,
)
from mhe_jax.objectives.pair_energy import PairEnergy

# One of each kind: with and without a singularity, a power, and a tip at the antipode.
FEW_POTENTIALS = [Riesz(0.0), Riesz(2.0), Riesz(1.0, "geodesic"), Gaussian(2.0)]

ENERGIES = {str(p): PairEnergy(p) for p in FEW_POTENTIALS}
NEAREST = {
  "separation": Separation(),
  "smallest angle": Separation("min"),
  "KoLeo": KoLeo(),
}
SAMPLED = {
  "sampled": Sampled(Riesz(2.0), 2, exact=2),  # Its gradient is not that of its value.
  "sampled pairs": Sampled(Riesz(0.0), 3, "minibatch", exact=3),
}
# What they seek within is a constant to their derivatives.
SEEKING = {
  "angle-preserving": AnglePreserving(Riesz(0.0), dim=2, num_projections=2),
  "adversarial": Adversarial(Gaussian(1.0), dim=3),
  "polarization": Polarization(Riesz(2.0), num_starts=3),
  "covering": Covering(num_starts=3),
}
RANDOM = {
  **SAMPLED,
  **SEEKING,
  "projected": Projected(Riesz(0.0), dim=3, num_projections=2),
  "projected excess": Projected(RelativeExcess(Gaussian(1.0)), dim=2),
  "sliced uniformity": SlicedUniformity(3),
}
OBJECTIVES = {
  **ENERGIES,
  **NEAREST,
  **RANDOM,
  "relative excess": RelativeExcess(Riesz(0.5)),
  "log-determinant": LogDet(),
  "log-determinant, 1e-6": LogDet(ridge=1e-6),
  "grouped": Grouped(Riesz(1.0), 2),
  "mean direction": MeanDirection(),
  "orthonormality": Orthonormality(),
  "uniformity": LogMean(Gaussian(2.0)),
  "log-mean": LogMean(Riesz(2.0)),
}
KEY = jax.random.key(7)

every_objective = pytest.mark.parametrize("name", OBJECTIVES)
every_space = pytest.mark.parametrize("half_space", (False, True), ids=("full", "half"))


def normal(*shape, seed=0, dtype=float):
  return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def simplex(d):
  """d + 1 points, in d + 1 dimensions, whose cosines are -1 / d."""
  return np.eye(d + 1) - 1 / (d + 1)


def cross_polytope(d):
  return np.concatenate([np.eye(d), -np.eye(d)])


def icosahedron():
  golden = (1 + math.sqrt(5)) / 2
  signs = itertools.product((-1, 1), (-golden, golden))
  corners = np.array([(0.0, a, b) for a, b in signs])
  return np.concatenate([np.roll(corners, k, axis=1) for k in range(3)])


def snub_cube():
  """The best packing of 24 points on the sphere.

  Of the tribonacci constant t: the even permutations of (+-1, +-1/t, +-t) with an even
  number of plus signs, and the odd ones with an odd number.
  """
  t = next(x.real for x in np.roots([1, -1, -1, -1]) if abs(x.imag) < 1e-9)
  points = []
  for order in itertools.permutations(range(3)):
    is_odd = np.linalg.det(np.eye(3)[list(order)]) < 0
    for signs in itertools.product((-1, 1), repeat=3):
      if (signs.count(1) % 2 == 1) == is_odd:
        points.append((np.array(signs) * [1, 1 / t, t])[list(order)])
  return np.array(points)


def transformations(weighted):
  """Of a function f of neurons, at w and in the direction v, by name.

  Args:
    weighted: of f, a function with one number for each w.
  """
  return {
    "jvp": lambda f, w, v: jax.jvp(f, (w,), (v,)),
    "gradient": lambda f, w, v: jax.grad(weighted(f))(w),
    "forward over reverse": lambda f, w, v: jax.jvp(jax.grad(weighted(f)), (w,), (v,)),
    "reverse over reverse": lambda f, w, v: jax.grad(
      lambda w: jnp.vdot(jax.grad(weighted(f))(w), v)
    )(w),
    "vmap": lambda f, w, v: jax.vmap(f)(jnp.stack([w, v])),
    "vmap of grad": lambda f, w, v: jax.vmap(jax.grad(weighted(f)))(jnp.stack([w, v])),
    "scan of grad": lambda f, w, v: jax.lax.scan(
      lambda w, _: (w - 0.1 * jax.grad(weighted(f))(w), f(w)), w, None, length=3
    ),
    "a batch": lambda f, w, v: f(jnp.stack([w, v, w - v])),
  }
