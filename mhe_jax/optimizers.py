"""Optimizers with the hyperspherical energy: in the loss, or beside it."""

import functools
from collections.abc import Callable, Sequence

import jax
import optax

from mhe_jax.checks import check_params, is_plain_zero
from mhe_jax.layers.rules import LayerRule
from mhe_jax.objectives.base import Objective
from mhe_jax.objectives.relative import RECOMMENDED
from mhe_jax.potentials.base import Potential
from mhe_jax.transforms import add_hyperspherical_energy, add_scaled, weight_at


def with_hyperspherical_energy(
  optimizer: optax.GradientTransformation,
  weight: jax.typing.ArrayLike | Callable[[jax.Array], jax.typing.ArrayLike],
  potential: Potential | Objective = RECOMMENDED,
  *,
  half_space: bool = True,
  hidden_weight: jax.typing.ArrayLike = 1.0,
  output_weight: jax.typing.ArrayLike = 1.0,
  rules: Sequence[LayerRule] | None = None,
  key: jax.Array | None = None,
) -> optax.GradientTransformationExtraArgs:
  """An optimizer that minimizes the loss plus the energy (the coupled form).

  It takes the same steps as ``optimizer`` does on the gradients of
  ``loss + weight * network_energy``. An optimizer that is given the ``value`` of the
  loss, as ``optax.polyak_sgd``, is given that of the sum. One that evaluates the loss
  itself, as the line search of ``optax.lbfgs`` does its ``value_fn``, raises an error:
  there, add ``weight * network_energy(params)`` to the loss.

  Args:
    optimizer: any complete optimizer, such as ``optax.adam(1e-3)``.
    weight: weight of the energy, a number or an optax schedule.
    potential: an :class:`Objective`, or a pair potential; by default
      :data:`RECOMMENDED`.
    half_space: as in :func:`add_hyperspherical_energy`, like all that follow.
    hidden_weight: weight of the hidden layers.
    output_weight: weight of the output layers.
    rules: see :class:`LayerRule`.
    key: a PRNG key, for objectives that draw random numbers.

  Returns:
    A gradient transformation, whose state is the pair of a
    :class:`HypersphericalEnergyState` and the state of ``optimizer``.

  Raises:
    TypeError, ValueError: as :func:`add_hyperspherical_energy`; and, from ``update``,
      where the optimizer calls ``value_fn``, ``grad_fn`` or ``obj_fn``.

  Example:
    >>> import optax
    >>> from mhe_jax import with_hyperspherical_energy
    >>> tx = with_hyperspherical_energy(optax.adam(1e-3), 0.1)
  """
  regularizer = add_hyperspherical_energy(
    weight,
    potential,
    half_space=half_space,
    hidden_weight=hidden_weight,
    output_weight=output_weight,
    rules=rules,
    key=key,
  )
  optimizer = optax.with_extra_args_support(optimizer)

  def init_fn(params):
    return regularizer.init(params), optimizer.init(params)

  def update_fn(updates, state, params=None, **extra_args):
    check_params(params, "with_hyperspherical_energy")
    before, inner = state
    updates, after = regularizer.update(updates, before, params)
    if not is_plain_zero(weight):
      scale = weight_at(weight, before.count)
      extra_args = _add_energy(extra_args, scale, after)
    updates, inner = optimizer.update(updates, inner, params, **extra_args)
    return updates, (after, inner)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def with_decoupled_hyperspherical_energy(
  scaler: optax.GradientTransformation,
  learning_rate: optax.ScalarOrSchedule,
  weight: jax.typing.ArrayLike | Callable[[jax.Array], jax.typing.ArrayLike],
  potential: Potential | Objective = RECOMMENDED,
  *,
  half_space: bool = True,
  hidden_weight: jax.typing.ArrayLike = 1.0,
  output_weight: jax.typing.ArrayLike = 1.0,
  rules: Sequence[LayerRule] | None = None,
  key: jax.Array | None = None,
) -> optax.GradientTransformationExtraArgs:
  """An optimizer beside whose steps the energy is descended (the decoupled form).

  As the decay of AdamW: the energy's gradient is scaled by the learning rate, but
  enters neither the moments nor the division by them. Nor does the energy enter the
  ``value`` that a scaler is given, or its line search: they are of the loss alone.

  Args:
    scaler: the optimizer without its learning rate, such as
      ``optax.scale_by_adam()``; not a complete optimizer such as ``optax.adam``,
      whose steps are negative already and would be turned around.
    learning_rate: a number or an optax schedule.
    weight: weight of the energy, a number or an optax schedule.
    potential: an :class:`Objective`, or a pair potential; by default
      :data:`RECOMMENDED`.
    half_space: as in :func:`add_hyperspherical_energy`, like all that follow.
    hidden_weight: weight of the hidden layers.
    output_weight: weight of the output layers.
    rules: see :class:`LayerRule`.
    key: a PRNG key, for objectives that draw random numbers.

  Returns:
    A gradient transformation, whose state has three parts: of ``scaler``, a
    :class:`HypersphericalEnergyState`, and of the learning rate.

  Raises:
    TypeError, ValueError: as :func:`add_hyperspherical_energy`.

  Example:
    >>> import optax
    >>> from mhe_jax import with_decoupled_hyperspherical_energy
    >>> tx = with_decoupled_hyperspherical_energy(optax.scale_by_adam(), 1e-3, 1.0)

  References:
    Loshchilov and Hutter, `Decoupled Weight Decay Regularization
    <https://arxiv.org/abs/1711.05101>`_, ICLR 2019.
  """
  regularizer = add_hyperspherical_energy(
    weight,
    potential,
    half_space=half_space,
    hidden_weight=hidden_weight,
    output_weight=output_weight,
    rules=rules,
    key=key,
  )
  optimizer = optax.chain(
    scaler, regularizer, optax.scale_by_learning_rate(learning_rate)
  )

  def update_fn(updates, state, params=None, **extra_args):
    check_params(params, "with_decoupled_hyperspherical_energy")
    return optimizer.update(updates, state, params, **extra_args)

  return optax.GradientTransformationExtraArgs(optimizer.init, update_fn)


def _add_energy(extra_args, scale, state):
  """Extra arguments about the loss, made to be about ``loss + scale * energy``."""
  extra_args = dict(extra_args)
  if extra_args.get("value") is not None:
    extra_args["value"] = add_scaled(extra_args["value"], scale, state.energy)
  # To add the energy to these would count it twice where an optimizer reuses what it
  # evaluated (optax.value_and_grad_from_state). An error if they are called at all.
  for name in ("value_fn", "grad_fn", "obj_fn"):
    if callable(extra_args.get(name)):
      extra_args[name] = _refuse(name, extra_args[name])
  return extra_args


def _refuse(name, function):
  @functools.wraps(function)  # Optimizers look up the arguments it takes.
  def raising(*args, **kwargs):
    del args, kwargs
    raise ValueError(
      f"the optimizer evaluates the loss itself, with {name}, which has no energy in "
      "it. Use the optimizer without with_hyperspherical_energy, on a loss that has "
      "the term weight * network_energy(params)."
    )

  return raising
