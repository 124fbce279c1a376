"""Where the neurons are in the parameters of Flax's own modules.

Flax names its weights ``kernel`` and ``embedding``. From the name, the shape and,
where there is one, the bias beside it (which has one entry per neuron) a layout
follows; for an nnx module passed directly its class says the rest.
"""

import dataclasses
import math
import operator
import re
import sys
from typing import cast

_PROJECTIONS = ("query", "key", "value")
# linen's own name for a Dense, whose kernel has two axes: any before are stacks.
_DENSE = re.compile(r"Dense_\d+")
# linen names a lifted module after its transformations: nn.scan(Block) is
# "ScanBlock_0". Each stacks its layers along a leading axis.
_LIFTED = re.compile(r"(?:Checkpoint|Remat)*(Scan|Vmap)(?=[A-Z])")


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


def layout_from_names(
  path: tuple[str, ...],
  shape: tuple[int, ...],
  bias_shape: tuple[int, ...] | None,
) -> NeuronAxes | str:
  """The neuron axes of a Flax parameter, or the reason why it has none.

  Args:
    path: keys from the root to the parameter.
    shape: its shape.
    bias_shape: shape of the ``bias`` beside it, if there is one.

  Raises:
    ValueError: two readings fit the shape of the bias, or none does.
  """
  if not path or path[-1] not in ("kernel", "embedding"):
    return "not a weight of Flax's modules; give a rule if it has neurons"
  if len(shape) < 2:
    return "fewer than two axes"
  if path[-1] == "embedding":
    return NeuronAxes(-2, tuple(range(len(shape) - 2)))
  is_projection = path[-2:-1] and path[-2] in _PROJECTIONS
  if bias_shape:
    readings = _readings_of_bias(shape, bias_shape)
    if len(readings) > 1 and is_projection:
      # Attention maps one input axis to (heads, head_dim).
      readings = [axes for axes in readings if len(axes.neurons) == 2]
    if len(readings) > 1:
      stacks = [a for a in readings if len(a.batch) == _count_lifted(path)]
      readings = stacks if _count_lifted(path) else readings
    if len(readings) > 1:
      raise ValueError(
        f"shape {shape} with a bias of shape {bias_shape} can be read as "
        f"{' or '.join(map(str, readings))}; say which with a LayerRule"
      )
    if readings:
      return readings[0]
    raise ValueError(
      f"no reading of shape {shape} fits its bias of shape {bias_shape}; say which "
      "axes are neurons with a LayerRule"
    )
  num_stacked = min(_count_lifted(path), len(shape) - 2)
  if len(path) > 1 and _DENSE.fullmatch(path[-2]):
    num_stacked = len(shape) - 2
  if is_projection and len(shape) >= 3:
    # Without a bias only the rank tells a stack of projections.
    return NeuronAxes((-2, -1), tuple(range(len(shape) - 3)))
  return NeuronAxes(-1, tuple(range(num_stacked)))


def _readings_of_bias(shape, bias_shape):
  """All layouts in which the bias has one entry per neuron (and layer)."""
  readings = []
  for k in range(len(bias_shape)):  # k leading axes are layers of a stack.
    out = bias_shape[k:]
    if shape[:k] != bias_shape[:k] or len(shape) - k - len(out) < 1:
      continue
    if shape[-len(out) :] == out:
      readings.append(NeuronAxes(tuple(range(-len(out), 0)), tuple(range(k))))
    elif len(out) == 1 and len(shape) - k >= 3 and shape[-2:-1] == out:
      # ConvTranspose(transpose_kernel=True) keeps its kernel as (..., out, in).
      readings.append(NeuronAxes(-2, tuple(range(k))))
  return readings


def _count_lifted(path):
  count = 0
  for name in path:
    start = 0
    while match := _LIFTED.match(name, start):
      count, start = count + 1, match.end()
  return count


def is_nnx_module(x) -> bool:
  """Whether x is an nnx module; does not import Flax for those without it."""
  nnx = sys.modules.get("flax.nnx")
  return nnx is not None and isinstance(x, nnx.Module)


def layouts_of_module(module) -> dict[tuple[str, ...], NeuronAxes]:
  """Neuron axes by path for the weights of an nnx module whose class says them.

  Axes beyond the rank that the class implies lead, and are stacked layers.
  """
  from flax import nnx  # noqa: PLC0415

  layouts = {}
  for path, layer in nnx.iter_modules(module):
    if not isinstance(
      layer, (nnx.Linear, nnx.LinearGeneral, nnx.Conv, nnx.ConvTranspose)
    ):
      continue
    neurons, rank = (-1,), 2
    if isinstance(layer, nnx.LinearGeneral):
      num_out = len(layer.out_features)
      neurons = tuple(range(-num_out, 0))
      rank = len(layer.axis) + num_out
    elif isinstance(layer, (nnx.Conv, nnx.ConvTranspose)):
      size = layer.kernel_size
      rank = (1 if isinstance(size, int) else len(size)) + 2
      if isinstance(layer, nnx.ConvTranspose) and layer.transpose_kernel:
        neurons = (-2,)
    num_stacked = layer.kernel.ndim - rank
    layouts[*map(str, path), "kernel"] = NeuronAxes(neurons, tuple(range(num_stacked)))
  return layouts
