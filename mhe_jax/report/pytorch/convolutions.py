"""Convolutions of PyTorch, and what tells transposed ones from others."""

import re

from mhe_jax.layers.axes import NeuronAxes
from mhe_jax.layers.names import DEPTHWISE
from mhe_jax.report.parts import NotNeurons, Part, Reading, Stored, Unknown

_TRANSPOSED = re.compile(r"transpos|deconv", re.IGNORECASE)
# An upconv may also be a plain one after an interpolation, a conv_t one over time.
_PERHAPS_TRANSPOSED = re.compile(
  r"(^|\.)(ups?|upsampl\w*|up\d+)(\.\d+)?$|upconv|conv_?up|conv_?t\d?$", re.IGNORECASE
)
_CONVOLUTION = re.compile(
  r"conv|downsample|shortcut|(^|\.)proj_(in|out)$"
  r"|(^|\.)(features\.|patch_embed(ding)?s?(\.|$)|stem|skip_connection)",
  re.IGNORECASE,
)
# A convolution of a block after another, each with its norm, as ResNeXt's and RegNet's
# are called: the second's name; the names of both and their norms.
_BLOCKS = (
  (r"(.*\.)?conv(\d+)\.weight", "conv{0}", "bn{0}"),
  (r"(.*\.)?conv(\d+)\.weight", "conv{0}", "conv{0}.norm"),
  (r"(.*\.)?conv(\d+)\.conv\.weight", "conv{0}.conv", "conv{0}.bn"),
  (r"(.*\.layer\.)(\d+)\.convolution\.weight", "{0}.convolution", "{0}.normalization"),
  (r"(.*\.f\.)(b)\.0\.weight", "{0}.0", "{0}.1"),
)
# Also of Mamba, whose mixers have a filter over time for each channel.
_DEPTHWISE = re.compile(
  r"depthwise|dw_?conv|conv_?dw|(^|[._])dw([._]|$)|mixer\.conv1d$", re.IGNORECASE
)


def convolution(name: str, stored: Stored) -> Reading:
  """(out, in / groups, window...); transposed ones, (in, out / groups, window...)."""
  shape, module = stored.shapes[name], name.rpartition(".")[0]
  if shape[1] == 1 and _DEPTHWISE.search(module):
    return NotNeurons(DEPTHWISE)
  plain = (Part(NeuronAxes(0), "convolution, (out, in, window)"),)
  groups, is_pointwise = _groups(name, stored)
  if groups == 1:
    return plain
  is_told = is_pointwise or shape[1] == 1
  if groups and shape[0] % groups:
    return Unknown(
      "it reads a part of what the layer before it gives, and its outputs are not in "
      "as many groups: something is between them; a rule says its axes (0)"
    )
  if groups == 2 or (groups and not is_told):
    return Unknown(
      f"it reads a {'half' if groups == 2 else 'part'} of what the layer before it "
      "gives: groups, a gate or a pixel shuffle between them; a rule says which "
      f"(0,groups:{groups} or 0)"
    )
  if groups and shape[1] == 1:
    return NotNeurons(DEPTHWISE)
  if groups:
    what = f"convolution, (out, in / {groups}, window), {groups} groups"
    return (Part(NeuronAxes(0, groups=groups), what),)
  transposed = (Part(NeuronAxes(1), "transposed convolution, (in, out, window)"),)
  # The bias, or the norm that follows in a Sequential, has an entry for each output.
  entries = stored.shapes.get(f"{module}.bias") or _of_the_next(module, stored)
  outputs = entries[0] if entries else None
  if _has_one_channel(shape) and sum(map(_has_one_channel, stored.shapes.values())) > 1:
    return Unknown(
      "filters of one channel, as others here: depthwise, which are no neurons of one "
      "layer, or of inputs with one channel; a rule says which (skip or 0)"
    )
  if _TRANSPOSED.search(module):
    if outputs in (None, shape[1]):
      return transposed
    return Unknown("a transposed convolution, perhaps in groups; a rule says its axes")
  # Transposed ones in groups, which a bias could also mean, have names that say it.
  if outputs == shape[0] != shape[1]:
    return plain
  if outputs == shape[1] != shape[0]:
    return transposed
  is_named = _CONVOLUTION.search(module) and not _PERHAPS_TRANSPOSED.search(module)
  if is_named and outputs in (None, shape[0]):
    return plain
  return Unknown(
    f"{len(shape)} axes: a convolution has its neurons on axis 0, a transposed one on "
    "axis 1, and nothing says which it is; a rule does (0 or 1)"
  )


def _groups(name, stored):
  """Of a convolution whose inputs are all that the one before it gives, normalized.

  None where nothing says so: what is between could be more of them or less. And whether
  the one before it is pointwise, as those before the grouped ones of ResNeXt and RegNet
  are: what comes after others may be a pixel shuffle, which also leaves a part.
  """
  for pattern, convolution, norm in _BLOCKS:
    if match := re.fullmatch(pattern, name):
      prefix, this = match[1] or "", match[2]
      before = "a" if this == "b" else int(this) - 1
      outputs, inputs = stored.shapes[name][:2]
      earlier = stored.shapes.get(f"{prefix}{convolution.format(before)}.weight", ())
      given = earlier[:1]
      normed, own = (
        stored.shapes.get(f"{prefix}{norm.format(number)}.running_mean")
        for number in (before, this)
      )
      if (
        normed == given != ()
        and own == (outputs,)
        and inputs
        and given[0] % inputs == 0 < given[0]
      ):
        return given[0] // inputs, {*earlier[2:]} == {1}
  return None, False


def _has_one_channel(shape):
  return len(shape) > 2 and shape[1] == 1 < shape[0]


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
