"""The hyperspherical energy of a whole network."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mhe_jax.arrays import compute_dtype
from mhe_jax.checks import check_weight, is_plain_zero
from mhe_jax.energy import hyperspherical_energy
from mhe_jax.layers.rules import LayerRule
from mhe_jax.layers.select import Layer, select, warn_of_unread
from mhe_jax.potentials.base import Potential, check_potential
from mhe_jax.potentials.riesz import Riesz


def layer_energies(
  params: Any,
  potential: Potential = Riesz(1.0),
  *,
  half_space: bool = True,
  rules: Sequence[LayerRule] | None = None,
) -> dict[str, jax.Array]:
  """Mean pair energy of every layer.

  Args:
    params: any tree of parameters; see :func:`mhe_jax.neuron_matrices`.
    potential: the pair potential.
    half_space: use the half-space energy for hidden layers; output layers
      always use full space.
    rules: which layers are output layers, are skipped, or have their neurons
      on other axes; see :class:`LayerRule`.

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
  layers = select(params, rules).layers
  return energies_of(layers, potential, half_space)


def network_energy(
  params: Any,
  potential: Potential = Riesz(1.0),
  *,
  half_space: bool = True,
  hidden_weight: jax.typing.ArrayLike = 1.0,
  output_weight: jax.typing.ArrayLike = 1.0,
  rules: Sequence[LayerRule] | None = None,
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
    potential: the pair potential.
    half_space: use the half-space energy for hidden layers.
    hidden_weight: weight of the hidden layers, a real scalar, traced or not. Layers
      whose weight is 0, as a plain number or that of their rule, are not evaluated:
      they cost nothing, and a NaN in them does not show.
    output_weight: weight of the output layers, likewise.
    rules: see :class:`LayerRule`.

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
    ...   return data_loss + 0.1 * network_energy(params, Riesz(2.0), rules=rules)
    >>> value, grads = jax.value_and_grad(loss)(params)
    >>> round(float(value), 5)
    0.09643

  References:
    Liu et al., `Learning towards Minimum Hyperspherical Energy
    <https://arxiv.org/abs/1805.09298>`_, NeurIPS 2018, section 3.5.
  """
  check_weight("hidden_weight", hidden_weight)
  check_weight("output_weight", output_weight)
  selection = select(params, rules)
  warn_of_unread(selection)
  layers = selection.layers
  return weighted_energy(layers, potential, half_space, hidden_weight, output_weight)


def energies_of(
  layers: Sequence[Layer], potential: Potential, half_space: bool
) -> dict[str, jax.Array]:
  """Energies of layers by path.

  Layers of one shape, dtype and kind of space are stacked and evaluated at once,
  so that a deep network has as many evaluations as it has kinds of layers.
  """
  check_potential(potential)
  groups = defaultdict(list)
  for layer in layers:
    matrix = layer.matrix()
    uses_half_space = bool(half_space) and layer.role == "hidden"
    groups[matrix.shape, matrix.dtype, uses_half_space].append((layer.path, matrix))
  energies = {}
  for (_, _, uses_half_space), members in groups.items():
    paths, matrices = [path for path, _ in members], [w for _, w in members]
    # An axis of one layer would keep XLA on CPU from using more than one thread.
    stack = jnp.stack(matrices) if len(matrices) > 1 else matrices[0]
    values = hyperspherical_energy(stack, potential, half_space=uses_half_space)
    energies.update(zip(paths, values.reshape(len(paths), -1).sum(1)))
  return {layer.path: energies[layer.path] for layer in layers}


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
  layers: Sequence[Layer], potential, half_space, hidden_weight, output_weight
) -> jax.Array:
  """The sum of :func:`network_energy`, of layers that are selected already."""
  dtype = compute_dtype(*(layer.compute_dtype for layer in layers))
  role_weight = {"hidden": hidden_weight, "output": output_weight}
  layers = counted_layers(layers, hidden_weight, output_weight)
  energies = energies_of(layers, potential, half_space)
  terms = [
    jnp.asarray(role_weight[layer.role], dtype)
    * layer.weight
    * energies[layer.path].astype(dtype)
    for layer in layers
  ]
  return jnp.stack(terms).sum() if terms else jnp.zeros([], dtype)
