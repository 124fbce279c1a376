"""Which axes of a parameter index neurons."""

import dataclasses
import math
import operator
from typing import cast


@dataclasses.dataclass(frozen=True)
class NeuronAxes:
  """Which axes of a parameter are neurons, batches of layers, and features.

  Args:
    neurons: axis or axes that index neurons; several are flattened in this order.
    batch: axes that index independent layers, such as the layer axis of
      ``nn.scan`` or ``nnx.vmap`` stacks, or the heads of an attention layer that
      shall be taken head by head. All other axes are features.

  Raises:
    TypeError: an axis is not a whole number.

  Example:
    >>> import jax.numpy as jnp
    >>> from mhe_jax import LayerRule, NeuronAxes, neuron_matrices
    >>> params = {"attention": {"query": {"kernel": jnp.ones((64, 4, 16))}}}
    >>> {k: v.shape for k, v in neuron_matrices(params).items()}
    {'attention/query/kernel': (64, 64)}
    >>> per_head = LayerRule(r".*/query/kernel", NeuronAxes(-1, batch=-2))
    >>> {k: v.shape for k, v in neuron_matrices(params, [per_head]).items()}
    {'attention/query/kernel': (4, 16, 64)}
  """

  neurons: tuple[int, ...] | int = (-1,)
  batch: tuple[int, ...] | int = ()

  def __post_init__(self):
    for name in ("neurons", "batch"):
      axes = getattr(self, name)
      axes = (axes,) if hasattr(axes, "__index__") else axes
      try:
        axes = tuple(operator.index(axis) for axis in axes)
      except TypeError as error:
        raise TypeError(f"{name} must be a tuple of axes, got {axes!r}.") from error
      object.__setattr__(self, name, axes)

  def split(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Non-negative (batch, neuron, feature) axes of an array of this shape.

    Raises:
      ValueError: an axis is out of range or named twice, there are no neuron
        axes, or no axis is left for the features.
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
    return batch, neurons, features

  def matrix_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape ``[*batch, n, d]`` that :meth:`to_matrix` gives."""
    batch, neurons, features = self.split(shape)
    return (
      *(shape[a] for a in batch),
      math.prod(shape[a] for a in neurons),
      math.prod(shape[a] for a in features),
    )

  def to_matrix(self, x):
    """``x`` as ``[*batch, n, d]``, one neuron per row."""
    batch, neurons, features = self.split(x.shape)
    shape = self.matrix_shape(x.shape)
    return x.transpose(batch + neurons + features).reshape(shape)
