"""The optax transformation that adds the gradient of the energy to updates."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mhe_jax.arrays import compute_dtype
from mhe_jax.by_layer import ByLayer
from mhe_jax.checks import check_params, check_scalar, check_weight, is_plain_zero
from mhe_jax.layers.rules import LayerRule, check_rules
from mhe_jax.layers.select import Selection, select, warn_of_unread
from mhe_jax.layers.trees import flatten
from mhe_jax.network import counted_layers, weighted_energy
from mhe_jax.objectives.base import Objective
from mhe_jax.objectives.pair_energy import as_objective
from mhe_jax.objectives.relative import RECOMMENDED
from mhe_jax.potentials.base import Potential
from mhe_jax.starts import warn_of_small_starts


class HypersphericalEnergyState(NamedTuple):
  """State of :func:`add_hyperspherical_energy`.

  ``optax.tree.get(opt_state, "HypersphericalEnergyState")`` finds it in the state of
  an optimizer.

  Attributes:
    count: number of updates, an int32 scalar; what a schedule is called with.
    energy: the network's energy at the parameters of the last update, unweighted by
      ``weight``, but weighted by ``hidden_weight``, ``output_weight`` and the rules;
      0 before the first.
    layer_energies: what :func:`mhe_jax.layer_energies` gives, at the same parameters,
      of the layers that count: ``{path: energy}``, unweighted; plain arrays, also in
      an ``nnx.Optimizer``.
  """

  count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]
  energy: jax.Array
  layer_energies: ByLayer


def add_hyperspherical_energy(
  weight: jax.typing.ArrayLike | Callable[[jax.Array], jax.typing.ArrayLike],
  potential: Potential | Objective = RECOMMENDED,
  *,
  half_space: bool = True,
  hidden_weight: jax.typing.ArrayLike = 1.0,
  output_weight: jax.typing.ArrayLike = 1.0,
  rules: Sequence[LayerRule] | None = None,
  key: jax.Array | None = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Adds the gradient of the network's hyperspherical energy to the updates.

  .. math::
    g \leftarrow g + \lambda\, \nabla_\theta E(\theta)

  with :math:`E` of :func:`mhe_jax.network_energy`. Where it stands in a chain
  decides what it means. Before the optimizer, the energy is part of the loss:
  :func:`with_hyperspherical_energy` builds that. Between the preconditioner and
  the learning rate it is decoupled, as the decay of AdamW:
  :func:`with_decoupled_hyperspherical_energy`. After the learning rate it would
  have the wrong sign. In layers that start at zero, or far below the others, the energy
  has the first steps to itself, of which ``init`` warns; :func:`mhe_jax.spread` has a
  bound.

  The energy, and that of each layer, is read from the state of any optimizer around it
  by the name of its part, ``optax.tree.get(opt_state,
  "HypersphericalEnergyState").energy``; where there are several, as in the example.
  (The short ``optax.tree.get(opt_state, "energy")`` is a KeyError if there are several,
  or a module is called energy.) A weight of 0, as a plain number, only monitors it, at
  the cost of the energy without its gradient.

  Under ``optax.inject_hyperparams``, which makes every number a part of the state, a
  weight is cast to the parameters' dtype; in a bfloat16 model pass
  ``hyperparam_dtype=jnp.float32`` there. ``half_space``, True or False, the rules and
  the potential stay what they are.

  Args:
    weight: factor of the gradient, a number or an optax schedule.
    potential: an :class:`Objective`, or a pair potential; by default
      :data:`RECOMMENDED`.
    half_space: use the half-space energy for hidden layers.
    hidden_weight: weight of the hidden layers, a number. Layers whose weight is 0, as
      a plain number or that of their rule, are not evaluated: they cost nothing, and
      a NaN in them does not show.
    output_weight: weight of the output layers, likewise.
    rules: see :class:`LayerRule`.
    key: a PRNG key, for objectives that draw random numbers. Each update draws others:
      it folds the number of the update in.

  Returns:
    A gradient transformation, whose ``update`` needs ``params``.

  Raises:
    TypeError, ValueError: a weight is negative or NaN, or the potential is not
      one; and, from ``init`` and ``update``, what
      :func:`mhe_jax.network_energy` raises.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from mhe_jax import Riesz, add_hyperspherical_energy
    >>> params = {"Dense_0": {"kernel": jnp.array([[1.0, 1.0], [0.0, 1.0]])}}
    >>> tx = optax.chain(
    ...     add_hyperspherical_energy(0.1, Riesz(2.0)), optax.sgd(0.5))
    >>> state = tx.init(params)
    >>> grads = {"Dense_0": {"kernel": jnp.zeros((2, 2))}}
    >>> updates, state = tx.update(grads, state, params)
    >>> own = optax.tree.get(state, "HypersphericalEnergyState")
    >>> round(float(own.energy), 4), list(own.layer_energies)
    (0.75, ['Dense_0/kernel'])
    >>> bool(updates["Dense_0"]["kernel"][1, 0] < 0)  # away from the other neuron
    True

    Two of them, one of which only monitors:

    >>> monitor = add_hyperspherical_energy(0.0, Riesz(1.0))
    >>> tx = optax.chain(monitor, tx)
    >>> updates, state = tx.update(grads, tx.init(params), params)
    >>> found = optax.tree.get_all_with_path(state, "HypersphericalEnergyState")
    >>> [round(float(own.energy), 4) for path, own in found]
    [0.7826, 0.75]

  References:
    Liu et al., `Learning towards Minimum Hyperspherical Energy
    <https://arxiv.org/abs/1805.09298>`_, NeurIPS 2018, section 3.5.
  """
  if not callable(weight):
    check_weight("weight", weight)
  check_weight("hidden_weight", hidden_weight)
  check_weight("output_weight", output_weight)
  objective = as_objective(potential)
  objective.check_key(key)
  rules = check_rules(rules)

  def init_fn(params):
    # From shapes and dtypes alone: the leaves may be abstract.
    layers = select(params, rules).layers
    counted = counted_layers(layers, hidden_weight, output_weight)
    if not is_plain_zero(weight):
      warn_of_small_starts(counted)
    dtype = compute_dtype(*(layer.compute_dtype for layer in layers))
    return HypersphericalEnergyState(
      count=jnp.zeros([], jnp.int32),
      energy=jnp.zeros([], dtype),
      layer_energies=ByLayer(
        jnp.zeros(len(counted), dtype), tuple(layer.path for layer in counted)
      ),
    )

  def update_fn(updates, state, params=None, **extra_args):
    del extra_args
    check_params(params, "add_hyperspherical_energy")
    selection = select(params, rules)
    warn_of_unread(selection)
    layers = selection.layers
    new_leaves, treedef = updates_of(selection, updates)

    draw = None if key is None else jax.random.fold_in(key, state.count)

    def energy_of(leaves):
      return weighted_energy(
        [dataclasses.replace(x, leaf=leaves.get(x.index, x.leaf)) for x in layers],
        objective,
        half_space,
        hidden_weight,
        output_weight,
        draw,
      )

    # Only the leaves whose gradient is used are differentiated; the rest may be
    # anything. In float32 or better: before it is weighted, a gradient may exceed
    # float16.
    leaves = {
      layer.index: jnp.asarray(layer.leaf, layer.compute_dtype)
      for layer in counted_layers(layers, hidden_weight, output_weight)
      if is_update(new_leaves[layer.index]) and not is_plain_zero(weight)
    }
    (energy, of_layers), grads = jax.value_and_grad(energy_of, has_aux=True)(leaves)
    scale = weight_at(weight, state.count)
    for index, grad in grads.items():
      new_leaves[index] = add_scaled(new_leaves[index], scale, grad)
    count = jnp.asarray(optax.safe_increment(state.count))
    values = [value.astype(energy.dtype) for value in of_layers.values()]
    array = jnp.stack(values) if values else jnp.zeros(0, energy.dtype)
    by_layer = ByLayer(array, tuple(of_layers))
    state = HypersphericalEnergyState(count, energy, by_layer)
    return treedef.unflatten(new_leaves), state

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def weight_at(weight, count, name="weight"):
  """The number that a weight is, or that a schedule gives."""
  if callable(weight):
    weight = weight(count)
    check_scalar(name, weight)
  return weight


def updates_of(selection: Selection, updates: Any) -> tuple[list, Any]:
  """Leaves and structure of updates of the tree that was selected from.

  Raises:
    ValueError: they are of another tree, or of other shapes.
  """
  paths, leaves, treedef = flatten(updates)
  if paths != selection.paths:
    only = sorted(set(map("/".join, selection.paths)) ^ set(map("/".join, paths)))
    raise ValueError(
      "updates and params must have the same structure, got "
      f"{len(paths)} and {len(selection.paths)} leaves; in one only: {only[:5]}."
    )
  for layer in selection.layers:
    update = leaves[layer.index]
    if is_update(update) and jnp.shape(update) != jnp.shape(layer.leaf):
      raise ValueError(
        f"the update of {layer.path!r} has shape {jnp.shape(update)}, the "
        f"parameter {jnp.shape(layer.leaf)}."
      )
  return leaves, treedef


def is_update(leaf) -> bool:
  """Whether there is an update to add to: frozen leaves have None or a mask."""
  return leaf is not None and not isinstance(leaf, optax.MaskedNode)


def add_scaled(update, scale, grad):
  """``update + scale * grad`` in float32 or better, in the update's dtype.

  Saturates at the largest number of that dtype, as the gradient of the energy does;
  infinity or NaN of the update itself, by which overflows of the loss are known,
  stay what they are.
  """
  update = jnp.asarray(update)
  dtype = compute_dtype(update.dtype, grad.dtype)
  if not jnp.issubdtype(update.dtype, jnp.floating):
    update = update.astype(dtype)
  total = update.astype(dtype) + jnp.asarray(scale, dtype) * grad.astype(dtype)
  largest = float(jnp.finfo(update.dtype).max)
  finite = jnp.isfinite(update) & jnp.isfinite(scale)
  total = jnp.where(finite, jnp.clip(total, -largest, largest), total)
  return total.astype(update.dtype)
