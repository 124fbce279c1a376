"""Where the neurons are, by the class of the module that owns the parameter."""

import dataclasses
from collections.abc import Iterable, Mapping

from mhe_jax.layers.axes import NeuronAxes, stack_axes
from mhe_jax.layers.names import (
  DEPTHWISE,
  POSITIONS,
  UnreadableError,
  guesses,
  is_position_table,
)

Path = tuple[str, ...]
# What a parameter is: its axes, or why it has no neurons, or why nobody can tell.
Reading = NeuronAxes | str | UnreadableError


@dataclasses.dataclass(frozen=True)
class Known:
  """A parameter whose module is known.

  Attributes:
    path: keys from the root to it.
    shape: that it has in one layer, without the axes of stacks.
    axes: of this shape, or the reason why it has no neurons, or why nobody can tell.
  """

  path: Path
  shape: tuple[int, ...]
  axes: Reading


def readings_of(
  known: Iterable[Known], shapes: Mapping[Path, tuple[int, ...]]
) -> dict[Path, Reading]:
  """Readings of the parameters of a tree, whatever they are stacked along.

  Which axes index layers follows from the two shapes, of one layer and of the tree.
  Where equal sizes leave a choice, the other parameters decide, if they agree.
  """
  readings: dict[Path, Reading] = {}
  open_, settled = [], []
  for param in known:
    shape = shapes.get(param.path)
    if shape is None:
      continue
    if not isinstance(param.axes, NeuronAxes):
      readings[param.path] = param.axes
      continue
    stacks = stack_axes(param.shape, shape)
    if len(stacks) == 1:
      settled.append((param.path, _sizes(shape, stacks[0]), stacks[0]))
      readings[param.path] = _stacked(param, stacks[0], shape)
    elif stacks:
      open_.append((param, shape, stacks))
    else:
      readings[param.path] = UnreadableError(
        f"of shape {param.shape} by its class", *guesses(shape)
      )
  for param, shape, stacks in open_:
    agreed = [a for a in stacks if _nearest(param, shape, a, settled) == {a}]
    if len(agreed) == 1:
      readings[param.path] = _stacked(param, agreed[0], shape)
    else:
      readings[param.path] = UnreadableError(
        f"a stack of layers of shape {param.shape}",
        *(_stacked(param, stack, shape) for stack in stacks),
      )
  return readings


def _nearest(param, shape, stack, settled):
  """Axes of the stacks of these sizes in the smallest subtree that has one.

  Not in the whole tree: there, two stacks of as many layers may differ.
  """
  for end in range(len(param.path) - 1, 0, -1):
    found = {
      axes
      for path, sizes, axes in settled
      if path[:end] == param.path[:end] and sizes == _sizes(shape, stack)
    }
    if found:
      return found
  return set()


def _sizes(shape, stack):
  return tuple(shape[a] for a in stack)


def _stacked(param, stack, shape):
  return param.axes.stacked(len(param.shape), stack, len(shape))


def dense(path: Path, shape: tuple[int, ...], *, neurons: int = -1) -> Known:
  """Of a dense layer, of two axes; a subclass may have others."""
  if len(shape) != 2:
    return Known(path, shape, UnreadableError("a dense layer", *guesses(shape)))
  return Known(path, shape, NeuronAxes(neurons))


def convolution(
  path: Path, shape: tuple[int, ...], groups: int, *, neurons: int = -1, inputs: int
) -> Known:
  """Of a convolution; its groups see different inputs, and are sets of their own."""
  if groups > 1 and shape[inputs] == 1:
    return Known(path, shape, DEPTHWISE)
  return Known(path, shape, NeuronAxes(neurons, groups=groups))


def embedding(path: Path, shape: tuple[int, ...]) -> Known:
  """Of a table of embeddings, a row each, unless its module's name says otherwise."""
  module = path[-2] if len(path) > 1 else ""
  axes = POSITIONS if is_position_table(module) else NeuronAxes(-2)
  return Known(path, shape, axes)


def einsum(path: Path, shape: tuple[int, ...], subscripts: str) -> Known:
  """Of ``jnp.einsum(subscripts, x, kernel)``.

  What the kernel shares with the output alone indexes neurons, what it shares with
  both indexes independent layers, and the rest is summed over: features.
  """
  operands, _, out = subscripts.replace(" ", "").replace("...", "").partition("->")
  inputs, _, kernel = operands.partition(",")
  neurons = tuple(i for i, x in enumerate(kernel) if x in out and x not in inputs)
  batch = tuple(i for i, x in enumerate(kernel) if x in out and x in inputs)
  is_plain = kernel.isalpha() and len(kernel) == len(shape)
  if not is_plain or not neurons or len(neurons) + len(batch) == len(kernel):
    error = UnreadableError(f"an einsum {subscripts!r}", *guesses(shape))
    return Known(path, shape, error)
  negative = tuple(i - len(kernel) for i in neurons)
  return Known(path, shape, NeuronAxes(negative, batch))


def add_gates(param: Known, gates: int) -> Known:
  """The same parameter, of which the class of a cell says that it holds all gates."""
  if not isinstance(param.axes, NeuronAxes):
    return param
  axes = dataclasses.replace(param.axes, groups=gates)
  return dataclasses.replace(param, axes=axes)
