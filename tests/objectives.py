"""Potentials and objectives that many tests go through."""

import jax
import jax.numpy as jnp
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
