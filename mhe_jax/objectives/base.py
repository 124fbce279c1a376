"""What an objective is: a number for a set of neurons, by their directions alone."""

import abc
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mhe_jax.arrays import as_float_array
from mhe_jax.sphere import evaluate, normalize


class Objective(abc.ABC):
  """Base class of what may be minimized; subclass it to define your own.

  :func:`mhe_jax.network_energy`, :func:`mhe_jax.layer_energies` and the optax
  transformations take any objective where they take a potential, which stands for its
  mean pair energy.

  A subclass must be hashable and compare by value (a frozen dataclass is), because
  objectives are compile-time constants of the jitted functions that use them. Only
  :meth:`evaluate` is required. It is given unit vectors in float32 or better: that
  norms of 1e30 and 1e-30 do no harm, and that gradients which overflow saturate, is
  taken care of.

  Example:
    >>> import dataclasses
    >>> import jax, jax.numpy as jnp
    >>> from mhe_jax import Objective, network_energy
    >>> @dataclasses.dataclass(frozen=True)
    ... class MeanLength(Objective):
    ...   '''Length of the mean direction: 0 if the neurons are balanced.'''
    ...   def evaluate(self, units, *, half_space, key):
    ...     if half_space:  # With its antipode, every neuron is balanced.
    ...       return jnp.zeros(units.shape[:-2], units.dtype)
    ...     return jnp.sum(jnp.mean(units, -2) ** 2, -1)
    >>> float(MeanLength()(jnp.eye(4)))
    0.25
    >>> params = {"Dense_0": {"kernel": jnp.eye(4)}}
    >>> float(network_energy(params, MeanLength(), half_space=False))
    0.25
  """

  @property
  def needs_key(self) -> bool:
    """Whether it draws random numbers, and must be given a ``key``."""
    return False

  def estimates(self, n: int) -> bool:
    """Whether it estimates what would take all pairs of so many neurons."""
    del n
    return False

  @property
  def takes_shards(self) -> bool:
    """Whether :meth:`evaluate` takes units that are sharded over explicit mesh axes.

    If not, they are gathered on every device for it.
    """
    return False

  @abc.abstractmethod
  def evaluate(
    self, units: jax.Array, *, half_space: bool, key: jax.Array | None
  ) -> jax.Array:
    """The objective of unit vectors; traced, so that it may be slow Python.

    Args:
      units: ``[*batch, n, d]``, float32 or float64, of unit norm; a neuron that is zero
        has no direction and is a row of zeros. ``n`` may be 0 or 1.
      half_space: every neuron has a virtual antipode: collinear neurons are as bad
        as equal ones.
      key: a PRNG key if :attr:`needs_key`, else ``None``.

    Returns:
      Values ``[*batch]``, of the dtype of ``units``.
    """

  def scale(self, n: int, d: int, *, half_space: bool = False) -> tuple[float, float]:
    """What the best and what random neurons have, by closed forms.

    Args:
      n: number of neurons, at least 2.
      d: dimension, at least 1.
      half_space: of the half-space form.

    Returns:
      A lower bound, and the expectation for independent uniform directions (or, where
      that has no closed form, a value near it).

    Raises:
      NotImplementedError: unless a subclass knows them.
    """
    raise NotImplementedError(f"no scale is known for {self}.")

  def __call__(
    self,
    neurons: jax.typing.ArrayLike,
    *,
    half_space: bool = False,
    key: jax.Array | None = None,
  ) -> jax.Array:
    """The objective of neurons, differentiable, jitted.

    Args:
      neurons: ``[*batch, n, d]``, one neuron of ``d`` weights per row; float64,
        float32, or a smaller float, which is computed in float32.
      half_space: every neuron has a virtual antipode.
      key: a PRNG key, for objectives with :attr:`needs_key`; others ignore it.

    Returns:
      Values ``[*batch]``, float64 for float64 neurons and float32 otherwise.

    Raises:
      TypeError: ``neurons`` is not a real floating-point array; ``key`` is not a key,
        where one is needed; or the objective has no hash.
      ValueError: ``neurons`` has fewer than two axes, or a symbolic n (of
        ``jax.export``); a key is needed and missing; or :meth:`evaluate` returns
        another shape or dtype than it should.
    """
    neurons = self.checked(neurons, key)
    return evaluate(_Evaluation(self, bool(half_space)), neurons, key)

  def checked(self, neurons: jax.typing.ArrayLike, key: jax.Array | None) -> jax.Array:
    """The neurons as an array, or an error of :meth:`__call__`: before compilation."""
    if isinstance(neurons, jax.Array) and jnp.issubdtype(neurons.dtype, jnp.integer):
      raise TypeError(
        f"neurons must be a real floating-point array, got dtype {neurons.dtype}. If "
        "this is optax.inject_hyperparams, which takes what can be called for a "
        "schedule: give it static_args=('potential',), or ('objective', 'every')."
      )
    neurons = as_static_neurons(neurons, whole=not self.takes_shards)
    check_hashable(self)
    self.check_key(key)
    return neurons

  def check_key(self, key: jax.Array | None) -> None:
    """Raises unless ``key`` is one PRNG key, if one is needed: before compilation."""
    if not self.needs_key:
      return
    if key is None:
      raise ValueError(f"key must be a PRNG key for {self}, got None.")
    if not _is_key(key):
      raise TypeError(
        f"key must be one PRNG key, as of jax.random.key(0), for {self}, got {key!r}."
      )


def _is_key(key):
  """Whether it is one key: of jax.random.key, or of the older jax.random.PRNGKey."""
  if not isinstance(key, jax.Array | np.ndarray):
    return False
  if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
    return key.ndim == 0
  return key.dtype == jnp.uint32 and key.ndim == 1


class _Evaluation(NamedTuple):
  """A function of neurons, hashable."""

  objective: Objective
  half_space: bool

  def __call__(self, neurons, key):
    units = normalize(neurons)
    value = self.objective.evaluate(units, half_space=self.half_space, key=key)
    shape, dtype = units.shape[:-2], units.dtype
    if jnp.shape(value) != shape or jnp.result_type(value) != dtype:
      raise ValueError(
        f"evaluate of {self.objective} must return an array of shape {shape} and "
        f"dtype {dtype} for neurons of shape {neurons.shape}, got shape "
        f"{jnp.shape(value)} and dtype {jnp.result_type(value)}."
      )
    return value


def as_neurons(neurons: jax.typing.ArrayLike, *, whole: bool = True) -> jax.Array:
  """``neurons`` as an array, or an error that says what it must be.

  Args:
    neurons: ``[*batch, n, d]``.
    whole: if they are sharded over explicit axes, gather them.
  """
  neurons = as_float_array("neurons", neurons, whole=whole)
  if neurons.ndim < 2:
    raise ValueError(
      "neurons must have shape [*batch, n, d], at least two axes, got shape "
      f"{neurons.shape}."
    )
  return neurons


def as_static_neurons(
  neurons: jax.typing.ArrayLike, *, whole: bool = True
) -> jax.Array:
  """As :func:`as_neurons`, of a number that is known."""
  neurons = as_neurons(neurons, whole=whole)
  if not isinstance(neurons.shape[-2], int):
    raise ValueError(
      f"neurons must have a static number of rows, got n = {neurons.shape[-2]}: export "
      "each n by itself. (The batch axes may be symbolic.)"
    )
  return neurons


def check_hashable(objective: Any) -> None:
  """Raises a TypeError unless an argument ``potential`` can be a static one of jit."""
  try:
    hash(objective)
  except TypeError as error:
    raise TypeError(
      f"potential must be hashable, as a frozen dataclass is, got {objective!r}."
    ) from error


def damage(units: jax.Array) -> jax.Array:
  """Zeros ``[*batch]``, but NaN where a row is: where nothing else would show it."""
  return 0.0 * jnp.sum(units, (-2, -1))
