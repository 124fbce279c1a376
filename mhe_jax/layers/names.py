"""Where the neurons are, by the names of Flax, the shape, and the bias beside it."""

import re

from mhe_jax.layers.axes import NeuronAxes

_PROJECTIONS = ("query", "key", "value")
# linen's own name for a Dense, whose kernel has two axes: any before are stacks.
_DENSE = re.compile(r"Dense_\d+")
# linen names a lifted module after its transformations: nn.scan(Block) is
# "ScanBlock_0". Each stacks its layers along a leading axis.
_LIFTED = re.compile(r"(?:Checkpoint|Remat)*(Scan|Vmap)(?=[A-Z])")


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
