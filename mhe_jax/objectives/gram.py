"""Objectives of the Gram matrix: orthonormality, and the determinant of a kernel."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from mhe_jax.checks import check_number
from mhe_jax.objectives.base import Objective, damage
from mhe_jax.pair_sum.product import product


@dataclasses.dataclass(frozen=True)
class Orthonormality(Objective):
  r"""Mean squared cosine of the pairs: the paper's rival.

  .. math::
    \frac{2}{N (N - 1)} \sum_{i < j} (u_i^\top u_j)^2

  The penalty :math:`\lVert \hat W \hat W^\top - I \rVert_F^2` of the normalized
  neurons, divided by its number of pairs. It is 0 for orthogonal neurons, and where
  there are more neurons than dimensions all tight frames attain the Welch bound
  :math:`(N - d) / (d (N - 1))`, among them ones with equal neurons: it does not tell a
  set from its rotations within groups, and coincident neurons may exert no force.
  Antipodes have the same squared cosines: half-space and full space are one.

  It costs one product, of the smaller side: O(n d min(n, d)).

  Example:
    >>> import jax.numpy as jnp
    >>> from mhe_jax import Orthonormality
    >>> simplex = jnp.array([[1.0, 0.0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]])
    >>> round(float(Orthonormality()(simplex)), 4)  # 1 / 4
    0.25

  References:
    Liu et al., `Learning towards Minimum Hyperspherical Energy
    <https://arxiv.org/abs/1805.09298>`_, NeurIPS 2018, section 4.1; Welch, IEEE
    Transactions on Information Theory 20 (3), 1974.
  """

  def evaluate(self, units, *, half_space, key):
    del half_space, key
    n, d = units.shape[-2:]
    if n < 2:
      return damage(units)
    if n <= d:
      gram = product(units, jnp.swapaxes(units, -1, -2))
      gram = jnp.where(jnp.eye(n, dtype=bool), 0.0, gram)
      return jnp.sum(gram**2, (-2, -1)) / (n * (n - 1))
    gram = product(jnp.swapaxes(units, -1, -2), units)
    own = jnp.sum(jnp.sum(units**2, -1) ** 2, -1)
    return (jnp.sum(gram**2, (-2, -1)) - own) / (n * (n - 1))

  def scale(self, n: int, d: int, *, half_space: bool = False) -> tuple[float, float]:
    del half_space
    return max(0.0, (n - d) / (d * (n - 1))), 1.0 / d


@dataclasses.dataclass(frozen=True)
class LogDet(Objective):
  r"""Minus the log-determinant of a Gaussian kernel: maximum Gram determinant (MGD).

  .. math::
    -\frac1N \log\det(K + \epsilon I), \qquad
    K_{ij} = \exp(-t \lVert u_i - u_j \rVert^2)

  The volume that the neurons span in the kernel's feature space; in half-space form
  that of neurons and antipodes, whose determinant is that of the even part of the
  kernel times that of its odd part, divided by the 2 N vectors. By Cholesky, in
  O(n^3) time and O(n^2) memory: for layers of up to a few thousand neurons.

  Args:
    t: inverse squared width of the kernel.
    ridge: the :math:`\epsilon`; ``None``, the default, takes 8 n times the machine
      epsilon, which keeps the factorization of any neurons finite, coincident ones too.
      A larger ridge bounds the pull of pairs that nearly coincide. A smaller one, such
      as the authors' 1e-6 in float32, holds for sets whose kernel can be factored with
      it, and for others the default: the value jumps where that changes, for neurons
      that nearly coincide, and one more factorization finds out.

  Raises:
    TypeError: ``t`` or ``ridge`` is not a number.
    ValueError: one is not finite and positive.

  Example:
    >>> import jax.numpy as jnp
    >>> from mhe_jax import LogDet
    >>> two = jnp.array([[1.0, 0.0], [-1.0, 0.0]])  # det = 1 - exp(-8)
    >>> round(float(LogDet()(two)) * 1e4, 1)
    1.7

  References:
    Liu et al., `Learning with Hyperspherical Uniformity
    <https://arxiv.org/abs/2103.01649>`_, AISTATS 2021, section 3.5.
  """

  t: float = 1.0
  ridge: float | None = None

  def __post_init__(self):
    for name in ("t", "ridge"):
      x = getattr(self, name)
      if name == "ridge" and x is None:
        continue
      x = check_number(name, x)
      object.__setattr__(self, name, x)
      if not (math.isfinite(x) and x > 0):
        raise ValueError(f"{name} must be a finite positive number, got {x}.")

  def evaluate(self, units, *, half_space, key):
    del key
    n = units.shape[-2]
    if n == 0:
      return damage(units)
    cosines = product(units, jnp.swapaxes(units, -1, -2))
    diagonal = jnp.eye(n, dtype=bool)
    cosines = jnp.where(diagonal, 1.0, cosines)  # Of a row of zeros, too.
    near = jnp.exp(-self.t * (2.0 - 2.0 * cosines))
    damaged = damage(units)  # With one neuron, the diagonal would hide it.
    if not half_space:
      return -self._log_det(near, n) / n + damaged
    far = jnp.exp(-self.t * (2.0 + 2.0 * cosines))
    log_det = self._log_det(near + far, n) + self._log_det(near - far, n)
    return -log_det / (2 * n) + damaged

  def _log_det(self, kernel, n):
    safe = 8.0 * n * float(jnp.finfo(kernel.dtype).eps)
    if self.ridge is None or self.ridge >= safe:
      return _log_det(kernel, self.ridge or safe)
    fits = jnp.isfinite(_log_det(jax.lax.stop_gradient(kernel), self.ridge))
    return _log_det(kernel, jnp.where(fits, self.ridge, safe)[..., None, None])


def _log_det(kernel, ridge):
  """With a ridge that is a number, or one for each set, ``[*batch, 1, 1]``."""
  eye = jnp.broadcast_to(jnp.eye(kernel.shape[-1], dtype=kernel.dtype), kernel.shape)
  factor = jax.lax.linalg.cholesky(kernel + ridge * eye, symmetrize_input=False)
  return 2.0 * jnp.sum(jnp.log(jnp.diagonal(factor, axis1=-2, axis2=-1)), -1)
