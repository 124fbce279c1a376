"""The axes of rules as the dimension numbers of Muon."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from optax import contrib

from mhe_jax.layers.rules import LayerRule, check_rules
from mhe_jax.layers.select import select
from mhe_jax.layers.trees import flatten


def muon_dimension_numbers(
  rules: Sequence[LayerRule], *, exclude: str = ""
) -> Callable[[Any], Any]:
  """Rules as the ``muon_weight_dimension_numbers`` of :func:`optax.contrib.muon`.

  Muon orthogonalizes the update of each matrix, and must be told which axes of a
  parameter are summed over, and which are outputs: features and neurons. Axes that run
  along sets (``NeuronAxes.batch``) are its batch axes. Groups are not divided: Muon
  takes fused queries, keys and values as one matrix. Output layers, what is skipped,
  and vectors get None: Muon leaves them to Adam.

  Args:
    rules: of :func:`mhe_jax.layer_rules`, or your own.
    exclude: a regular expression; what matches the whole path goes to Adam, too, such
      as an embedding table that is not the output layer.

  Returns:
    A function of a tree of parameters, which gives a tree of
    ``optax.contrib.MuonDimensionNumbers`` and None.

  Raises:
    TypeError: ``rules`` are no rules.
    ValueError: ``exclude`` is no regular expression; and, from the function that is
      returned, what :func:`mhe_jax.neuron_matrices` raises.

  Example:
    >>> import jax.numpy as jnp, optax
    >>> from mhe_jax import layer_rules, muon_dimension_numbers
    >>> def apply(params, x):
    ...   return jnp.einsum("bf,hdf->bhd", x, params["q"]).sum(1) @ params["head"]
    >>> params = {"q": jnp.ones((4, 8, 16)), "head": jnp.ones((8, 3))}
    >>> rules = layer_rules(apply, params, jnp.ones((2, 16)))
    >>> numbers = muon_dimension_numbers(rules)
    >>> numbers(params)["q"]
    MuonDimensionNumbers(reduction_axis=(2,), output_axis=(0, 1))
    >>> tx = optax.contrib.muon(0.02, muon_weight_dimension_numbers=numbers)

  References:
    Jordan, `Muon: An optimizer for hidden layers in neural networks
    <https://kellerjordan.github.io/posts/muon/>`_, 2024.
  """
  rules = check_rules(rules)
  try:
    excluded = re.compile(exclude)
  except re.error as error:
    raise ValueError(
      f"exclude {exclude!r} is no regular expression: {error}."
    ) from None

  def numbers(params):
    _, leaves, treedef = flatten(params)
    found: list[Any] = [None] * len(leaves)
    for layer in select(params, rules).layers:
      if layer.role == "hidden" and not (exclude and excluded.fullmatch(layer.path)):
        _, neurons, features = layer.axes.split(tuple(layer.leaf.shape))
        found[layer.index] = contrib.MuonDimensionNumbers(features, neurons)
    return treedef.unflatten(found)

  return numbers
