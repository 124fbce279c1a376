"""Closed forms: what random and optimal neurons would have.

An energy alone says little: for the layers of a CNN the whole range from random to
optimal is 2% to 0.02% of its value (docs/numerics.md). These closed forms give the
scale.
"""

import jax
import jax.numpy as jnp

from mhe_jax.arrays import as_float_array
from mhe_jax.checks import check_count
from mhe_jax.energy import hyperspherical_energy
from mhe_jax.objectives.alive import excess_of_alive, num_alive
from mhe_jax.objectives.pair_energy import PairEnergy
from mhe_jax.objectives.relative import NoScaleError
from mhe_jax.potentials.base import Potential, check_potential
from mhe_jax.potentials.riesz import Riesz
from mhe_jax.sphere import normalize


def uniform_energy(
  d: int,
  potential: Potential = Riesz(1.0),
  *,
  half_space: bool = False,
  n: int | None = None,
) -> float:
  r"""Expected mean pair energy of independent, uniformly random directions.

  For the chordal Riesz potential it is

  .. math::
    V_s(d) = \frac{2^{d-2-s}\, \Gamma(d/2)\, \Gamma((d-1-s)/2)}
                  {\sqrt\pi\, \Gamma(d-1-s/2)}, \qquad
    V_0(d) = -\tfrac12 \log 2
             + \tfrac14 \left[\psi(\tfrac d2) - \psi(\tfrac{d-1}2)\right],

  infinite for :math:`s \ge d - 1`; for the Gaussian
  :math:`\Gamma(d/2)\, t^{1-d/2} e^{-2t} I_{d/2-1}(2t)`; other potentials are
  integrated numerically. Rows of a Gaussian matrix (the usual initialization)
  have exactly this expectation. The softening of a potential is left out.

  Args:
    d: dimension, at least 1.
    potential: the pair potential.
    half_space: expectation of the half-space energy.
    n: number of neurons; only the half-space energy depends on it, through its
      antipodal constants. ``None`` is the limit of many.

  Returns:
    The expectation, a Python float, possibly ``inf``.

  Raises:
    ValueError: ``d`` or ``n`` is out of range.

  Example:
    >>> from mhe_jax import Riesz, uniform_energy
    >>> uniform_energy(8, Riesz(2.0))  # (d - 2) / (2 (d - 3))
    0.6

  References:
    Borodachov, Hardin and Saff, Discrete Energy on Rectifiable Sets, 2019,
    proposition 4.6.4.
  """
  check_potential(potential)
  check_count("d", d, 1)
  if half_space and n is not None:
    check_count("n", n, 1)
  return potential.random_mean(d, half_space=half_space, n=n)


def energy_lower_bound(
  n: int,
  d: int,
  potential: Potential = Riesz(1.0),
  *,
  half_space: bool = False,
) -> float:
  r"""A value that no ``n`` directions in ``d`` dimensions have less energy than.

  Full space: the mean cosine of n unit vectors is at least :math:`-1/(n-1)`, and
  the energy at least the convex envelope of the potential, as a function of the
  cosine, there. The chordal Riesz and the Gaussian potential are convex, so the
  bound is the energy at squared distance :math:`2n/(n-1)`, attained by the regular
  simplex and only there, which needs :math:`n \le d + 1`. The geodesic potential
  is not convex near the antipode, and its bound is lower.

  Half-space: the mean squared cosine is at least
  :math:`x = \max(0, (n-d)/(d(n-1)))` (Welch), and
  :math:`f(\sqrt x) + f(-\sqrt x)` is convex and increasing in it. For
  :math:`n \le d` orthogonal neurons attain the bound, for every s and metric.

  Args:
    n: number of neurons, at least 2.
    d: dimension, at least 1.
    potential: the pair potential, whose envelopes are known.
    half_space: bound of the half-space energy.

  Returns:
    The bound on the mean pair energy, a Python float.

  Raises:
    NotImplementedError: for a potential of your own that has no envelopes.
    ValueError: ``n`` or ``d`` is out of range.

  Example:
    >>> from mhe_jax import Riesz, energy_lower_bound
    >>> round(energy_lower_bound(4, 3, Riesz(1.0)) * 6, 6)  # the tetrahedron
    3.674235

  References:
    Welch, IEEE Transactions on Information Theory 20 (3), 1974.
  """
  check_potential(potential)
  check_count("n", n, 2)
  check_count("d", d, 1)
  return potential.lower_bound(n, d, half_space=half_space)


def relative_excess(
  neurons: jax.typing.ArrayLike,
  potential: Potential = Riesz(1.0),
  *,
  half_space: bool = False,
) -> jax.Array:
  r"""Energy on a scale where 0 is the lower bound and 1 is random directions.

  .. math::
    \frac{E - E_\text{bound}}{E_\text{random} - E_\text{bound}}

  Above 1 the neurons are more redundant than chance. The mean energies of
  layers of different sizes and potentials cannot be compared; this can. Neurons that
  are zero have no direction, and do not count.

  Args:
    neurons: ``[*batch, n, d]`` with n >= 2.
    potential: a :class:`Riesz` or :class:`Gaussian` potential.
    half_space: use the half-space energy.

  Returns:
    Relative excess ``[*batch]``. NaN where random directions have infinite
    energy (chordal Riesz with s >= d - 1), or the same energy as the best. That NaN
    is an answer, and no error under ``jax_debug_nans``; but ``jit`` and ``vmap``
    check it again, and then want to be called within ``jax.debug_nans(False)``.

  Raises:
    ValueError: fewer than two neurons, or wrong rank; and what
      :func:`mhe_jax.hyperspherical_energy` raises.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from mhe_jax import Riesz, relative_excess
    >>> w = jax.random.normal(jax.random.key(0), (256, 64))
    >>> round(float(relative_excess(w, Riesz(2.0), half_space=True)), 1)
    1.0
    >>> abs(round(float(relative_excess(jnp.eye(64), half_space=True)), 3))
    0.0
  """
  neurons = as_float_array("neurons", neurons, whole=False)
  energy = hyperspherical_energy(neurons, potential, half_space=half_space)
  n, d = neurons.shape[-2:]
  alive = num_alive(normalize(neurons))
  try:
    return excess_of_alive(energy, alive, n, d, PairEnergy(potential), half_space)
  except NoScaleError:
    with jax.debug_nans(False):  # Even a constant is checked.
      return jnp.full_like(energy, jnp.nan)
