"""The hyperspherical energy of a whole network."""

import contextlib
import dataclasses
import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mhe_jax.arrays import compute_dtype
from mhe_jax.checks import check_weight, is_plain_zero
from mhe_jax.layers.rules import LayerRule
from mhe_jax.layers.select import Layer, select, warn_of_unread
from mhe_jax.objectives.alive import excess_of_alive, num_alive
from mhe_jax.objectives.base import Objective
from mhe_jax.objectives.pair_energy import as_objective
from mhe_jax.objectives.relative import RECOMMENDED, NoScaleError
from mhe_jax.potentials.base import Potential
from mhe_jax.sphere import normalize


def layer_energies(
  params: Any,
  potential: Potential | Objective = RECOMMENDED,
  *,
  half_space: bool = True,
  rules: Sequence[LayerRule] | None = None,
  key: jax.Array | None = None,
) -> dict[str, jax.Array]:
  """Mean pair energy of every layer, or another objective of it.

  Args:
    params: any tree of parameters; see :func:`mhe_jax.neuron_matrices`.
    potential: an :class:`Objective`, or a pair potential, which stands for its mean
      pair energy; by default :data:`RECOMMENDED`, the relative excess. The paper's is
      ``Riesz(s)``.
    half_space: use the half-space energy for hidden layers; output layers
      always use full space.
    rules: which layers are output layers, are skipped, or have their neurons
      on other axes; see :class:`LayerRule`.
    key: a PRNG key, for objectives that draw random numbers.

  Returns:
    ``{path: energy}``, unweighted scalars. The energies of stacked layers
    (``NeuronAxes.batch``) are summed, as they would be if each stood alone.

  Raises:
    TypeError, ValueError: as :func:`mhe_jax.neuron_matrices`, before any
      compilation.

  Example:
    >>> import jax.numpy as jnp
    >>> from mhe_jax import LayerRule, Riesz, layer_energies
    >>> params = {"body": {"kernel": jnp.eye(4)}, "head": {"kernel": jnp.eye(4)}}
    >>> rules = [LayerRule("head/kernel", role="output")]
    >>> energies = layer_energies(params, Riesz(2.0), rules=rules)
    >>> {path: round(float(e), 4) for path, e in energies.items()}
    {'body/kernel': 0.4643, 'head/kernel': 0.5}
  """
  objective = as_objective(potential)
  objective.check_key(key)
  layers = select(params, rules).layers
  values = _values_of(layers, objective, half_space, key)
  return {path: x.sum() for path, x in values.items()}


def layer_excess(
  params: Any,
  potential: Potential | Objective = RECOMMENDED,
  *,
  half_space: bool = True,
  rules: Sequence[LayerRule] | None = None,
  key: jax.Array | None = None,
) -> dict[str, jax.Array]:
  """Relative excess of every layer: 0 is the lower bound, 1 random directions.

  The measure of redundancy to log during training. Unlike energies, it can be compared
  between layers, between potentials, and in time. Neurons that are zero, which have no
  direction, do not count.

  Args:
    params: any tree of parameters; see :func:`mhe_jax.neuron_matrices`.
    potential: the pair potential, or any :class:`Objective` with a scale.
    half_space: use the half-space energy for hidden layers; output layers always use
      full space.
    rules: see :class:`LayerRule`.
    key: a PRNG key, for objectives that draw random numbers.

  Returns:
    ``{path: excess}``, scalars; of stacked layers, the mean. NaN where there is no
    scale, see :func:`mhe_jax.relative_excess`.

  Raises:
    TypeError, ValueError: as :func:`mhe_jax.neuron_matrices`.
    NotImplementedError: the objective has no known scale.

  Example:
    >>> import jax.numpy as jnp
    >>> from mhe_jax import LayerRule, layer_excess
    >>> params = {"body": {"kernel": jnp.eye(4)}, "head": {"kernel": jnp.eye(4)}}
    >>> rules = [LayerRule("head/kernel", role="output")]
    >>> excess = layer_excess(params, rules=rules)
    >>> {path: abs(round(float(x), 4)) for path, x in excess.items()}
    {'body/kernel': 0.0, 'head/kernel': 0.2}
  """
  objective = as_objective(potential)
  objective.check_key(key)
  layers = select(params, rules).layers
  values = _values_of(layers, objective, half_space, key)
  return {layer.path: _excess(layer, values, objective, half_space) for layer in layers}


def _excess(layer, values, objective, half_space) -> jax.Array:
  """Of one layer, NaN where there is no scale."""
  units = normalize(layer.matrix())
  *batch, n, d = units.shape
  of_sets = values[layer.path].reshape(batch)
  in_half_space = layer.in_half_space(half_space)
  try:
    excess = excess_of_alive(of_sets, num_alive(units), n, d, objective, in_half_space)
  except NoScaleError:
    with jax.debug_nans(False):  # Even a constant is checked.
      return jnp.full([], jnp.nan, of_sets.dtype)
  return excess.mean()


def network_energy(
  params: Any,
  potential: Potential | Objective = RECOMMENDED,
  *,
  half_space: bool = True,
  hidden_weight: jax.typing.ArrayLike = 1.0,
  output_weight: jax.typing.ArrayLike = 1.0,
  rules: Sequence[LayerRule] | None = None,
  key: jax.Array | None = None,
) -> jax.Array:
  r"""Weighted sum of the layers' energies: the paper's regularizer.

  .. math::
    \lambda_h \sum_{l \in \text{hidden}} c_l E_l
    + \lambda_o \sum_{l \in \text{output}} c_l E_l

  Each :math:`E_l` is the mean over the pairs of its own layer, and :math:`c_l` is
  :attr:`LayerRule.weight`. Which layer is the output layer cannot be read off a
  tree of parameters: name it with a rule, or it counts as hidden.

  Args:
    params: any tree of parameters, or an nnx module.
    potential: an :class:`Objective`, or a pair potential, which stands for its mean
      pair energy; by default :data:`RECOMMENDED`, the relative excess. The paper's is
      ``Riesz(s)``.
    half_space: use the half-space energy for hidden layers.
    hidden_weight: weight of the hidden layers, a real scalar, traced or not. Layers
      whose weight is 0, as a plain number or that of their rule, are not evaluated:
      they cost nothing, and a NaN in them does not show.
    output_weight: weight of the output layers, likewise.
    rules: see :class:`LayerRule`.
    key: a PRNG key, for objectives that draw random numbers.

  Returns:
    A scalar, differentiable with respect to ``params``.

  Raises:
    TypeError, ValueError: as :func:`mhe_jax.neuron_matrices`; for a weight that is
      no real scalar; and for one that is negative or NaN, where it is known at trace
      time.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from mhe_jax import LayerRule, Riesz, network_energy
    >>> params = {"body": {"kernel": jnp.eye(4)}, "head": {"kernel": jnp.eye(4)}}
    >>> rules = [LayerRule("head/kernel", role="output")]
    >>> def loss(params):
    ...   data_loss = 0.0  # your loss
    ...   return data_loss + 0.1 * network_energy(params, rules=rules)
    >>> value, grads = jax.value_and_grad(loss)(params)
    >>> round(float(value), 5)
    0.02
    >>> round(float(network_energy(params, Riesz(2.0), rules=rules)), 4)  # the paper's
    0.9643

  References:
    Liu et al., `Learning towards Minimum Hyperspherical Energy
    <https://arxiv.org/abs/1805.09298>`_, NeurIPS 2018, section 3.5.
  """
  objective = as_objective(potential)
  objective.check_key(key)
  check_weight("hidden_weight", hidden_weight)
  check_weight("output_weight", output_weight)
  selection = select(params, rules)
  warn_of_unread(selection)
  energy, _ = weighted_energy(
    selection.layers, objective, half_space, hidden_weight, output_weight, key
  )
  return energy


@dataclasses.dataclass(frozen=True)
class Kind:
  """Layers that are computed side by side: of one shape, dtype, reading and space.

  A deep network has as many evaluations as it has kinds of layers. Layers that are
  sharded over explicit mesh axes can be stacked with those of the same sharding.
  """

  layers: tuple[Layer, ...]
  in_half_space: bool

  def stack(self, leaves: Sequence[jax.Array]) -> jax.Array:
    """Arrays of the layers' form, in their order, as one: ``[layers, ...]``."""
    # An axis of one layer would keep XLA on CPU from using more than one thread.
    return jnp.stack(leaves) if len(leaves) > 1 else jnp.asarray(leaves[0])

  def matrices(self, stack: jax.Array) -> jax.Array:
    """What :meth:`stack` gives as neurons: ``[layers, *batch, n, d]``."""

    def matrix(leaf):
      return dataclasses.replace(self.layers[0], leaf=leaf).matrix()

    return jax.vmap(matrix)(stack) if len(self.layers) > 1 else matrix(stack)

  def leaves(self, matrices: jax.Array) -> jax.Array:
    """What :meth:`matrices` gives as a stack again: it only rearranges."""
    leaf = self.layers[0].leaf
    stacked = (len(self.layers),) if len(self.layers) > 1 else ()
    like = jax.ShapeDtypeStruct((*stacked, *leaf.shape), matrices.dtype)
    return jax.linear_transpose(self.matrices, like)(matrices)[0]

  def unstack(self, stack: jax.Array) -> list[jax.Array]:
    """Of each layer, in their order."""
    return list(stack) if len(self.layers) > 1 else [stack]

  @property
  def size(self) -> tuple[int, int]:
    """Neurons and weights of each, of a set."""
    first = self.layers[0]
    n, d = first.axes.matrix_shape(jnp.shape(first.leaf))[-2:]
    return n, d

  @contextlib.contextmanager
  def named(self) -> Iterator[None]:
    """Names a layer in the error that says that there is no scale for it."""
    try:
      yield
    except NoScaleError as error:
      path = self.layers[0].path
      raise NoScaleError(
        f"parameter {path!r}: {error}. Take a smaller s for all layers, or leave "
        f"this one out: LayerRule({re.escape(path)!r}, weight=0)."
      ) from error


def kinds_of(
  layers: Sequence[Layer],
  half_space: bool,
  also: Callable[[Layer], Hashable] = lambda layer: None,
) -> list[Kind]:
  """Layers by what they have in common.

  Args:
    layers: in the order of the tree.
    half_space: whether hidden layers have antipodes.
    also: a further thing that the layers of a kind must have in common.
  """
  groups = defaultdict(list)
  for layer in layers:
    leaf, in_half_space = layer.leaf, layer.in_half_space(bool(half_space))
    form = jnp.shape(leaf), jnp.dtype(leaf.dtype), sharding_of(leaf), layer.axes
    groups[form, in_half_space, also(layer)].append(layer)
  return [Kind(tuple(group), half) for (_, half, _), group in groups.items()]


def sharding_of(leaf: Any) -> Hashable:
  """Over which explicit mesh axes an array is sharded, as its type says."""
  return getattr(jax.typeof(leaf), "sharding", None)


def _values_of(
  layers: Sequence[Layer],
  objective: Objective,
  half_space: bool,
  key: jax.Array | None,
) -> dict[str, jax.Array]:
  """An objective of each layer by path, ``[layers of a stack]``."""
  values = {}
  for index, kind in enumerate(kinds_of(layers, half_space)):
    draw = jax.random.fold_in(key, index) if key is not None else None
    neurons = kind.matrices(kind.stack([layer.leaf for layer in kind.layers]))
    with kind.named():
      of_stack = objective(neurons, half_space=kind.in_half_space, key=draw)
    paths = [layer.path for layer in kind.layers]
    values.update(zip(paths, of_stack.reshape(len(paths), -1)))
  return {layer.path: values[layer.path] for layer in layers}


def counted_layers(
  layers: Sequence[Layer], hidden_weight, output_weight
) -> list[Layer]:
  """The layers without those whose weight is a plain 0, which cost nothing."""
  role_weight = {"hidden": hidden_weight, "output": output_weight}
  return [
    layer
    for layer in layers
    if not (is_plain_zero(layer.weight) or is_plain_zero(role_weight[layer.role]))
  ]


def weighted_energy(
  layers: Sequence[Layer], objective, half_space, hidden_weight, output_weight, key
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The sum of :func:`network_energy`, of layers that are selected already.

  Returns:
    The sum, and the terms without their weights: ``{path: energy}``.
  """
  dtype = compute_dtype(*(layer.compute_dtype for layer in layers))
  role_weight = {"hidden": hidden_weight, "output": output_weight}
  layers = counted_layers(layers, hidden_weight, output_weight)
  values = _values_of(layers, objective, half_space, key)
  energies = {path: x.sum() for path, x in values.items()}
  terms = [
    jnp.asarray(role_weight[layer.role], dtype)
    * layer.weight
    * energies[layer.path].astype(dtype)
    for layer in layers
  ]
  return jnp.stack(terms).sum() if terms else jnp.zeros([], dtype), energies
