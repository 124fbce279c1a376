"""Where the neurons are, by name: what a tree without its modules says of itself.

Flax names its weights ``kernel`` and ``embedding``. A layout follows from the names
of parameter and module, and from the bias beside a kernel, which has one entry per
neuron (and layer), where they leave no choice; from shapes alone it does not.
docs/layers.md has the table of what is read.
"""

import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping
from typing import cast

from mhe_jax.layers.axes import NeuronAxes

Shapes = Mapping[tuple[str, ...], tuple[int, ...]]

# What Flax calls its weights, and what is beside them.
WEIGHTS = ("kernel", "embedding", "lora_a", "lora_b")
NOT_NEURONS = ("bias", "scale")

UNKNOWN = "not a weight of Flax's modules; give a rule if it has neurons"
DEPTHWISE = "a depthwise convolution, filters of single channels, not neurons"
POSITIONS = "a table of positions, not neurons"
# As words of a name, in snake_case or CamelCase; relative ones anywhere.
_POSITIONS = re.compile(
  r"(?<![A-Za-z])(wpe|pos(emb(ed)?|itions?|itional)?)(?![a-z])"
  r"|(?<![A-Z])Pos(emb(ed)?|itions?|itional)?(?![a-z])"
  r"|(?i:rel(ative)?_?(pos|attention))"
)
_DEPTHWISE = re.compile(r"depthwise|dw_?conv", re.IGNORECASE)
_PROJECTIONS = ("query", "key", "value")
_DENSE = re.compile(r"(Dense|DenseGeneral|Einsum)_\d+")
_CONV = re.compile(r"conv", re.IGNORECASE)
# Whose kernels may be (..., out, in), or of which each place has its own.
_OTHER_CONV = re.compile(
  r"transpos|deconv|convlocal|^up(sampl(e|ing))?_?\d*$", re.IGNORECASE
)
# Of convolutions that exist; 6, 8 and 10 are rather numbers of layers or heads.
_WINDOWS = (1, 2, 3, 4, 5, 7, 9, 11)
# linen names a lifted module after its transformations: nn.scan(Block) is
# "ScanBlock_0". Each stacks its layers, along a leading axis if nothing else is said.
_LIFTED = re.compile(r"(?:Checkpoint|Remat)*(Scan|Vmap)(?=[A-Z])")


class UnreadableError(ValueError):
  """Names, shape and bias of a parameter allow several readings, or none.

  Attributes:
    candidates: readings that a rule could choose.
  """

  def __init__(self, reason: str, *candidates: NeuronAxes):
    super().__init__(reason)
    self.candidates = tuple(dict.fromkeys(candidates))


def layout_from_names(
  path: tuple[str, ...],
  shapes: Shapes,
  masked: Collection[tuple[str, ...]] = (),
) -> NeuronAxes | str:
  """The neuron axes of a Flax parameter, or the reason why it has none.

  Args:
    path: keys from the root to the parameter.
    shapes: of all parameters of the tree, by path.
    masked: paths of parameters that the tree has, but not here.

  Raises:
    UnreadableError: there is a choice, or nothing fits.
  """
  shape, module = shapes[path], _name_of_module(path)
  if len(shape) < 2:
    return "fewer than two axes"
  if not path or path[-1] not in WEIGHTS:
    return UNKNOWN
  if path[-1] == "kernel":
    if len(shape) > 2 and shape[-2] == 1 and _DEPTHWISE.search(_name_of_module(path)):
      return DEPTHWISE
    bias = shapes.get((*path[:-1], "bias"))
    if bias:
      axes = _read_beside_bias(path, shapes, bias)
    else:
      axes = _read_alone(path, shapes, (*path[:-1], "bias") in masked)
    return dataclasses.replace(axes, groups=_num_gates(path, shapes, masked))
  if is_position_table(module):
    return POSITIONS
  neurons = -2 if path[-1] == "embedding" else -1
  num_stacked = len(shape) - 2
  if num_stacked and _leading_stacks(path, shapes) != num_stacked:
    stacks = (NeuronAxes(neurons, tuple(range(num_stacked))), NeuronAxes(-1, -2))
    raise UnreadableError(f"{len(shape)} axes", *stacks)
  return NeuronAxes(neurons, tuple(range(num_stacked)))


def is_position_table(module: str) -> bool:
  """Whether an embedding in a module of this name is of positions.

  Neighbors are alike there because they are neighbors, and nothing else is told.
  """
  return _POSITIONS.search(module) is not None


def _read_beside_bias(path, shapes, bias) -> NeuronAxes:
  shape, module = shapes[path], _name_of_module(path)
  readings, others = _readings_of_bias(shape, bias), [*_other_stacks(shape, bias)]
  num_lifted = _count_lifted(path)
  if readings or num_lifted:  # Or nothing tells that there is a stack.
    readings += others
  if module in _PROJECTIONS:  # Attention maps one input axis to (heads, head_dim).
    heads = [axes for axes in readings if len(cast(tuple, axes.neurons)) == 2]
    readings = heads or readings
  if num_lifted and len(bias) > 1:
    stacks = [a for a in readings if len(cast(tuple, a.batch)) == num_lifted]
    readings = stacks or readings
  if _keeps_out_last(module, shape) or _is_attention(path, shapes, has_bias=True):
    plain = [axes for axes in readings if axes.neurons != (-2,)]
    readings = plain or readings
  what = f"a bias of shape {bias}"
  if len(shape) == 2:
    rows = NeuronAxes(0)
    if not readings:
      raise UnreadableError(f"{what} that fits no reading of Flax", rows)
    if shape[0] == shape[1] and _has_transposed(shapes):
      raise UnreadableError(
        f"{what}, in a tree with kernels of (out, in)", rows, NeuronAxes(-1)
      )
  if not readings:
    some = others or guesses(shape)
    raise UnreadableError(f"{what} that fits no reading of Flax", *some)
  if len(readings) > 1:
    raise UnreadableError(what, *readings)
  return readings[0]


def _readings_of_bias(shape, bias):
  """All layouts in which the bias has one entry per neuron (and layer)."""
  readings = []
  for k in range(len(bias)):  # k leading axes are layers of a stack.
    out, stack = bias[k:], tuple(range(k))
    if shape[:k] != bias[:k] or len(shape) - k - len(out) < 1:
      continue
    if shape[-len(out) :] == out:
      readings.append(NeuronAxes(tuple(range(-len(out), 0)), stack))
    if len(out) == 1 and len(shape) - k >= 3 and shape[-2:-1] == out:
      # ConvTranspose(transpose_kernel=True) keeps its kernel as (..., out, in).
      readings.append(NeuronAxes(-2, stack))
  return readings


def _other_stacks(shape, bias):
  """Layouts of stacks along another axis than the first, in kernel and bias."""
  for axis in range(1, len(bias)):
    layer, out = shape[:axis] + shape[axis + 1 :], bias[:axis] + bias[axis + 1 :]
    fits = shape[axis] == bias[axis] and layer[-len(out) :] == out
    if fits and len(layer) > len(out):
      neurons = NeuronAxes(tuple(range(-len(out), 0)))
      yield neurons.stacked(len(layer), (axis,), len(shape))


def _read_alone(path, shapes, is_masked) -> NeuronAxes:
  shape, module = shapes[path], _name_of_module(path)
  num_stacked = _leading_stacks(path, shapes)
  layer, stack = shape[num_stacked:], tuple(range(num_stacked))
  if _is_attention(path, shapes):
    stack = tuple(range(len(shape) - 3))
    return NeuronAxes(-1 if module == "out" else (-2, -1), stack)
  is_conv = bool(_CONV.search(module)) and not _OTHER_CONV.search(module)
  if len(layer) == 2:  # Kernels of convolutions have more axes: here none is a stack.
    certain = not (num_stacked and is_conv)
  else:
    window = layer[:-2]
    while window[:1] == (1,):  # A stack of one, or a window of one: the same neurons.
      window = window[1:]
    # Without the name of a convolution, windows could be layers of experts; with it,
    # unequal ones a stack of convolutions of one dimension, and three one of two.
    is_stack = num_stacked and _is_window(shape)
    is_plain = len(window) == 1 or (len(window) == 2 and window[0] == window[1])
    certain = is_conv and is_plain and not is_stack
    certain |= not window and not _OTHER_CONV.search(module)
  if certain:
    return NeuronAxes(-1, stack)
  what = "a bias that is masked" if is_masked else "no bias"
  raise UnreadableError(what, *guesses(shape))


def guesses(shape: tuple[int, ...]) -> Iterator[NeuronAxes]:
  """What kernels of so many axes are in modules that exist."""
  yield NeuronAxes(-1)
  if len(shape) == 2:
    yield NeuronAxes(0)
    return
  yield NeuronAxes((-2, -1))
  yield NeuronAxes(-1, batch=0)
  if len(shape) == 3:
    yield NeuronAxes(-1, batch=1)
  yield NeuronAxes(-2)
  if len(shape) > 3:
    yield NeuronAxes((-2, -1), batch=0)


def _is_window(shape):
  """Whether it begins as the windows of two or three dimensions do."""
  window = shape[:-2]
  return len(window) in (2, 3) and len({*window}) == 1 and window[0] in _WINDOWS


def _keeps_out_last(module, shape):
  if _OTHER_CONV.search(module):
    return False
  return _CONV.search(module) or _DENSE.fullmatch(module) or _is_window(shape)


def _is_attention(path, shapes, has_bias=False) -> bool:
  """Whether query, key, value and out beside each other can only be attention's.

  Their kernels are (in, heads, head_dim) and (heads, head_dim, out), perhaps stacked;
  where the inputs are as many as the heads, and no bias says otherwise, they could
  also be stacks of dense layers.
  """
  if len(path) < 2 or path[-2] not in (*_PROJECTIONS, "out"):
    return False
  kernels = [shapes.get((*path[:-2], name, "kernel")) for name in _PROJECTIONS]
  out = shapes.get((*path[:-2], "out", "kernel"))
  if out is None or None in kernels or {len(k) for k in kernels} != {len(out)}:
    return False
  k = len(out) - 3
  return k >= 0 and all(
    x[:k] == out[:k]
    and x[-2:] == out[k : k + 2]
    and (has_bias or k > 0 or x[k] != out[k])
    for x in kernels
  )


def _num_gates(path, shapes, masked) -> int:
  """How many gates the kernels of nnx's recurrent cells hold: (in, gates * hidden)."""
  if len(path) < 2 or path[-2] not in ("dense_i", "dense_h"):
    return 1
  if {(*path[:-2], name, "kernel") for name in ("dense_i", "dense_h")} & {*masked}:
    gates = (NeuronAxes(-1, groups=k) for k in (1, 3, 4))
    raise UnreadableError("perhaps a cell's gates, the other part masked", *gates)
  inputs, hidden = (
    shapes.get((*path[:-2], name, "kernel"), ()) for name in ("dense_i", "dense_h")
  )
  if len(hidden) < 2 or not inputs or inputs[-1] != hidden[-1]:
    return 1
  gates = hidden[-1] // max(hidden[-2], 1)
  return gates if gates in (3, 4) and gates * hidden[-2] == hidden[-1] else 1


def _has_transposed(shapes) -> bool:
  """Whether a bias says of some kernel that it is (out, in), as GPT-2's are."""
  return any(
    path[-1:] == ("kernel",)
    and len(shape) == 2
    and shape[0] != shape[1]
    and shapes.get((*path[:-1], "bias")) == shape[:1]
    for path, shape in shapes.items()
  )


def _leading_stacks(path, shapes) -> int:
  """Number of leading axes that lifted modules above stack their layers along.

  Raises:
    UnreadableError: a lifted module's parameters do not begin with equal sizes, so
      that its layers are along another axis, or there are none; or they agree in the
      sizes of another axis, too.
  """
  shape, num_stacked = shapes[path], 0
  for end, name in enumerate(path, 1):
    for _ in range(_count_lifted((name,))):
      if len(shape) - num_stacked <= 2:
        return num_stacked  # Parameters that all layers share.
      inside = {p: s[num_stacked:] for p, s in shapes.items() if p[:end] == path[:end]}
      common = {
        axis
        for axis in range(min(map(len, inside.values())))
        if len({s[axis] for s in inside.values()}) == 1
      }
      leading = range(min(map(_count_lifted, inside)) - num_stacked)
      # Of one kernel alone the convention of linen tells, of several that agree.
      if 0 not in common or (len(inside) > 1 and common - {*leading}):
        stacks = (NeuronAxes(-1, batch=a) for a in range(len(shape) - 1))
        raise UnreadableError(f"layers of {name!r} perhaps along another axis", *stacks)
      num_stacked += 1
  return num_stacked


def _count_lifted(path):
  count = 0
  for name in path:
    start = 0
    while match := _LIFTED.match(name, start):
      count, start = count + 1, match.end()
  return count


def _name_of_module(path) -> str:
  """Name of the module of a parameter; of the list that it is in, if it has none."""
  names = [name for name in path[:-1] if not name.isdigit()]
  return names[-1] if names else ""
