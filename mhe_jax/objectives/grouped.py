"""An objective of groups of the weights of each neuron."""

import dataclasses

import jax.numpy as jnp

from mhe_jax.checks import check_count
from mhe_jax.objectives.base import Objective
from mhe_jax.objectives.pair_energy import as_objective
from mhe_jax.potentials.base import Potential
from mhe_jax.sphere import normalize


@dataclasses.dataclass(frozen=True)
class Grouped(Objective):
  r"""Mean of an objective over groups of the weights of each neuron: group CoMHE.

  .. math::
    \frac1G \sum_{g=1}^G E(W_{:, S_g})

  The groups :math:`S_g` are consecutive weights, as many in each as can be: of a kernel
  ``(height, width, in, out)``, whose neurons have the input channel as their last axis,
  G = height * width has a group for each place. Each group is normalized by itself. Its
  projections are cheaper than random ones, and draw nothing. A direction is not: the
  value changes where neurons are rotated.

  The parts of random neurons are random: it has the scale of its groups.

  It costs what the objective costs of G sets of d / G weights each.

  Args:
    potential: what is evaluated of each group: a potential or an objective.
    num_groups: number G of groups, at least 1; no more than d are made.

  Raises:
    TypeError: ``potential`` is neither.
    ValueError: ``num_groups`` is no whole number of at least 1.

  Example:
    >>> import jax.numpy as jnp
    >>> from mhe_jax import Grouped, Riesz
    >>> rows = jnp.concatenate([jnp.eye(3), 5.0 * jnp.eye(3)], axis=1)
    >>> float(Grouped(Riesz(2.0), num_groups=2)(rows))
    0.5

  References:
    Lin et al., `Regularizing Neural Networks via Minimizing Hyperspherical Energy
    <https://arxiv.org/abs/1906.04892>`_, CVPR 2020.
  """

  potential: Potential | Objective
  num_groups: int

  def __post_init__(self):
    _ = self._inner
    num = check_count("num_groups", self.num_groups, 1)
    object.__setattr__(self, "num_groups", num)

  @property
  def needs_key(self) -> bool:
    return self._inner.needs_key

  def estimates(self, n: int) -> bool:
    return self._inner.estimates(n)

  @property
  def _inner(self):
    return as_objective(self.potential)

  def _groups(self, d):
    """Numbers of groups and of their weights: larger ones first."""
    num = max(1, min(self.num_groups, d))
    size, larger = divmod(d, num)
    sizes = ((larger, size + 1), (num - larger, size))
    return [(count, size) for count, size in sizes if count]

  def evaluate(self, units, *, half_space, key):
    *batch, n, d = units.shape
    total, start = jnp.zeros(batch, units.dtype), 0
    for count, size in self._groups(d):
      end = start + count * size
      parts = units[..., start:end].reshape(*batch, n, count, size)
      parts = normalize(jnp.swapaxes(parts, -3, -2))
      values = self._inner.evaluate(parts, half_space=half_space, key=key)
      total, start = total + jnp.sum(values, -1), end
    return total / sum(count for count, _ in self._groups(d))

  def scale(self, n: int, d: int, *, half_space: bool = False) -> tuple[float, float]:
    groups = self._groups(d)
    num = sum(count for count, _ in groups)
    scales = [self._inner.scale(n, size, half_space=half_space) for _, size in groups]
    best, random = (
      sum(count * scale[k] for (count, _), scale in zip(groups, scales)) / num
      for k in (0, 1)
    )
    return best, random
