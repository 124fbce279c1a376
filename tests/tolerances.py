"""How far two computations of one number may be apart: derived, and not tried out.

Engines, dtypes and processors differ in how they round: in which order a sum is taken,
how wide its vectors are, whether a product and a sum are rounded once or twice. None of
them is at fault. What a result is off by is the rounding of what it is made of, times
its condition: how much larger an error is in it. Here both are computed, in float64.

A squared distance r = 2 - 2 cos is off by a few units of rounding (eps) in absolute
terms, however small it is (measured: 4.2 at most for d <= 64), and a pair energy f(r)
by a few of its own. So a mean of energies is off by no more than

    UNITS eps (mean |f| + mean |f'|),

which is much for close pairs, whose slope f' is large. An excess, (E - best) /
(random - best), is off by as much over random - best: relative to itself by
E / (E - best) times what the energy is, which is large where neurons spread well.
"""

import jax.numpy as jnp
import numpy as np
from sets import units_of

from mhe_jax import Riesz
from mhe_jax.objectives.pair_energy import PairEnergy

UNITS = 4


def of_energy(w, potential=Riesz(1.0), *, half_space=False, dtype):
  """Of the mean energy of neurons ``[n, d]``, in absolute terms.

  Args:
    w: the neurons.
    potential: of a pair.
    half_space: with antipodes.
    dtype: the least accurate that one of the two computes in.
  """
  u = units_of(w)
  t = (u @ u.T)[np.triu_indices(len(u), 1)]
  r = jnp.asarray(2.0 - 2.0 * np.concatenate([t, -t] if half_space else [t]))
  sizes = jnp.abs(potential.value(r)) + jnp.abs(potential.slope(r))
  return UNITS * float(jnp.finfo(dtype).eps) * float(jnp.mean(sizes))


def of_excess(w, potential=Riesz(1.0), *, half_space=False, dtype):
  """Of the relative excess, in absolute terms; as :func:`of_energy`."""
  best, random = PairEnergy(potential).scale(*np.shape(w), half_space=half_space)
  error = of_energy(w, potential, half_space=half_space, dtype=dtype)
  return error / (random - best)
