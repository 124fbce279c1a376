"""The length of the mean direction: polarization, relaxed."""

import dataclasses

import jax.numpy as jnp

from mhe_jax.objectives.base import Objective, damage


@dataclasses.dataclass(frozen=True)
class MeanDirection(Objective):
  r"""Squared length of the mean direction: relaxed polarization (R-MHP).

  .. math::
    \left\lVert \frac1N \sum_i u_i \right\rVert^2

  What :class:`Polarization` is for a potential that is linear in the cosine: 0 for
  balanced neurons, among them pairs of any opposite ones, and so equal ones. Random
  neurons have 1 / n. The authors take the length and not its square, which has no
  gradient at the optimum, and neurons that are not normalized. In half-space neurons
  and antipodes are balanced: it is 0, and there is no pull. One neuron has the value 0.

  It costs O(n d).

  Example:
    >>> import jax.numpy as jnp
    >>> from mhe_jax import MeanDirection
    >>> float(MeanDirection()(jnp.eye(4)))
    0.25

  References:
    Liu et al., `Learning with Hyperspherical Uniformity
    <https://arxiv.org/abs/2103.01649>`_, AISTATS 2021, section 3.3.
  """

  def evaluate(self, units, *, half_space, key):
    del key
    if half_space or units.shape[-2] < 2:
      return damage(units)
    return jnp.sum(jnp.mean(units, -2) ** 2, -1)

  def scale(self, n: int, d: int, *, half_space: bool = False) -> tuple[float, float]:
    del d
    return 0.0, 0.0 if half_space else 1.0 / n
