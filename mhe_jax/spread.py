"""The recommended form: neurons turn apart by a share of what the optimizer turns."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mhe_jax.arrays import replicate_explicit
from mhe_jax.checks import check_count, check_weight, is_plain_zero
from mhe_jax.layers.rules import LayerRule, check_rules
from mhe_jax.layers.select import select, warn_of_unread
from mhe_jax.network import Kind, counted_layers, kinds_of, sharding_of
from mhe_jax.objectives.base import Objective
from mhe_jax.objectives.pair_energy import as_objective
from mhe_jax.objectives.relative import RECOMMENDED, RelativeExcess, excess_of
from mhe_jax.potentials.base import Potential
from mhe_jax.transforms import add_scaled, is_update, updates_of, weight_at
from mhe_jax.turns import further, norm_of, step_of


class SpreadState(NamedTuple):
  """State of :func:`spread`.

  ``optax.tree.get(opt_state, "SpreadState")`` finds it in the state of any optimizer
  around it. The three in the middle are for a log; a layer that is a stack of sets has
  one number in them.

  Attributes:
    count: number of updates, an int32 scalar; what a schedule is called with.
    inner: the state of the optimizer.
    excess: relative excess of each layer, ``{path: scalar}``, at the parameters of the
      last update that evaluated it: 0 is the best, 1 random directions. The mean over
      the sets of a stack.
    optimizer_turn: by how much the optimizer turned the layer in the last update: root
      mean square over neurons, in radians.
    spread_turn: by how much :func:`spread` turned it then.
    owed: the optimizer's turns since the last turn of :func:`spread`, added up, of each
      set: ``{path: [*batch]}``.
  """

  count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]
  inner: Any
  excess: dict[str, jax.Array]
  optimizer_turn: dict[str, jax.Array]
  spread_turn: dict[str, jax.Array]
  owed: dict[str, jax.Array]


def spread(
  optimizer: optax.GradientTransformation,
  share: jax.typing.ArrayLike | Callable[[jax.Array], jax.typing.ArrayLike] = 0.5,
  objective: Potential | Objective = RECOMMENDED,
  *,
  rules: Sequence[LayerRule] | None = None,
  half_space: bool = True,
  every: int = 1,
  key: jax.Array | None = None,
) -> optax.GradientTransformationExtraArgs:
  r"""An optimizer beside which neurons turn apart."""
  _check_optimizer(optimizer)
  if not callable(share):
    check_weight("share", share)
  objective = as_objective(objective)
  if isinstance(objective, RelativeExcess):
    objective = RelativeExcess(objective.potential)  # Not its logarithm.
  objective.check_key(key)
  every = _check_every(every)
  rules, half_space = check_rules(rules), bool(half_space)
  optimizer = optax.with_extra_args_support(optimizer)

  def init_fn(params):
    # From shapes and dtypes alone: the leaves may be abstract.
    layers = _counted(select(params, rules))
    for layer in layers:
      _check_scale(layer, objective, half_space)

    def zeros(sets=lambda layer: ()):
      return {x.path: jnp.zeros(sets(x), x.compute_dtype) for x in layers}

    return SpreadState(
      count=jnp.zeros([], jnp.int32),
      inner=optimizer.init(params),
      excess=zeros(),
      optimizer_turn=zeros(),
      spread_turn=zeros(),
      owed=zeros(_sets),
    )

  def update_fn(updates, state, params=None, **extra_args):
    if params is None:
      raise ValueError(
        "spread needs the parameters: call update(updates, state, params), params was "
        "None."
      )
    updates, inner = optimizer.update(updates, state.inner, params, **extra_args)
    selection = select(params, rules)
    warn_of_unread(selection)
    leaves, treedef = updates_of(selection, updates)
    layers = _counted(selection)
    kinds = kinds_of(layers, half_space, lambda layer: _form(leaves[layer.index]))
    strength = weight_at(share, state.count, "share")

    turns = _by_path(kinds, [step_of(*_neurons(x, leaves)).turn for x in kinds])
    owed = {path: state.owed[path] + turn for path, turn in turns.items()}

    def act():
      """New updates by index, the layers' excess, and how far they turn apart."""
      draw = None if key is None else jax.random.fold_in(key, state.count)
      draws = [draw and jax.random.fold_in(draw, i) for i in range(len(kinds))]
      acts = [_act(*x, leaves, owed, objective, strength) for x in zip(kinds, draws)]
      new = {}
      for kind, (updated, _, _) in zip(kinds, acts):
        for layer, leaf in zip(kind.layers, updated):
          new[layer.index] = leaf
      excess, turned = (_by_path(kinds, list(x)) for x in list(zip(*acts))[1:])
      mean = {path: jnp.mean(x) for path, x in excess.items()}
      return new, mean, _over_sets(turned), jax.tree.map(jnp.zeros_like, owed)

    def wait():
      new = {layer.index: leaves[layer.index] for layer in layers}
      nothing = {path: jnp.zeros_like(x) for path, x in state.spread_turn.items()}
      return new, state.excess, nothing, owed

    if every == 1:
      new, excess, turned, owed = act()
    else:
      due = state.count % every == 0
      new, excess, turned, owed = jax.lax.cond(due, act, wait)
    for index, leaf in new.items():
      leaves[index] = leaf
    return treedef.unflatten(leaves), SpreadState(
      count=jnp.asarray(optax.safe_increment(state.count)),
      inner=inner,
      excess=excess,
      optimizer_turn=_over_sets(turns),
      spread_turn=turned,
      owed=owed,
    )

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _counted(selection):
  """The layers that are turned: not those to which a rule gives a weight of 0."""
  return counted_layers(selection.layers, 1.0, 1.0)


def _sets(layer):
  """The axes of the sets of a stack."""
  return layer.axes.matrix_shape(layer.leaf.shape)[:-2]


def _form(update):
  """Of an update, what those of one kind have in common; None if there is none."""
  return (jnp.dtype(update.dtype), sharding_of(update)) if is_update(update) else None


def _by_path(kinds, stacks):
  """What the layers of each kind have, ``{path: array}``, in the order of the tree."""
  return {
    layer.path: replicate_explicit(x)
    for kind, stack in zip(kinds, stacks)
    for layer, x in zip(kind.layers, kind.unstack(stack))
  }


def _over_sets(turns):
  """One turn of each layer, the root mean square over the sets of a stack."""
  return {path: jnp.sqrt(jnp.mean(x**2)) for path, x in turns.items()}


def _neurons(kind, leaves):
  """Neurons and their updates, in float32 or better; zeros where there are none."""
  dtype = kind.layers[0].compute_dtype
  neurons = kind.matrices(kind.stack([layer.leaf for layer in kind.layers]))
  neurons = neurons.astype(dtype)
  updates = [leaves[layer.index] for layer in kind.layers]
  if not is_update(updates[0]):
    return neurons, jnp.zeros_like(neurons)
  return neurons, kind.matrices(kind.stack(updates)).astype(dtype)


def _act(kind, key, leaves, owed, objective, strength):
  """What :func:`spread` makes of the layers of a kind.

  Returns:
    New updates, a list; and of each set the excess, and how far it is turned.
  """
  half_space, size = kind.in_half_space, kind.size

  def excess_of_all(neurons):
    with kind.named():
      values = objective(neurons, half_space=half_space, key=key)
      excess = excess_of(values, *size, objective, half_space)
    return jnp.sum(excess), excess

  neurons, updates = _neurons(kind, leaves)
  old = [leaves[layer.index] for layer in kind.layers]
  if not is_update(old[0]) or is_plain_zero(strength):
    _, excess = excess_of_all(neurons)
    return old, excess, jnp.zeros_like(excess)
  step = step_of(neurons, updates)
  # At the directions, not the neurons, the gradient is free of the norms.
  gradient, excess = jax.grad(excess_of_all, has_aux=True)(step.before)
  shares = [_share(strength, layer, owed[layer.path]) for layer in kind.layers]
  turn = kind.stack(shares) * _fade(gradient, *size)
  apart, turned = further(step, -gradient, turn)
  new = add_scaled(kind.stack(old), 1.0, kind.leaves(apart))
  return kind.unstack(new), excess, turned


def _share(strength, layer, owed):
  """How far a layer may be turned: what the optimizer owes, times a share of it."""
  share = layer.weight * jnp.maximum(jnp.asarray(strength, owed.dtype), 0.0)
  return share * owed


def _fade(gradient, n, d):
  """1 where the pull is that of random directions or more, and less below."""
  pull = norm_of(gradient, (-2, -1))[..., 0, 0]
  random = 4.0 * d**0.5 / n
  return pull / jnp.maximum(pull, random)


def _check_optimizer(optimizer):
  if not (
    callable(getattr(optimizer, "init", None))
    and callable(getattr(optimizer, "update", None))
  ):
    raise TypeError(
      "optimizer must be an optax transformation, such as optax.adam(1e-3), got "
      f"{optimizer!r}."
    )


def _check_every(every):
  if isinstance(every, jax.Array):
    raise TypeError(
      f"every must be a whole number known at compile time, got {every}. If this is "
      "optax.inject_hyperparams, which takes every number for one that changes, give "
      "it static_args=('objective', 'every')."
    )
  return check_count("every", every, 1)


def _check_scale(layer, objective, half_space):
  """Raises, before any compilation, where there is no excess of a layer."""
  kind = Kind((layer,), layer.in_half_space(half_space))
  with kind.named():
    excess_of(jnp.zeros(()), *kind.size, objective, kind.in_half_space)
