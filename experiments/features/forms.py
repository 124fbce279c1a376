"""What keeps features apart: objectives of a batch, and losses of two views."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from mhe_jax import (
  RECOMMENDED,
  Gaussian,
  KoLeo,
  LogMean,
  Objective,
  Orthonormality,
  RelativeExcess,
)


@dataclasses.dataclass(frozen=True)
class VarianceCovariance(Objective):
  r"""The variance and the covariance terms of VICReg, of unit features.

  They are taken times the square root of d: where they are uniform on the sphere, the
  standard deviations are then 1, which the first term asks for. Weights 1 and 1 / 25.

  References:
    Bardes et al., `VICReg <https://arxiv.org/abs/2105.04906>`_, ICLR 2022, equations 1
    to 4.
  """

  def evaluate(self, units, *, half_space, key):
    del half_space, key
    n, d = units.shape[-2:]
    x = d**0.5 * (units - units.mean(-2, keepdims=True))
    covariances = jnp.matrix_transpose(x) @ x / (n - 1)
    variances = jnp.diagonal(covariances, axis1=-2, axis2=-1)
    low = jax.nn.relu(1.0 - jnp.sqrt(variances + 1e-4)).mean(-1)
    return low + _off_diagonal(covariances**2) / (25.0 * d)


def _off_diagonal(x):
  """Sum of what is off the diagonal."""
  return jnp.where(jnp.eye(x.shape[-1], dtype=bool), 0.0, x).sum((-2, -1))


# All but the second in units of what can be gained, so that weights are alike.
OBJECTIVES: dict[str, Objective] = {
  "orthonormality": RelativeExcess(Orthonormality()),
  "VICReg": VarianceCovariance(),
  "KoLeo": RelativeExcess(KoLeo()),
  "uniformity": RelativeExcess(LogMean(Gaussian(2.0))),
  "energy": RECOMMENDED,
}

Loss = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def alignment(first: jax.Array, second: jax.Array) -> jax.Array:
  """Mean squared distance of two views' features, ``[batch, d]`` each."""
  return jnp.mean(jnp.sum((first - second) ** 2, -1))


def decorrelation(first: jax.Array, second: jax.Array, weight: jax.Array) -> jax.Array:
  """Barlow Twins: correlations of the views, near the identity matrix.

  Zbontar et al., Barlow Twins: Self-Supervised Learning via Redundancy Reduction, ICML
  2021, equation 1; of features divided by their number.
  """
  a, b = _standardized(first), _standardized(second)
  correlations = a.T @ b / len(a)
  own = jnp.mean((1.0 - jnp.diagonal(correlations)) ** 2)
  return own + weight * _off_diagonal(correlations**2) / len(correlations)


def _standardized(x):
  return (x - x.mean(0, keepdims=True)) / jnp.sqrt(x.var(0, keepdims=True) + 1e-6)


def info_nce(first: jax.Array, second: jax.Array, weight: jax.Array) -> jax.Array:
  """Each view tells its partner from all others of the batch; the temperature.

  Radford et al., Learning Transferable Visual Models From Natural Language Supervision,
  ICML 2021, figure 3.
  """
  logits = first @ second.T / weight
  own = jnp.broadcast_to(jnp.arange(len(logits)), (2, len(logits)))
  both = jnp.stack([logits, logits.T])
  return optax.softmax_cross_entropy_with_integer_labels(both, own).mean()


def loss_of(form: str) -> Loss:
  """A function of both views' unit features ``[batch, d]`` and what is tuned.

  Args:
    form: ``"none"``, ``"decorrelation"``, ``"InfoNCE"``, or one of OBJECTIVES, which is
      added to the alignment, the mean of both views, times a weight.
  """
  match form:
    case "none":
      return lambda first, second, weight: alignment(first, second)
    case "decorrelation":
      return decorrelation
    case "InfoNCE":
      return info_nce
  objective = OBJECTIVES[form]

  def loss(first, second, weight):
    apart = objective(jnp.stack([first, second])).mean()
    return alignment(first, second) + weight * apart

  return loss


FORMS = (
  "none", "orthonormality", "decorrelation", "VICReg", "KoLeo", "InfoNCE", "uniformity",
  "energy",
)  # fmt: skip
