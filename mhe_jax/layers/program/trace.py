"""A function of parameters, traced and read."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mhe_jax.layers.axes import NeuronAxes
from mhe_jax.layers.names import UnreadableError
from mhe_jax.layers.program.calls import interpret
from mhe_jax.layers.program.uses import Uses
from mhe_jax.layers.program.values import Value, parameter
from mhe_jax.layers.trees import flatten, is_array

Path = tuple[str, ...]


class Reading(NamedTuple):
  """What a program says of a parameter.

  Attributes:
    axes: of its neurons, or why it has none, or why nobody can tell.
    shape: its own.
    is_output: whether an output of the program came through it last.
  """

  axes: NeuronAxes | str | UnreadableError | None
  shape: tuple[int, ...]
  is_output: bool = False


def read_program(
  function: Callable[..., Any],
  params: Any,
  constants: Any,
  inputs: Sequence[Any],
  options: dict[str, Any],
) -> dict[Path, Reading]:
  """What ``function(params, constants, *inputs, **options)`` does with its parameters.

  Args:
    function: traced once; nothing is computed.
    params: a tree of arrays, concrete or abstract; leaves that are no arrays stay.
    constants: a tree of arrays that are neither parameters nor data, such as states.
    inputs: trees of arrays; leaves that are no arrays stay what they are.
    options: likewise.

  Returns:
    Readings by path, of all arrays among the parameters.
  """
  paths, leaves, treedef = flatten(params)
  numbers = [i for i, leaf in enumerate(leaves) if is_array(leaf)]
  others, split = jax.tree.flatten(
    (constants, inputs, options), is_leaf=lambda x: x is None
  )
  num_constants = len(jax.tree.leaves(constants, is_leaf=lambda x: x is None))
  traced = [i for i, leaf in enumerate(others) if is_array(leaf)]

  def flat(arrays, rest):
    whole = [*leaves]
    for i, x in zip(numbers, arrays):
      whole[i] = x
    arguments = [*others]
    for i, x in zip(traced, rest):
      arguments[i] = x
    states, args, kwargs = split.unflatten(arguments)
    out = function(treedef.unflatten(whole), states, *args, **kwargs)
    found = [x for x in jax.tree.leaves(out) if isinstance(x, jax.Array)]
    if not found:
      raise ValueError(
        "function must return an array, or a tree with one, got "
        f"{type(out).__name__}: what it returns tells the output layer."
      )
    return found

  jaxpr = jax.make_jaxpr(flat)(
    [leaves[i] for i in numbers], [others[i] for i in traced]
  )
  uses = Uses()
  shapes = {i: tuple(leaves[i].shape) for i in numbers}
  values = [_parameter(i, leaves[i]) for i in numbers]
  values += [Value(data=i >= num_constants and not _is_key(others[i])) for i in traced]
  outs = interpret(uses, jaxpr, values)
  last = {p for v in outs for found in v.last if len(found) == 1 for p in found}
  return {
    paths[i]: Reading(_axes(uses, i, leaves[i]), shapes[i], i in last - uses.fed)
    for i in numbers
  }


def _axes(uses: Uses, number: int, leaf: Any) -> NeuronAxes | str:
  if len(leaf.shape) < 2:
    return "fewer than two axes"
  if not jnp.issubdtype(leaf.dtype, jnp.floating):
    return f"dtype {leaf.dtype}"
  return uses.reading(number, leaf.shape)


def _parameter(number: int, leaf: Any) -> Value:
  """Vectors have no neurons: that something was made with them is all that counts."""
  if len(leaf.shape) >= 2:
    return parameter(number, leaf.shape)
  return Value() if _is_key(leaf) else Value(sources=frozenset({number}))


def _is_key(leaf: Any) -> bool:
  return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
