"""The recommended form: neurons turn apart by a share of what the optimizer turns."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mhe_jax.arrays import compute_dtype, replicate_explicit
from mhe_jax.by_layer import ByLayer
from mhe_jax.checks import check_count, check_params, check_weight, is_plain_zero
from mhe_jax.layers.rules import LayerRule, check_rules
from mhe_jax.layers.select import select, warn_of_unread
from mhe_jax.network import Kind, counted_layers, kinds_of, sharding_of
from mhe_jax.objectives.alive import excess_of_alive, num_alive
from mhe_jax.objectives.base import Objective
from mhe_jax.objectives.pair_energy import as_objective
from mhe_jax.objectives.relative import RECOMMENDED, RelativeExcess, excess_of
from mhe_jax.potentials.base import Potential
from mhe_jax.sphere import normalize
from mhe_jax.transforms import add_scaled, is_update, updates_of, weight_at
from mhe_jax.turns import pull_of, step_of, turn_further


class SpreadState(NamedTuple):
  """State of :func:`spread`.

  ``optax.tree.get(opt_state, "SpreadState")`` finds it in the state of any optimizer
  around it. The three in the middle are for a log, one number for each layer.

  Attributes:
    count: number of updates, an int32 scalar; what a schedule is called with.
    inner: the state of the optimizer.
    excess: relative excess of each layer, ``{path: scalar}``, at the parameters of the
      last update that evaluated it, as of :func:`layer_excess`: 0 is the best, 1 random
      directions. The mean over the sets of a stack.
    optimizer_turn: by how much the optimizer turned the layer in the last update: root
      mean square over neurons, in radians.
    spread_turn: by how much :func:`spread` turned it then.
    owed: of each set what the optimizer turned it since :func:`spread` last did, added
      up, ``{path: [*batch]}``; zeros if ``every`` is 1.
  """

  count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]
  inner: Any
  excess: ByLayer
  optimizer_turn: ByLayer
  spread_turn: ByLayer
  owed: jax.Array


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
  r"""An optimizer beside which neurons turn apart: the recommended form of the energy.

  In every step, a layer's neurons are turned apart by at most ``share`` times what the
  optimizer turns them: root mean square over the neurons, in radians.

  So the energy can never take over, and ``share`` means the same for every layer,
  width, optimizer and schedule. Learning rate, warm-up, weight decay, preconditioner
  and the norms of the weights are in what the optimizer turns. Forms that add the
  gradient of the energy to that of the loss have neither: that gradient goes as one
  over the norm, and in layers that start at zero it is all that Adam sees
  (docs/spread.md).

  The optimizer takes its own step as without it. For the neurons :math:`w_i` of a
  layer, the optimizer's final updates :math:`u_i` and the layer's relative excess
  :math:`x`:

  .. math::
    a_i &= \frac{\lVert u_i^\perp \rVert}{\max(\lVert w_i \rVert, \lVert w_i + u_i
      \rVert)}, \qquad A = \sqrt{\textstyle\frac1n \sum_i a_i^2} \\
    f_i &= - \nabla_{\hat w_i} x, \qquad
    \varphi_i = \text{share} \cdot A \, \frac{\sqrt n \, f_i}
      {\max(\lVert f \rVert_F, F)} \\
    u_i &\leftarrow u_i + \min(\lVert w_i \rVert, \lVert w_i + u_i \rVert) \,
      \varphi_i^\perp

  :math:`F` is what :math:`\lVert f \rVert_F` is of random directions, nearly:
  :math:`4 \sqrt d / \min(n, d)` in half-space and :math:`2 d / (n + d)` in full space.
  Neurons that are worse turn by the full share; from there on the turn falls with the
  pull, and ends at the best.

  **Why it holds.** With :math:`u_i^\perp` orthogonal to :math:`w_i`, the sine of the
  angle between :math:`w_i` and :math:`w_i + u_i` is :math:`\lVert u_i^\perp \rVert /
  \lVert w_i + u_i \rVert \ge a_i`, so the optimizer turns the layer by at least A.
  The vector that is added is orthogonal to :math:`v_i = w_i + u_i` and at most
  :math:`\lVert v_i \rVert \lVert \varphi_i \rVert` long: it turns :math:`v_i` by at
  most :math:`\arctan \lVert \varphi_i \rVert \le \lVert \varphi_i \rVert`. And
  :math:`\sqrt{\frac1n \sum_i \lVert \varphi_i \rVert^2} = \text{share} \cdot A
  \lVert f \rVert_F / \max(\lVert f \rVert_F, F) \le \text{share} \cdot A`. Up to
  rounding, in the dtype of the updates.

  A turn of nothing is nothing: neurons that are zeros, and layers whose updates are,
  are left as they are, and so are layers with a NaN; infinity and NaN in updates stay,
  and nothing is added that is not finite.

  **Inside and around other transformations.** It needs the final updates, so it goes
  around all that makes them: ``spread(optax.chain(optax.clip(1.0), optax.adam(0.1)))``.
  Around it may be what masks, accumulates, averages or skips: ``optax.masked``,
  ``partition``, ``MultiSteps``, ``apply_if_finite``, ``nnx.Optimizer``. Inside
  ``optax.contrib.schedule_free`` it moves z by what it would turn the parameters y;
  around it, y and with it the average. A line search, as of ``optax.lbfgs``, has judged
  the step without the turn: give it ``value`` and ``grad`` of the parameters that you
  have, not those that it has kept. In ``optax.inject_hyperparams``, say what is no
  number that changes: ``static_args=("objective", "every")``.

  Args:
    optimizer: any complete optimizer, such as ``optax.adam(1e-3)``.
    share: of the optimizer's turn, a number >= 0 or an optax schedule. 1 spreads
      neurons as fast as they are trained; above that, the energy has the larger part.
      0 leaves the updates as they are and, as a plain number, costs the excess alone.
    objective: by whose excess the neurons pull: a potential, or an :class:`Objective`
      with a scale. Its logarithm pulls in the same direction: it is left out.
    rules: see :class:`LayerRule`; the weight of a rule is a factor of the share in its
      layers.
    half_space: use the half-space form for hidden layers.
    every: turn only in each such step, the first included, by at most ``share`` times
      what the optimizer has turned the layer since, its turns added up; in between, the
      energy costs nothing.
    key: a PRNG key, for objectives that draw random numbers.

  Returns:
    A gradient transformation with a :class:`SpreadState`, whose ``update`` needs
    ``params``.

  Raises:
    TypeError: ``optimizer`` is no optax transformation, ``share`` no number, or
      ``objective`` neither a potential nor an objective.
    ValueError: ``share`` is negative or not finite, or ``every`` no whole number of at
      least 1; and, from ``init`` and ``update``, what :func:`mhe_jax.neuron_matrices`
      raises.
    NotImplementedError: from ``init``, where the objective has no scale for a layer.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> import optax
    >>> from mhe_jax import LayerRule, spread
    >>> kernel = jax.random.normal(jax.random.key(0), (8, 16))
    >>> params = {"body": {"kernel": kernel}, "head": {"kernel": jnp.zeros((16, 4))}}
    >>> tx = spread(optax.sgd(0.1), rules=[LayerRule("head/kernel", role="output")])
    >>> state = tx.init(params)
    >>> grads = jax.tree.map(jnp.ones_like, params)
    >>> updates, state = tx.update(grads, state, params)
    >>> own = optax.tree.get(state, "SpreadState")
    >>> share = own.spread_turn["body/kernel"] / own.optimizer_turn["body/kernel"]
    >>> bool(0.3 < share <= 0.5)
    True
    >>> float(own.spread_turn["head/kernel"])  # It is zero, and has no direction yet.
    0.0
    >>> {path: round(float(x), 1) for path, x in own.excess.items()}
    {'body/kernel': 0.8, 'head/kernel': 0.0}

  References:
    Liu et al., `Learning towards Minimum Hyperspherical Energy
    <https://arxiv.org/abs/1805.09298>`_, NeurIPS 2018.
  """
  _check_optimizer(optimizer)
  if not callable(share):
    check_weight("share", share)
  objective = as_objective(objective, "objective")
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

    dtype = compute_dtype(*(layer.compute_dtype for layer in layers))
    zeros = ByLayer(jnp.zeros(len(layers), dtype), tuple(x.path for x in layers))
    return SpreadState(
      count=jnp.zeros([], jnp.int32),
      inner=optimizer.init(params),
      excess=zeros,
      optimizer_turn=zeros,
      spread_turn=zeros,
      owed=jnp.zeros(sum(map(_num_sets, layers)), dtype),
    )

  def update_fn(updates, state, params=None, **extra_args):
    check_params(params, "spread")
    if not isinstance(state, SpreadState):
      raise TypeError(
        f"state must be a SpreadState, as spread's init gives it, got {type(state)}. "
        "To go on from one of the optimizer alone: init(params)._replace(inner=state)."
      )
    updates, inner = optimizer.update(updates, state.inner, params, **extra_args)
    selection = select(params, rules)
    warn_of_unread(selection)
    leaves, treedef = updates_of(selection, updates)
    layers = _counted(selection)
    _check_layers(state.excess.paths, tuple(layer.path for layer in layers))
    groups = _groups(layers, leaves, half_space)
    strength = weight_at(share, state.count, "share")
    own = [group.optimizer_turn() for group in groups]
    owed = own
    if every > 1:
      owed = [x + y for x, y in zip(own, _split(groups, state.owed))]

    def act():
      """New updates by index, the layers' excess, and how far they are turned."""
      draw = None if key is None else jax.random.fold_in(key, state.count)
      new, excess, turns = {}, [], []
      for index, (group, most) in enumerate(zip(groups, owed)):
        draw_of = None if draw is None else jax.random.fold_in(draw, index)
        updates, x, turn = group.turned(objective, strength, most, draw_of)
        new.update(group.index(updates))
        excess.append(jnp.mean(x, -1))
        turns.append(_root_mean_square(turn))
      nothing = jnp.zeros_like(state.owed)
      return new, _join(groups, excess), _join(groups, turns), nothing

    def wait():
      new = {}
      for group in groups:
        new.update(group.index(group.updates))
      nothing = jnp.zeros_like(state.spread_turn.array)
      return new, state.excess.array, nothing, _join(groups, owed)

    if every == 1:
      new, excess, turns, rest = act()
    else:
      due = state.count % every == 0
      new, excess, turns, rest = jax.lax.cond(due, act, wait)
    for index, leaf in new.items():
      leaves[index] = leaf
    paths = state.excess.paths
    return treedef.unflatten(leaves), SpreadState(
      count=jnp.asarray(optax.safe_increment(state.count)),
      inner=inner,
      excess=ByLayer(excess, paths),
      optimizer_turn=ByLayer(_join(groups, list(map(_root_mean_square, own))), paths),
      spread_turn=ByLayer(turns, paths),
      owed=rest,
    )

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _num_sets(layer):
  return math.prod(layer.axes.matrix_shape(layer.leaf.shape)[:-2])


def _counted(selection):
  """The layers that are turned: not those to which a rule gives a weight of 0."""
  return counted_layers(selection.layers, 1.0, 1.0)


@dataclasses.dataclass(frozen=True)
class _Group:
  """Layers of a kind, and the optimizer's updates of them.

  Attributes:
    kind: the layers.
    updates: leaves in their order; None or masks where nothing is to be updated.
    neurons: ``[layers, *batch, n, d]``, in float32 or better.
  """

  kind: Kind
  updates: list[Any]
  neurons: jax.Array

  @property
  def is_updated(self):
    return is_update(self.updates[0])

  @property
  def num_sets(self):
    """In each layer."""
    return math.prod(self.neurons.shape[:-2]) // len(self.kind.layers)

  def index(self, updates):
    """Updates, in the order of the layers, by the index of their leaves."""
    return dict(zip([layer.index for layer in self.kind.layers], updates))

  def step(self):
    updates = self.kind.matrices(self.kind.stack(self.updates))
    return step_of(self.neurons, updates.astype(self.neurons.dtype))

  def optimizer_turn(self):
    """Of each set, ``[layers, sets]``."""
    if not self.is_updated:
      return self._flatten(jnp.zeros_like(self.neurons, shape=self.neurons.shape[:-2]))
    return self._flatten(self.step().turn)

  def turned(self, objective, share, most, key):
    """What becomes of the updates when the neurons turn apart.

    Args:
      objective: by whose excess the neurons pull.
      share: of what the optimizer turns, by how much a layer may be turned.
      most: what the optimizer has turned each set, ``[layers, sets]``.
      key: for the objective.

    Returns:
      Updates, in the order of the layers; of each set, ``[layers, sets]``, its excess,
      and how far it is turned.
    """
    kind = self.kind

    def excess_of_all(units):
      units = units if objective.takes_shards else replicate_explicit(units)
      values = objective.evaluate(units, half_space=kind.in_half_space, key=key)
      with kind.named():
        excess = excess_of(values, *kind.size, objective, kind.in_half_space)
        alive = excess_of_alive(
          values, num_alive(units), *kind.size, objective, kind.in_half_space
        )
      return jnp.sum(excess), alive

    if not self.is_updated or is_plain_zero(share):
      _, excess = excess_of_all(normalize(self.neurons))
      return self.updates, self._flatten(excess), jnp.zeros_like(most)
    step = self.step()
    gradient, excess = jax.grad(excess_of_all, has_aux=True)(step.before)
    pull = pull_of(gradient, step.before)
    weights = jnp.asarray([[layer.weight] for layer in kind.layers], most.dtype)
    most = jnp.maximum(jnp.asarray(share, most.dtype), 0.0) * weights * most
    most = most.reshape(pull.shape[:-2])
    scale = _scale(pull, most, kind.in_half_space)
    apart, turn = turn_further(step, pull, scale)
    new = map(_add, self.updates, kind.unstack(kind.leaves(apart)))
    return list(new), self._flatten(excess), self._flatten(turn)

  def _flatten(self, x):
    """``[layers, *batch]`` as ``[layers, sets]``, on all devices."""
    return replicate_explicit(x).reshape(len(self.kind.layers), -1)


def _scale(pull, most, half_space):
  """What a pull is multiplied by, so that the neurons turn by at most so much.

  That is where the pull is as large as that of random directions, or larger. Where it
  is smaller, near the best, they turn by as much less, and come to rest.

  Args:
    pull: ``[*batch, n, d]``.
    most: root mean square of the turns over the neurons of a set, ``[*batch]``.
    half_space: of the excess that pulls.

  Returns:
    Factors ``[*batch]``.
  """
  n, d = pull.shape[-2:]
  size = jnp.sqrt(jnp.sum(pull**2, (-2, -1)))
  # Where d is not small, that of the relative excess of any pair energy: the potential
  # is a parabola of the cosines then, and these have variance 1 / d.
  random = 4.0 * d**0.5 / min(n, d) if half_space else 2.0 * d / (n + d)
  return most * n**0.5 / jnp.maximum(size, random)


def _groups(layers, leaves, half_space):
  """Layers of one kind side by side, with their updates."""

  def form(layer):
    update = leaves[layer.index]
    return is_update(update) and (jnp.dtype(update.dtype), sharding_of(update))

  groups = []
  for kind in kinds_of(layers, half_space, form):
    stack = kind.stack([layer.leaf for layer in kind.layers])
    neurons = kind.matrices(stack).astype(kind.layers[0].compute_dtype)
    updates = [leaves[layer.index] for layer in kind.layers]
    groups.append(_Group(kind, updates, neurons))
  return groups


def _add(update, apart):
  """The sum, in the dtype of the update, where smaller ones saturate."""
  if update.dtype == apart.dtype:
    return update + apart
  return add_scaled(update, 1.0, apart)


def _root_mean_square(turns):
  """Root mean square over the sets of each layer, ``[layers, sets]``."""
  return jnp.sqrt(jnp.mean(turns**2, -1))


def _join(groups, parts):
  """What groups have, ``[layers, ...]``, as one array in the order of the tree."""
  dtype = compute_dtype(*(part.dtype for part in parts))
  if not parts:  # Rules leave out all layers.
    return jnp.zeros(0, dtype)
  array = jnp.concatenate([part.ravel().astype(dtype) for part in parts])
  return array[_order(groups, [part.size for part in parts])]


def _split(groups, array):
  """What :func:`_join` made of ``[layers, sets]``."""
  if not groups:
    return []
  shapes = [(len(group.kind.layers), group.num_sets) for group in groups]
  sizes = [layers * sets for layers, sets in shapes]
  array = array[np.argsort(_order(groups, sizes))]
  parts = jnp.split(array, np.cumsum(sizes)[:-1])
  return [
    part.astype(group.neurons.dtype).reshape(shape)
    for group, part, shape in zip(groups, parts, shapes)
  ]


def _order(groups, sizes):
  """Which numbers of the groups, so many of each, come first in the tree."""
  indices = [
    np.repeat([x.index for x in group.kind.layers], size // len(group.kind.layers))
    for group, size in zip(groups, sizes)
  ]
  return np.argsort(np.concatenate(indices), kind="stable")


def _check_optimizer(optimizer):
  names = ("init", "update")
  if not all(callable(getattr(optimizer, name, None)) for name in names):
    raise TypeError(
      "optimizer must be an optax transformation, such as optax.adam(1e-3), got "
      f"{optimizer!r}."
    )


def _check_layers(of_state, of_rules):
  """Raises where numbers would be logged under names of other layers."""
  if of_state != of_rules:
    raise ValueError(
      f"state must be of the layers that params and rules have, {list(of_rules)}, got "
      f"one of {list(of_state)}. Give the rules that it was made with, or make it anew."
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
