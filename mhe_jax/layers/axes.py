"""Which axes of a parameter index neurons."""

import dataclasses
import itertools
import math
import operator
from typing import cast

from mhe_jax.checks import check_count


@dataclasses.dataclass(frozen=True, repr=False)
class NeuronAxes:
  """Which axes of a parameter are neurons, batches of layers, and features.

  Args:
    neurons: axis or axes that index neurons; several are flattened in this order.
    batch: axes that index independent layers, such as the layer axis of
      ``nn.scan`` or ``nnx.vmap`` stacks, or the heads of an attention layer that
      shall be taken head by head. All other axes are features.
    groups: into how many equal, independent sets the flattened neurons fall, one
      after the other: the gates of a recurrent cell, a fused query-key-value
      projection, heads on one axis, the groups of a convolution. Neurons of
      different groups do not repel each other.
    turns: how often the groups take turns along the flattened neurons: 1 where each
      is in one piece, the number of heads where every head holds a part of each
      (queries, keys and values head by head), and so on up to n / groups, where
      neighbors belong to different groups.

  Raises:
    TypeError: an axis is not a whole number.
    ValueError: ``groups`` or ``turns`` is not a whole number >= 1.

  Example:
    >>> import jax.numpy as jnp
    >>> from mhe_jax import LayerRule, NeuronAxes, neuron_matrices
    >>> params = {"qkv": {"kernel": jnp.ones((64, 96))}}
    >>> fused = LayerRule("qkv/kernel", NeuronAxes(-1, groups=3))
    >>> {k: v.shape for k, v in neuron_matrices(params, [fused]).items()}
    {'qkv/kernel': (3, 32, 64)}
    >>> params = {"query": {"kernel": jnp.ones((64, 4, 16))}}
    >>> per_head = LayerRule("query/kernel", NeuronAxes(-1, batch=-2))
    >>> {k: v.shape for k, v in neuron_matrices(params, [per_head]).items()}
    {'query/kernel': (4, 16, 64)}
    >>> params = {"qkv": {"kernel": jnp.ones((64, 96))}}  # 8 heads of q, k and v.
    >>> by_head = LayerRule("qkv/kernel", NeuronAxes(-1, groups=3, turns=8))
    >>> {k: v.shape for k, v in neuron_matrices(params, [by_head]).items()}
    {'qkv/kernel': (3, 32, 64)}
  """

  neurons: tuple[int, ...] | int = (-1,)
  batch: tuple[int, ...] | int = ()
  groups: int = 1
  turns: int = 1

  def __post_init__(self):
    for name in ("neurons", "batch"):
      axes = getattr(self, name)
      axes = (axes,) if hasattr(axes, "__index__") else axes
      try:
        axes = tuple(operator.index(axis) for axis in axes)
      except TypeError as error:
        raise TypeError(f"{name} must be a tuple of axes, got {axes!r}.") from error
      object.__setattr__(self, name, axes)
    for name in ("groups", "turns"):
      object.__setattr__(self, name, check_count(name, getattr(self, name), 1))

  def __repr__(self) -> str:
    def text(axes):
      return repr(axes[0] if len(axes) == 1 else axes)

    batch = f", batch={text(self.batch)}" if self.batch else ""
    groups = f", groups={self.groups}" if self.groups > 1 else ""
    turns = f", turns={self.turns}" if self.turns > 1 else ""
    return f"NeuronAxes({text(self.neurons)}{batch}{groups}{turns})"

  def split(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Non-negative (batch, neuron, feature) axes of an array of this shape.

    Raises:
      ValueError: an axis is out of range or named twice, there are no neuron
        axes, no axis is left for the features, or the neurons do not fall into
        equal groups.
    """
    ndim = len(shape)
    batch, neurons = cast(tuple, self.batch), cast(tuple, self.neurons)
    for axis in batch + neurons:
      if not -ndim <= axis < ndim:
        raise ValueError(f"axis {axis} of {self} is out of range")
    batch = tuple(axis % ndim for axis in batch)
    neurons = tuple(axis % ndim for axis in neurons)
    if len(set(batch + neurons)) < len(batch + neurons):
      raise ValueError(f"{self} names an axis twice")
    features = tuple(a for a in range(ndim) if a not in batch + neurons)
    if not neurons:
      raise ValueError(f"{self} names no axis of neurons")
    if not features:
      raise ValueError(f"{self} leaves no axis for the features")
    num_neurons = math.prod(shape[a] for a in neurons)
    if num_neurons % (self.groups * self.turns):
      turns = f" in {self.turns} turns" if self.turns > 1 else ""
      raise ValueError(
        f"{num_neurons} neurons do not fall into {self.groups} equal groups{turns}"
      )
    return batch, neurons, features

  def matrix_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape ``[*batch, n, d]`` that :meth:`to_matrix` gives."""
    batch, neurons, features = self.split(shape)
    num_neurons = math.prod(shape[a] for a in neurons)
    return (
      *(shape[a] for a in batch),
      *((self.groups,) if self.groups > 1 else ()),
      num_neurons // self.groups,
      math.prod(shape[a] for a in features),
    )

  def to_matrix(self, x):
    """``x`` as ``[*batch, n, d]``, one neuron per row.

    Groups, if there is more than one, are a last axis of the batch.
    """
    batch, neurons, features = self.split(x.shape)
    shape = self.matrix_shape(x.shape)
    x = x.transpose(batch + neurons + features)
    if self.groups > 1 and self.turns > 1:
      *stack, groups, n, d = shape
      x = x.reshape(*stack, self.turns, groups, n // self.turns, d)
      x = x.swapaxes(-4, -3)
    return x.reshape(shape)

  def stacked(self, ndim: int, stack: tuple[int, ...], num_axes: int) -> "NeuronAxes":
    """These axes of one layer, of ``ndim`` axes, in a stack of such layers.

    Args:
      ndim: number of axes of a layer.
      stack: axes of the stack that index layers.
      num_axes: number of axes of the stack.
    """
    places = [a for a in range(num_axes) if a not in stack]
    move = lambda axes: tuple(places[a % ndim] for a in axes)  # noqa: E731
    neurons = tuple(a - num_axes for a in move(cast(tuple, self.neurons)))
    batch = stack + move(cast(tuple, self.batch))
    return NeuronAxes(neurons, batch, self.groups, self.turns)


def stack_axes(layer: tuple[int, ...], stack: tuple[int, ...]) -> list[tuple[int, ...]]:
  """All choices of axes of a stack that index layers of the given shape.

  >>> stack_axes((8, 2, 4), (8, 3, 2, 4))
  [(1,)]
  >>> stack_axes((3, 5), (3, 3, 5))
  [(0,), (1,)]
  """
  axes = range(len(stack))
  return [
    chosen
    for chosen in itertools.combinations(axes, max(0, len(stack) - len(layer)))
    if tuple(stack[a] for a in axes if a not in chosen) == tuple(layer)
  ]
