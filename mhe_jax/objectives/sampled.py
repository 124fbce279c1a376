"""The mean pair energy, estimated from samples of neurons: for a million of them."""

import dataclasses
import functools
import typing
from typing import Literal

import jax
import jax.numpy as jnp

from mhe_jax.checks import check_count
from mhe_jax.objectives.base import Objective
from mhe_jax.pair_sum import field, partitioned, ring, some_rows
from mhe_jax.pair_sum.mask import Mask
from mhe_jax.pair_sum.mean import mean_of, pair_energy
from mhe_jax.potentials.base import Potential, check_potential

Method = Literal["field", "minibatch"]
METHODS: tuple[str, ...] = typing.get_args(Method)


@dataclasses.dataclass(frozen=True)
class Sampled(Objective):
  r"""Unbiased estimate of a mean pair energy and of its gradient: one for each key.

  Exact up to ``exact`` neurons, and estimated above it, by one of

  - ``"field"``: every neuron is pulled by ``num_samples`` of the others, and by its
    neighbors along the largest eigenvector of :math:`U^T U`, exactly; a quadratic of
    the cosine, summed exactly over all pairs, takes out of the sample what all pairs
    have in common. It takes :math:`O(N d (m + d))` operations, for m samples.
  - ``"minibatch"``, the paper's: the energy of ``num_samples`` of the neurons alone.
    The others have no gradient; for many neurons that is mostly noise. (In half-space
    form the antipodes of all neurons count, which are a larger share of few: with those
    of the sample alone the estimate would not be unbiased.)

  The gradient of ``"field"`` is that of the pull, and not of the value that is returned
  with it: both have the right mean, and the gradient of the value has far more noise.
  Of a function of the energy that is not linear, such as the logarithm of
  :class:`RelativeExcess`, the mean is only nearly right.

  All sets of a batch draw the same numbers.

  Args:
    potential: the pair potential, :class:`Riesz` or :class:`Gaussian`.
    num_samples: neurons of a sample, at least 1 (for ``"minibatch"``, 2).
    method: ``"field"`` or ``"minibatch"``.
    exact: the most neurons of a set whose energy is not estimated, at least
      ``num_samples``; by default four times that.

  Raises:
    TypeError: ``potential`` is not a :class:`Potential`.
    ValueError: ``num_samples`` or ``exact`` is no whole number, or too small;
      ``method`` is another; and, when it is called, without ``key``.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from mhe_jax import Riesz, Sampled, hyperspherical_energy
    >>> neurons = jax.random.normal(jax.random.key(0), (4096, 64))
    >>> estimate = Sampled(Riesz(2.0))(neurons, key=jax.random.key(1))
    >>> exact = hyperspherical_energy(neurons, Riesz(2.0))
    >>> bool(jnp.abs(estimate - exact) < 1e-4 * exact)
    True

  References:
    Liu et al., `Learning towards Minimum Hyperspherical Energy
    <https://arxiv.org/abs/1805.09298>`_, NeurIPS 2018, section 3.5, for the mini-batch.
  """

  potential: Potential
  num_samples: int = 256
  method: Method = "field"
  exact: int | None = None

  def __post_init__(self):
    check_potential(self.potential)
    if self.method not in METHODS:
      raise ValueError(
        f"method must be one of {', '.join(METHODS)}, got {self.method!r}."
      )
    least = 2 if self.method == "minibatch" else 1
    count = check_count("num_samples", self.num_samples, least)
    exact = 4 * count if self.exact is None else self.exact
    object.__setattr__(self, "num_samples", count)
    object.__setattr__(self, "exact", check_count("exact", exact, count))

  @property
  def needs_key(self) -> bool:
    return True

  def estimates(self, n: int) -> bool:
    assert self.exact is not None  # __post_init__.
    return n > self.exact

  @property
  def takes_shards(self) -> bool:
    return True

  def evaluate(self, units, *, half_space, key):
    return self.with_error(units, half_space=half_space, key=key)[0]

  def with_error(
    self,
    units: jax.Array,
    *,
    half_space: bool,
    key: jax.Array | None,
    axis_name: ring.AxisName | None = None,
  ) -> tuple[jax.Array, jax.Array]:
    """As :meth:`evaluate`, and the standard errors of the values ``[*batch]``.

    With ``axis_name``, axes of :func:`jax.shard_map`, the units are those of a device.
    """
    assert key is not None  # __call__.
    function = functools.partial(self._estimate, half_space)
    return partitioned.divide_by_type(axis_name, function, units, Mask(), key)

  def _estimate(self, half_space, axis_name, units, _, key):
    options = {"half_space": half_space, "axis_name": axis_name}
    n = ring.num_rows(units, axis_name)
    if not self.estimates(n):
      value = pair_energy(units, self.potential, **options)
      return value, jnp.zeros_like(value)
    estimate = (
      some_rows.estimate_sum if self.method == "minibatch" else field.estimate_sum
    )
    total, error = estimate(
      key, units, self.potential, num_samples=self.num_samples, **options
    )
    scale = 2.0 if half_space else 1.0
    num_pairs = n * (2 * n - 1) if half_space else n * (n - 1) / 2
    value = mean_of(total, units, self.potential, **options)
    return value, scale * error / num_pairs

  def scale(self, n: int, d: int, *, half_space: bool = False) -> tuple[float, float]:
    bound = self.potential.lower_bound(n, d, half_space=half_space)
    return bound, self.potential.random_mean(d, half_space=half_space, n=n)
