"""The excess of the neurons of a layer that are alive: one answer for every report."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from mhe_jax.objectives.base import Objective
from mhe_jax.objectives.pair_energy import PairEnergy
from mhe_jax.objectives.relative import RecommendedExcess, RelativeExcess, excess_of
from mhe_jax.objectives.sampled import Sampled
from mhe_jax.potentials.base import Potential

# Up to so many neurons every scale is computed; of more it is interpolated.
_EXACT = 1024


def excess_of_alive(
  values: jax.Array,
  alive: jax.Array,
  n: int,
  d: int,
  objective: Objective,
  half_space: bool,
) -> jax.Array:
  r"""The relative excess of those neurons of a set that are not zero.

  An energy takes a row of zeros as orthogonal to all others, the best that there is:
  dead neurons would make a layer look diverse. Of m of n neurons that are alive, the
  pairs with the others are taken out of the mean, and the scale is that of m:

  .. math::
    E_m = \frac{P_n E_n - (P_n - P_m) f(\sqrt 2)}{P_m}, \qquad P_k = \tfrac12 k (k - 1)

  in full space, and likewise in half-space. That holds for mean pair energies, exact or
  sampled, and their excess; of other objectives all rows count.

  Args:
    values: of the objective, ``[*batch]``.
    alive: how many neurons of a set are not zero, ``[*batch]``, see :func:`num_alive`.
    n: number of neurons of a set, at least 2.
    d: dimension.
    objective: whose values they are.
    half_space: of the half-space form.

  Returns:
    ``[*batch]``; 0 where fewer than two neurons are alive.

  Raises:
    NotImplementedError: as :func:`mhe_jax.objectives.relative.excess_of`.
  """
  excess = excess_of(values, n, d, objective, half_space)
  potential = _potential_of(objective, d)
  if potential is None:
    return excess
  if isinstance(objective, RelativeExcess) and objective.log:
    excess = jnp.expm1(values)
  m = jnp.maximum(alive, 2).astype(excess.dtype)
  counts, *scales = _scales(potential, n, d, half_space)
  if len(counts) == n - 1:
    at = jnp.maximum(alive, 2) - 2
    best, random = (jnp.asarray(x, excess.dtype)[at] for x in scales)
  else:  # They are smooth in 1 / n.
    places = jnp.asarray(-1.0 / counts, excess.dtype)
    best, random = (
      jnp.interp(-1.0 / m, places, jnp.asarray(x, excess.dtype)) for x in scales
    )
  best_of_all, random_of_all = PairEnergy(potential).scale(n, d, half_space=half_space)
  energy = best_of_all + excess * (random_of_all - best_of_all)
  right = potential.at_cosine(0.0)
  if half_space:
    opposite = potential.at_cosine(-1.0)
    # A row of zeros is orthogonal to its antipode, too.
    total = energy * (n * (2 * n - 1)) - m * opposite - (n - m) * right
    total = total - (n * (n - 1) - m * (m - 1)) * (2.0 * right)
    energy = (total + m * opposite) / (m * (2.0 * m - 1.0))
  else:
    total = energy * (n * (n - 1)) - (n * (n - 1) - m * (m - 1)) * right
    energy = total / (m * (m - 1.0))
  of_alive = (energy - best) / (random - best)
  return jnp.where(alive < 2, 0.0, jnp.where(alive == n, excess, of_alive))


def num_alive(units: jax.Array) -> jax.Array:
  """How many unit vectors ``[*batch, n, d]`` of a set are not zero: ``[*batch]``."""
  return jnp.sum(jnp.any(units != 0.0, -1), -1)


def _potential_of(objective: Objective, d: int) -> Potential | None:
  """The potential of whose mean pair energy an objective is, or is the excess."""
  if isinstance(objective, RecommendedExcess):
    return _potential_of(objective.excess_in(d), d) if d > 1 else None
  if isinstance(objective, PairEnergy | Sampled):
    return objective.potential
  if isinstance(objective, RelativeExcess):
    inner = objective.potential
    return inner if isinstance(inner, Potential) else _potential_of(inner, d)
  return None


@functools.lru_cache(maxsize=512)
def _scales(
  potential: Potential, n: int, d: int, half_space: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Numbers of neurons from 2 to n, and bound and random energy of so many."""
  counts = np.arange(2, n + 1)
  if n > _EXACT:
    spread = np.geomspace(_EXACT, n, _EXACT // 4).astype(int)
    counts = np.unique(np.concatenate([counts[: _EXACT - 1], [d, d + 1], spread]))
    counts = counts[(counts >= 2) & (counts <= n)]
  bound = functools.partial(potential.lower_bound, half_space=half_space)
  best = np.array([bound(int(k), d) for k in counts])
  mean = potential.random_mean(d)
  random = np.full(len(counts), mean)
  if half_space:
    random = np.array([potential.half_space_mean(int(k), 2.0 * mean) for k in counts])
  return counts, best, random
