"""A tensor as stored, and the sets of neurons in it."""

import dataclasses
import math
from typing import Any

import numpy as np

from mhe_jax.layers.axes import NeuronAxes

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
  """

  axes: NeuronAxes
  what: str
  label: str = ""
  view: tuple[int, ...] | None = None
  index: tuple[int | slice, ...] = ()
  role: str = "hidden"

  def matrix_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Shape ``(sets, n, d)`` of :meth:`matrices`, of a tensor of this shape."""
    shape = shape if self.view is None else self.view
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
    if self.view is not None:
      tensor = tensor.reshape(self.view)
    return self.axes.to_matrix(tensor[self.index]).reshape(shape)


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


def dotted(name: str) -> str:
  """A name with dots between its keys, as PyTorch has it."""
  return name.replace("/", ".")


@dataclasses.dataclass(frozen=True)
class Stored:
  """What a table of architectures looks at.

  Attributes:
    shapes: of all tensors, by name with dots between its keys.
    paths: the keys of each of these names.
    config: of ``config.json``.
  """

  shapes: dict[str, tuple[int, ...]]
  paths: dict[str, tuple[str, ...]]
  config: dict[str, Any]

  @classmethod
  def of(cls, shapes: dict[str, tuple[int, ...]], config: dict[str, Any]) -> "Stored":
    """Of shapes by name as stored, with slashes or else dots between its keys."""
    paths = {
      dotted(name): tuple(name.split("/" if "/" in name else ".")) for name in shapes
    }
    return cls({dotted(k): shape for k, shape in shapes.items()}, paths, config)

  def number(self, *names: str) -> int | None:
    """The first of these settings that is a whole number, of the part on attention too.

    Older files call the number of heads otherwise than newer ones.
    """
    attention = self.config.get("attn_config")
    for config in (self.config, attention if isinstance(attention, dict) else {}):
      for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
          return value
    return None

  @property
  def model_type(self) -> str:
    """The family of the model, as ``"phi3"``; empty if nothing says it."""
    return str(self.config.get("model_type", ""))
