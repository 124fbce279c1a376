"""Points of least energy on the sphere: the Thomson problem and its relatives."""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from mhe_jax.checks import check_count
from mhe_jax.energy import hyperspherical_energy
from mhe_jax.potentials import Potential, Riesz, check_potential
from mhe_jax.sphere import normalize

_PATIENCE = 20  # Steps without a new least energy, after which a start ends.


def minimize_energy(
  key: jax.Array,
  n: int,
  d: int,
  potential: Potential = Riesz(1.0),
  *,
  half_space: bool = False,
  reduction: Literal["mean", "sum"] = "sum",
  num_restarts: int | None = None,
  max_steps: int = 1000,
  tolerance: float | None = None,
  dtype: jax.typing.DTypeLike | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Unit vectors of least energy: the Thomson problem and its relatives.

  L-BFGS (:func:`optax.lbfgs`) from ``num_restarts`` independent uniform starts,
  run side by side; the best end point is returned. The problem has many local
  minima, whose number grows with ``n``: on the sphere in three dimensions eight
  starts find the best known minimum up to about 32 points. For n <= d + 1 (full
  space) or n <= d (half-space) one start suffices; so does it for class
  prototypes in many dimensions, where all minima are alike in quality.

  Args:
    key: a PRNG key.
    n: number of vectors, at least 1.
    d: dimension of the space, at least 1; the sphere is :math:`S^{d-1}`.
    potential: the pair potential.
    half_space: repel antipodes too: evenly spread lines instead of vectors.
    reduction: ``"sum"`` over i < j or ``"mean"`` over pairs, for the energy that
      is returned.
    num_restarts: number of independent starts. Default: 8, or 1 where n * d is
      above 10,000.
    max_steps: most L-BFGS steps of a start.
    tolerance: a start ends when no component of the force on a vector, the
      gradient of its mean energy to the others, is larger than this times the
      magnitude of the mean energy (or 1 if that is larger). Default: 1e-11 in
      float64, 2e-5 in float32. It ends too after 20 steps without a lower energy.
    dtype: float32 or float64; the default is JAX's default float type.

  Returns:
    The vectors ``[n, d]``, of unit norm, and their energy, a scalar.

  Raises:
    ValueError: an argument is out of range.

  Example:
    >>> import jax
    >>> from mhe_jax import Riesz, minimize_energy
    >>> _, energy = minimize_energy(jax.random.key(0), 4, 3, Riesz(1.0))
    >>> round(float(energy), 4)  # the regular tetrahedron
    3.6742

  References:
    Thomson, Philosophical Magazine 7 (39), 1904; energies by Wales and Ulker,
    Physical Review B 74, 2006.
  """
  check_potential(potential)
  n, d = check_count("n", n, 1), check_count("d", d, 1)
  if num_restarts is None:
    num_restarts = 8 if n * d <= 10_000 else 1
  check_count("num_restarts", num_restarts, 1)
  check_count("max_steps", max_steps, 1)
  if reduction not in ("mean", "sum"):
    raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}.")
  dtype = jnp.zeros((), dtype).dtype
  if dtype not in (jnp.float32, jnp.float64):
    raise ValueError(f"dtype must be float32 or float64, got {dtype}.")
  if tolerance is None:
    tolerance = 1e-11 if dtype == jnp.float64 else 2e-5
  if not tolerance >= 0:
    raise ValueError(f"tolerance must be >= 0, got {tolerance!r}.")
  starts = jax.random.normal(key, (num_restarts, n, d), dtype)
  # optax's L-BFGS mixes integer types, an error under strict dtype promotion.
  with jax.numpy_dtype_promotion("standard"):
    return _best_of(
      starts, potential, bool(half_space), reduction, max_steps, tolerance
    )


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _best_of(starts, potential, half_space, reduction, max_steps, tolerance):
  def energy(x, reduction: Any = "mean"):
    return hyperspherical_energy(
      x, potential, half_space=half_space, reduction=reduction
    )

  ends = jax.vmap(lambda x: _lbfgs(energy, x, max_steps, tolerance))(starts)
  energies = jax.vmap(energy)(ends)
  best = normalize(ends[jnp.argmin(energies)])
  return best, energy(best, reduction)


def _lbfgs(energy, start, max_steps, tolerance):
  """Minimizes ``energy`` from ``start``, in the space around the sphere."""
  optimizer = optax.lbfgs()
  value_and_grad = optax.value_and_grad_from_state(energy)

  def step(carry):
    x, state, best, since_best, count, _ = carry
    value, grad = value_and_grad(x, state=state)
    steps: Any  # An array here, as x is; optax says a tree.
    steps, state = optimizer.update(
      grad, state, x, value=value, grad=grad, value_fn=energy
    )
    # n / 2 turns the gradient of the mean over pairs into that over a vector's own.
    force = 0.5 * len(x) * jnp.max(jnp.abs(jnp.asarray(grad)))
    # A potential with a kink (geodesic, at the antipode) can have a minimum where
    # the force does not vanish: there only the energy tells the end.
    since_best = jnp.where(value < best, 0, since_best + 1)
    converged = force <= tolerance * jnp.maximum(jnp.abs(value), 1.0)
    done = converged | (since_best >= _PATIENCE)
    x = jnp.where(done, x, x + steps)
    return x, state, jnp.minimum(value, best), since_best, count + 1, done

  def unfinished(carry):
    *_, count, done = carry
    return ~done & (count < max_steps)

  x = normalize(start)
  best = jnp.full((), jnp.inf, x.dtype)
  zero = jnp.zeros((), jnp.int32)
  carry = (x, optimizer.init(x), best, zero, zero, jnp.array(False))
  return jax.lax.while_loop(unfinished, step, carry)[0]
