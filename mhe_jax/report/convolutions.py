"""Convolutions of PyTorch, and what tells transposed ones from others."""

import re

from mhe_jax.layers.axes import NeuronAxes
from mhe_jax.report.parts import Part, Reading, Stored, Unknown

_TRANSPOSED = re.compile(r"transpos|deconv|upconv|conv_?t\d?$|conv_?up", re.IGNORECASE)
_PERHAPS_TRANSPOSED = re.compile(r"(.*\.)?(ups?|upsampl\w*|up\d+)(\.\d+)?")
_CONVOLUTION = re.compile(
  r"conv|downsample|(^|\.)features\.|(^|\.)patch_embed(ding)?s?\.|(^|\.)stem", re.I
)


def convolution(name: str, stored: Stored) -> Reading:
  """(out, in / groups, window...); transposed ones, (in, out / groups, window...)."""
  shape, module = stored.shapes[name], name.rpartition(".")[0]
  plain = (Part(NeuronAxes(0), "convolution, (out, in, window)"),)
  transposed = (Part(NeuronAxes(1), "transposed convolution, (in, out, window)"),)
  # The bias, or the norm that follows in a Sequential, has an entry for each output.
  entries = stored.shapes.get(f"{module}.bias") or _of_the_next(module, stored)
  outputs = entries[0] if entries else None
  if _TRANSPOSED.search(module):
    if outputs in (None, shape[1]):
      return transposed
    return Unknown("a transposed convolution, perhaps in groups; a rule says its axes")
  # Transposed ones in groups, which a bias could also mean, have names that say it.
  if outputs == shape[0] != shape[1]:
    return plain
  if outputs == shape[1] != shape[0]:
    return transposed
  is_named = _CONVOLUTION.search(module) and not _PERHAPS_TRANSPOSED.fullmatch(module)
  if is_named and outputs in (None, shape[0]):
    return plain
  return Unknown(
    f"{len(shape)} axes: a convolution has its neurons on axis 0, a transposed one on "
    "axis 1, and nothing says which it is; a rule does (0 or 1)"
  )


def _of_the_next(module, stored):
  """Shape of the norm that follows a module of a Sequential, if there is one."""
  prefix, _, number = module.rpartition(".")
  if not number.isdigit():
    return None
  following = f"{prefix}.{int(number) + 1}"
  # Only norms have these; a layer of one axis could be anything.
  if f"{following}.running_mean" not in stored.shapes:
    return None
  return stored.shapes.get(f"{following}.weight")
