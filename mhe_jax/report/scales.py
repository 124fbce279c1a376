"""8-bit floats: what is beside them says whether their bytes are the directions."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes

from mhe_jax.layers.axes import NeuronAxes
from mhe_jax.report.parts import Part, Reading, Unknown
from mhe_jax.report.readers.base import Tensor

# Scales of what enters or leaves a layer are not of its weight.
_OF_WEIGHTS = re.compile(
  r"(?!.*(input|output|act|bias|kv?_scale|k_scale|v_scale))(.*scale.*)", re.IGNORECASE
)
_BLOCKS = (
  "8-bit floats with a scale for each block, which change directions; convert it to "
  "bfloat16"
)


@dataclasses.dataclass(frozen=True)
class Scales:
  """Of the quantized tensors of a checkpoint.

  Attributes:
    shapes: of the scales of each module.
    announced: what ``config.json`` says of the quantization.
  """

  shapes: Mapping[str, Sequence[tuple[int, ...]]]
  announced: Any

  @classmethod
  def read(cls, checkpoint) -> "Scales":
    """Of all tensors that are called so, or hold powers of two."""
    shapes: dict[str, list[tuple[int, ...]]] = {}
    for tensor in checkpoint.tensors:
      module, key = _split(tensor.name)
      if _OF_WEIGHTS.fullmatch(key) or tensor.dtype == ml_dtypes.float8_e8m0fnu:
        shapes.setdefault(module, []).append(tensor.shape)
        # As weight.scale_inv, below the name of the weight.
        shapes.setdefault(_split(module)[0], []).append(tensor.shape)
    config = checkpoint.config
    announced = config.get("quantization_config") or config.get("quantization")
    return cls(shapes, announced)

  def check(self, tensor: Tensor, reading: tuple[Part, ...]) -> Reading:
    """A tensor of 8-bit floats, unless its scales change directions.

    One for all, or for a row, does not. Nor is it read where scales are announced and
    are not there.
    """
    assert tensor.dtype is not None
    if tensor.dtype.itemsize > 1:
      return reading
    found = self.shapes.get(_split(tensor.name)[0], ())
    if not found and self.announced:
      return Unknown(
        "8-bit floats whose scales, that config.json announces, are not in the file"
      )
    rows = (tensor.shape[0],)
    for scale in found:
      if math.prod(scale) == 1:
        continue
      if scale not in (rows, (*rows, 1)):  # As many blocks as rows are blocks, too.
        return Unknown(_BLOCKS)
      if any(
        not part.order and part.axes not in (NeuronAxes(0), NeuronAxes((0, 1)))
        for part in reading
      ) or any(part.order for part in reading):
        return Unknown("8-bit floats with a scale for each row, but neurons elsewhere")
    return reading


def _split(name: str) -> tuple[str, str]:
  module, _, key = name.replace("/", ".").rpartition(".")
  return module, key
