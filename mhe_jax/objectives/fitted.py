"""Objectives of projections that are fitted to the neurons: CoMHE's other two."""

import dataclasses
from abc import abstractmethod

import jax
import jax.numpy as jnp

from mhe_jax.checks import check_count
from mhe_jax.objectives.base import Objective
from mhe_jax.objectives.descent import descend
from mhe_jax.objectives.pair_energy import as_objective
from mhe_jax.pair_sum.product import product
from mhe_jax.potentials.base import Potential
from mhe_jax.sphere import normalize


@dataclasses.dataclass(frozen=True)
class _Fitted(Objective):
  """An objective of projections that are random at first, and then descend a loss."""

  potential: Potential | Objective
  dim: int
  num_projections: int = 1
  num_steps: int = 10

  def __post_init__(self):
    _ = self._inner
    for name in ("dim", "num_projections", "num_steps"):
      object.__setattr__(self, name, check_count(name, getattr(self, name), 1))

  @property
  def needs_key(self) -> bool:
    return True

  @property
  def _inner(self):
    return as_objective(self.potential)

  @abstractmethod
  def _loss(self, units, projected, evaluate) -> jax.Array:
    """Of what a projection makes of the neurons ``[*batch, C, n, k]``; what it fits.

    Args:
      units: ``[*batch, 1, n, d]``.
      projected: unit vectors.
      evaluate: the objective of them.
    """

  def evaluate(self, units, *, half_space, key):
    assert key is not None  # __call__.
    own, inner = jax.random.split(key)
    shape = self.num_projections, units.shape[-1], self.dim
    start = jax.random.normal(own, shape, units.dtype)
    start = jnp.broadcast_to(start, (*units.shape[:-2], *shape))
    units = units[..., None, :, :]
    fixed = jax.lax.stop_gradient(units)

    def evaluate(projected):
      return self._inner.evaluate(projected, half_space=half_space, key=inner)

    def loss(projections):
      return self._loss(fixed, normalize(product(fixed, projections)), evaluate)

    projections = descend(loss, start, self.num_steps, 2)
    return jnp.mean(evaluate(normalize(product(units, projections))), -1)


@dataclasses.dataclass(frozen=True)
class AnglePreserving(_Fitted):
  r"""An objective of projections that keep the angles: angle-preserving CoMHE.

  .. math::
    \frac1C \sum_{c=1}^C E(W P_c), \qquad
    P_c \approx \arg\min_P \lVert \cos(W P) - \cos(W) \rVert_F

  Each projection starts as one of :class:`Projected`, from the key, and takes
  ``num_steps`` steps of steepest descent towards the cosines of the neurons
  themselves. To derivatives it is a constant. (The authors keep a projection for each
  layer and train it beside the neurons, one step of it for each of theirs; the
  gradient goes through the last step.) Sets of a batch start at the same draws, each
  is fitted by itself.

  Cosines of n unit vectors in k dimensions are about :math:`k^{-1/2}` or more if
  n is well above k, so that no projection keeps those of a wide layer. Of 64 random
  neurons, 0.3 of the error of random projections is left from 27 weights to 20, and 0.6
  from 576 to 30.

  It costs 2 + 4 * ``num_steps`` products of the neurons with the projections, and the
  objective.

  Args:
    potential: what is evaluated after the projection: a potential or an objective.
    dim: dimension k of the projections, at least 1 (the authors: 30).
    num_projections: number C, at least 1 (the authors: 1).
    num_steps: steps that fit them, at least 1.

  Raises:
    TypeError: ``potential`` is neither.
    ValueError: a number is no whole number of at least 1; and, when it is called,
      without ``key``.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from mhe_jax import AnglePreserving, Projected, Riesz
    >>> key, w = jax.random.key(0), jnp.eye(16)
    >>> kept = AnglePreserving(Riesz(2.0), dim=8)(w, key=key)
    >>> bool(kept < Projected(Riesz(2.0), dim=8)(w, key=key))  # than at the start
    True

  References:
    Lin et al., `Regularizing Neural Networks via Minimizing Hyperspherical Energy
    <https://arxiv.org/abs/1906.04892>`_, CVPR 2020.
  """

  def _loss(self, units, projected, evaluate):
    del evaluate
    # ||V V' - U U'||^2 = ||V' V||^2 - 2 ||V' U||^2 + a constant: no n x n matrix.
    turned = jnp.swapaxes(projected, -1, -2)
    own = jnp.sum(product(turned, projected) ** 2, (-2, -1))
    return own - 2.0 * jnp.sum(product(turned, units) ** 2, (-2, -1))


@dataclasses.dataclass(frozen=True)
class Adversarial(_Fitted):
  r"""An objective of the projections in which it is worst: adversarial CoMHE.

  .. math::
    \frac1C \sum_{c=1}^C \max_{P_c} E(W P_c)

  Each projection starts as one of :class:`Projected`, from the key, and takes
  ``num_steps`` steps of steepest ascent of the objective. To derivatives it is a
  constant, as at a maximum. (The authors keep a projection for each layer and train it
  beside the neurons, ten steps of it for each of theirs, against the full-space energy;
  the gradient goes through the last step.)

  An energy with a singularity has no largest value: two neurons whose difference a
  projection leaves out coincide. More steps make it the energy of a few such pairs, and
  once they are closer than the softening there is no pull.

  It costs 1 + ``num_steps`` times what :class:`Projected` costs.

  Args:
    potential: what is evaluated after the projection: a potential or an objective.
    dim: dimension k of the projections, at least 1 (the authors: 30).
    num_projections: number C, at least 1 (the authors: 1).
    num_steps: steps that fit them, at least 1.

  Raises:
    TypeError: ``potential`` is neither.
    ValueError: a number is no whole number of at least 1; and, when it is called,
      without ``key``.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from mhe_jax import Adversarial, Projected, Riesz
    >>> key, w = jax.random.key(0), jnp.eye(16)
    >>> worst = Adversarial(Riesz(1.0), dim=8)(w, key=key)
    >>> bool(worst > Projected(Riesz(1.0), dim=8)(w, key=key))  # than at the start
    True

  References:
    Lin et al., `Regularizing Neural Networks via Minimizing Hyperspherical Energy
    <https://arxiv.org/abs/1906.04892>`_, CVPR 2020.
  """

  num_steps: int = 3

  def _loss(self, units, projected, evaluate):
    del units
    return -evaluate(projected)
