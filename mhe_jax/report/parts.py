"""A tensor as stored, and the sets of neurons in it."""

import dataclasses
import math

import numpy as np

from mhe_jax.layers.axes import NeuronAxes

# What excludes that a tensor is read otherwise than it is.
BY_RULE = "rule"
BY_PROGRAM = "program"  # layer_rules of the function that uses it.
BY_CLASS = "class"  # Of the module that holds it.
BY_CONFIG = "config"  # config.json says sizes, heads, or the family.
BY_NEIGHBORS = "neighbors"  # The tensors beside it take what it gives.
BY_NAME = "name"  # One architecture, or every one, means this by the name.
ASSUMED = "assumed"
# What a table of architectures says of an embedding, and a report tells its reader.
TIED = "embedding, a row each, and the output layer"


@dataclasses.dataclass(frozen=True)
class Part:
  """Sets of neurons of a tensor: of a fused one, a part; of others, all of it.

  Attributes:
    axes: of the part.
    what: how the tensor is read, for people.
    label: which part, as "q"; nothing if the tensor is not fused.
    view: a shape that the tensor is given first, which splits its axes.
    index: of the view, the part: whole numbers and slices, for its first axes.
    role: ``"hidden"`` or ``"output"``.
    order: the axes of the tensor in the order that it is read in; first of all.
    evidence: what excludes other readings; :data:`ASSUMED` if nothing does.
  """

  axes: NeuronAxes
  what: str
  label: str = ""
  view: tuple[int, ...] | None = None
  index: tuple[int | slice, ...] = ()
  role: str = "hidden"
  order: tuple[int, ...] | None = None
  evidence: str = ASSUMED

  def matrix_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Shape ``(sets, n, d)`` of :meth:`matrices`, of a tensor of this shape."""
    if self.view is not None:
      shape = self.view
    elif self.order is not None:
      shape = tuple(shape[axis] for axis in self.order)
    sizes: list[int] = []
    for axis, size in enumerate(shape):
      chosen = self.index[axis] if axis < len(self.index) else slice(None)
      if isinstance(chosen, slice):
        sizes.append(len(range(*chosen.indices(size))))
    *sets, n, d = self.axes.matrix_shape(tuple(sizes))
    return math.prod(sets), n, d

  def matrices(self, tensor: np.ndarray) -> np.ndarray:
    """Its neurons ``[sets, n, d]``, of the tensor's dtype."""
    shape = self.matrix_shape(tensor.shape)
    if self.order is not None:
      tensor = tensor.transpose(self.order)
    if self.view is not None:
      tensor = tensor.reshape(self.view)
    matrices = self.axes.to_matrix(tensor[self.index]).reshape(shape)
    return np.ascontiguousarray(matrices)  # Sums in one order, however it is stored.


@dataclasses.dataclass(frozen=True)
class NotNeurons:
  """A tensor that is known not to hold neurons, and why."""

  reason: str


@dataclasses.dataclass(frozen=True)
class Unknown:
  """A tensor that may hold neurons, and why nobody can tell where.

  Attributes:
    reason: for people.
    is_named: whether its name is known, and leaves a choice.
  """

  reason: str
  is_named: bool = True


Reading = tuple[Part, ...] | NotNeurons | Unknown
