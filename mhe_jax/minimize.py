"""Points of least energy on the sphere: the Thomson problem and its relatives."""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from mhe_jax.checks import check_count
from mhe_jax.energy import hyperspherical_energy
from mhe_jax.objectives.log_mean import Opposite, log_mean_exp
from mhe_jax.potentials.base import Potential, check_potential
from mhe_jax.potentials.gaussian import Gaussian
from mhe_jax.potentials.riesz import Riesz
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

  Riesz and Gaussian energies are minimized by their logarithm, which fits floats for
  every s, and without softening: any two distinct vectors repel. None end within it of
  each other, unless there is no room (d = 1 and n > 2; on the circle, n in thousands
  in float32). A softening that a potential of another class has may hide a pair.

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
    tolerance: a start ends when no component of the force on a vector is larger than
      this, or this times what is minimized if that is larger than 1 in magnitude:
      the mean energy, and of a Riesz (s > 0) or Gaussian potential log(mean energy)
      divided by s or t. The force is n / 2 times its gradient. Default: 1e-11 in
      float64, 2e-5 in float32. It ends too after 20 steps without a lower value.
    dtype: float32 or float64; the default is JAX's default float type.

  Returns:
    The vectors ``[n, d]``, of unit norm, and their energy, a scalar: what
    :func:`hyperspherical_energy` gives for them. It is finite also of vectors that
    coincide. Where even the least energy does not fit the dtype (float32: beyond
    1e36), the vectors are as good, but the energy is softened, or infinite; where
    it underflows, it is 0.

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
  objective = _objective(potential, half_space, starts.dtype)
  ends, values = jax.vmap(lambda x: _lbfgs(objective, x, max_steps, tolerance))(starts)
  best = normalize(ends[jnp.argmin(values)])
  energy = hyperspherical_energy(
    best, potential, half_space=half_space, reduction=reduction
  )
  return best, energy


def _objective(potential, half_space, dtype):
  """A function of the vectors that is least where the energy is, and fits floats.

  Of a pair energy f = exp(k g) it is log(mean f) / k, which goes as g for every k. For
  Riesz energies that is minus the logarithm of the power mean of the distances.
  """
  # Where rounding is as large as r itself.
  floor = 8.0 * float(jnp.finfo(dtype).eps)
  if type(potential) is Gaussian:
    g, k = Opposite(), potential.t
  elif type(potential) is Riesz:  # Whatever its softening, which exerts no force.
    g, k = _Tangent(Riesz(0.0, potential.metric, eps=floor / 2), floor), potential.s
  else:
    g, k = _Tangent(potential, floor), 0.0

  def objective(x):
    x = x.astype(dtype)  # Of float32 optax's line search makes float64, if enabled.
    if k == 0:  # The limit is the mean of g.
      return hyperspherical_energy(x, g, half_space=half_space)
    if len(x) == 1 and not half_space:
      return 0.0 * x.sum()
    units = normalize(x)
    return log_mean_exp(g, k, units, half_space=half_space) / k

  return objective


@dataclasses.dataclass(frozen=True)
class _Tangent(Potential):
  """``potential``, and closer than ``floor`` its tangent there: every pair repels."""

  potential: Potential
  floor: float

  def value(self, r):
    z = jnp.maximum(r, self.floor)
    return self.potential.value(z) + self.potential.slope(z) * (r - z)

  def slope(self, r):
    return self.potential.slope(jnp.maximum(r, self.floor))


def _lbfgs(objective, start, max_steps, tolerance):
  """Minimizes from ``start``, in the space around the sphere: best point and value."""
  optimizer = optax.lbfgs()
  value_and_grad = optax.value_and_grad_from_state(objective)

  def step(carry):
    x, state, best, least, since_best, count, _ = carry
    value, grad = value_and_grad(x, state=state)
    steps: Any  # An array here, as x is; optax says a tree.
    steps, state = optimizer.update(
      grad, state, x, value=value, grad=grad, value_fn=objective
    )
    # n / 2 turns the gradient of the mean over pairs into that over a vector's own.
    force = 0.5 * len(x) * jnp.max(jnp.abs(jnp.asarray(grad)))
    # A potential with a kink (geodesic, at the antipode) can have a minimum where
    # the force does not vanish: there only the energy tells the end.
    since_best = jnp.where(value < least, 0, since_best + 1)
    least = jnp.where(value < least, value, least)
    # Among equals up to rounding the last: the force tells it from the others. No NaN.
    rounding = 8.0 * float(jnp.finfo(x.dtype).eps) * jnp.maximum(jnp.abs(value), 1.0)
    best = jnp.where(value <= least + rounding, x, best)
    converged = force <= tolerance * jnp.maximum(jnp.abs(value), 1.0)
    done = converged | (since_best >= _PATIENCE)
    return x + steps, state, best, least, since_best, count + 1, done

  def unfinished(carry):
    *_, count, done = carry
    return ~done & (count < max_steps)

  x = normalize(start)
  zero = jnp.zeros((), jnp.int32)
  least = jnp.full((), jnp.inf, x.dtype)
  carry = (x, optimizer.init(x), x, least, zero, zero, jnp.array(False))
  _, _, best, least, *_ = jax.lax.while_loop(unfinished, step, carry)
  return best, least
