"""Energies of many neurons, estimated from some of them."""

from collections.abc import Hashable
from typing import NamedTuple

import jax

from mhe_jax.checks import check_axis_name, check_sharded
from mhe_jax.objectives.sampled import Method, Sampled
from mhe_jax.potentials.base import Potential
from mhe_jax.potentials.riesz import Riesz
from mhe_jax.sphere import evaluate_with_aux, normalize


def sampled_energy(
  key: jax.Array,
  neurons: jax.typing.ArrayLike,
  potential: Potential = Riesz(1.0),
  *,
  num_samples: int,
  half_space: bool = False,
  method: Method = "field",
  axis_name: Hashable | None = None,
) -> jax.Array:
  r"""Unbiased estimate of :func:`hyperspherical_energy` for a great many neurons.

  The mean over keys of the value, and of the gradient, is exact. What ``method`` does,
  and costs, says :class:`Sampled`, the objective of the same estimate, which the optax
  transformations take; :func:`sampled_energy_and_error` also tells how sure it is.

  A row of NaN or infinity makes the estimate NaN, whether it is drawn or not.

  Args:
    key: a PRNG key; every step of training needs another.
    neurons: ``[*batch, n, d]``, one neuron of ``d`` weights per row; float64,
      float32, or a smaller float, which is computed in float32.
    potential: the pair potential, :class:`Riesz` or :class:`Gaussian`.
    num_samples: neurons of a sample; with as many or more than n, the energy is exact.
    half_space: with a virtual antipode of every neuron.
    method: ``"field"`` or ``"minibatch"``.
    axis_name: mesh axis, or tuple of them, of the :func:`jax.shard_map` that this is
      called in, where ``neurons`` are the rows of one device; ``key`` is the same on
      all. What is sent are the sampled rows, and for ``"field"`` sums of d x d; its
      exact neighbors are those among the rows of one device. Outside of it, sharded
      neurons need no name.

  Returns:
    Estimates ``[*batch]``, float64 for float64 neurons and float32 otherwise; with
    ``axis_name`` on all devices the same.

  Raises:
    TypeError: ``key`` is no PRNG key, ``neurons`` not a real floating-point array,
      or ``potential`` not a :class:`Potential`.
    ValueError: ``neurons`` has fewer than two axes, or a symbolic n (of
      ``jax.export``); ``num_samples`` is no whole number or too small; ``method`` is
      another; ``axis_name`` is none here.

  Example:
    >>> import jax
    >>> from mhe_jax import Riesz, sampled_energy
    >>> neurons = jax.random.normal(jax.random.key(0), (4096, 64))
    >>> energy = sampled_energy(jax.random.key(1), neurons, Riesz(2.0), num_samples=256)

  References:
    Liu et al., `Learning towards Minimum Hyperspherical Energy
    <https://arxiv.org/abs/1805.09298>`_, NeurIPS 2018, section 3.5, for the forms of
    the mini-batch.
  """
  objective = Sampled(potential, num_samples, method, exact=num_samples)
  return _estimate(objective, neurons, key, half_space, axis_name)[0]


def sampled_energy_and_error(
  key: jax.Array,
  neurons: jax.typing.ArrayLike,
  potential: Potential = Riesz(1.0),
  *,
  num_samples: int,
  half_space: bool = False,
  method: Method = "field",
  axis_name: Hashable | None = None,
) -> tuple[jax.Array, jax.Array]:
  """An estimate of the energy, and its standard error.

  Args:
    key: as of :func:`sampled_energy`, and so the other arguments.
    neurons: ``[*batch, n, d]``.
    potential: the pair potential.
    num_samples: neurons of a sample.
    half_space: with a virtual antipode of every neuron.
    method: ``"field"`` or ``"minibatch"``.
    axis_name: as of :func:`sampled_energy`.

  Returns:
    Estimates ``[*batch]`` and their standard errors ``[*batch]``, constants, estimated
    from the same sample; 0 where the energy is exact. ``"field"``, whose sample is
    spread evenly, is often better than this, which is that of a simple sample.

  Raises:
    TypeError: as of :func:`sampled_energy`, and so ``ValueError``.

  Example:
    >>> import jax
    >>> from mhe_jax import Riesz, sampled_energy_and_error
    >>> neurons = jax.random.normal(jax.random.key(0), (4096, 64))
    >>> energy, error = sampled_energy_and_error(
    ...   jax.random.key(1), neurons, Riesz(2.0), num_samples=256)
    >>> bool(error < 1e-4 * energy)
    True
  """
  objective = Sampled(potential, num_samples, method, exact=num_samples)
  return _estimate(objective, neurons, key, half_space, axis_name)


def _estimate(objective, neurons, key, half_space, axis_name):
  """Estimates and their errors."""
  axis_name = check_axis_name(axis_name)
  neurons = objective.checked(neurons, key)
  check_sharded(axis_name, {"neurons": neurons}, {"key": key})
  function = _Estimate(objective, bool(half_space), axis_name)
  return evaluate_with_aux(function, neurons, key, axis_name=axis_name)


class _Estimate(NamedTuple):
  """A function of neurons and a key, to values and their errors, hashable."""

  objective: Sampled
  half_space: bool
  axis_name: Hashable | None

  def __call__(self, neurons, key):
    return self.objective.with_error(
      normalize(neurons), half_space=self.half_space, key=key, axis_name=self.axis_name
    )
