"""An objective of random projections of the neurons: compressive MHE."""

import dataclasses

import jax
import jax.numpy as jnp

from mhe_jax.checks import check_count
from mhe_jax.objectives.base import Objective
from mhe_jax.objectives.pair_energy import as_objective
from mhe_jax.pair_sum.product import product
from mhe_jax.potentials.base import Potential
from mhe_jax.sphere import normalize


@dataclasses.dataclass(frozen=True)
class Projected(Objective):
  r"""Mean of an objective over Gaussian random projections: CoMHE.

  .. math::
    \frac1C \sum_{c=1}^C E(W P_c), \qquad P_c \in \mathbb{R}^{d \times k}, \quad
    (P_c)_{ij} \sim \mathcal{N}(0, 1)

  In few dimensions the directions are far from orthogonal, and the energy of each pair
  is far from that of a random one: its pull is stronger. The projections are drawn anew
  from each key, and the same for all sets of a batch; value and gradient are unbiased
  for their expectation over all projections. Angles are kept in expectation.

  A scale from random to best neurons is not known; for an energy in relative units of
  the projected space, project that: ``Projected(RelativeExcess(Riesz(2.0)), dim=40)``.

  The paper's other projections are :class:`AnglePreserving`, :class:`Adversarial` and
  :class:`Grouped`. Its first and last layers are not projected: see the guide.

  Args:
    potential: what is evaluated after the projection: a potential or an objective.
    dim: dimension k of the projections, at least 1 (the paper: 30 to 40).
    num_projections: number C, at least 1 (the paper: 20).

  Raises:
    TypeError: ``potential`` is neither.
    ValueError: ``dim`` or ``num_projections`` is no whole number of at least 1; and,
      when it is called, without ``key``.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from mhe_jax import Projected, Riesz
    >>> comhe = Projected(Riesz(2.0), dim=8, num_projections=20)
    >>> energy = comhe(jnp.eye(16), half_space=True, key=jax.random.key(0))
    >>> energy.shape
    ()

  References:
    Lin et al., `Regularizing Neural Networks via Minimizing Hyperspherical Energy
    <https://arxiv.org/abs/1906.04892>`_, CVPR 2020, section 3.2.
  """

  potential: Potential | Objective
  dim: int
  num_projections: int = 1

  def __post_init__(self):
    _ = self._inner
    for name in ("dim", "num_projections"):
      object.__setattr__(self, name, check_count(name, getattr(self, name), 1))

  @property
  def needs_key(self) -> bool:
    return True

  @property
  def _inner(self):
    return as_objective(self.potential)

  def evaluate(self, units, *, half_space, key):
    assert key is not None  # The base class sees to it.
    shape = self.num_projections, units.shape[-1], self.dim
    own, inner = jax.random.split(key)
    projections = jax.random.normal(own, shape, units.dtype)
    projected = product(units[..., None, :, :], projections)
    values = self._inner.evaluate(
      normalize(projected), half_space=half_space, key=inner
    )
    return jnp.mean(values, -1)
