"""Convolutions of PyTorch, and what tells transposed ones from others."""

import dataclasses
import re
from math import prod as entries

from mhe_jax.layers.axes import NeuronAxes
from mhe_jax.layers.names import DEPTHWISE
from mhe_jax.report.neighbors import arrives, evidence
from mhe_jax.report.parts import (
  ASSUMED,
  BY_CONFIG,
  BY_NAME,
  BY_NEIGHBORS,
  NotNeurons,
  Part,
  Reading,
  Unknown,
)
from mhe_jax.report.stored import Stored

_TRANSPOSED = re.compile(r"transpos|deconv", re.IGNORECASE)
# An upconv may also be a plain one after an interpolation, a conv_t one over time.
_PERHAPS_TRANSPOSED = re.compile(
  r"(^|\.)(ups?|upsampl\w*|up\d+)(\.\d+)?$|upconv|upscal|upscore|conv_?up"
  r"|conv_?t\d?$",
  re.IGNORECASE,
)
_CONVOLUTION = re.compile(
  r"conv|downsample|shortcut|(^|\.)proj_(in|out)$"
  r"|(^|\.)(features\.|patch_embed(ding)?s?(\.|$)|stem|skip_connection)",
  re.IGNORECASE,
)
# A convolution of a block after another, as those of ResNets and RegNets are called:
# its name, and what those before it and their norms may be.
_BLOCKS = (
  (
    r"(?P<in>.*\.)?conv(?P<n>\d+)(?P<b>b?)(\.conv|\.paths\.\d+\.conv)?\.weight",
    ("conv{0}", "conv{0}.conv"),
    ("bn{0}", "conv{0}.norm", "conv{0}.bn"),
  ),
  (
    r"(?P<in>.*\.layer\.)(?P<n>\d+)(?P<b>)\.convolution\.weight",
    ("{0}.convolution",),
    ("{0}.normalization",),
  ),
  (r"(?P<in>.*\.f\.)(?P<n>b)(?P<b>)\.0\.weight", ("{0}.0",), ("{0}.1",)),
)
_DOWNSAMPLING = re.compile(
  r"down|patch|stem|merg|reduc|shrink|squeeze|strid|embed|proj$", re.IGNORECASE
)
# How families call the groups of their convolutions in config.json.
_GROUPS_OF = (
  (r"(.*\.)?pos_conv_embed\..*weight", "num_conv_pos_embedding_groups"),
  (r"(.*\.)?attention\.query\.weight", "q_groups"),
  (r"(.*\.)?attention\.key\.weight", "k_groups"),
  (r"(.*\.)?attention\.value\.weight", "v_groups"),
  (r"(.*\.)?post_attention\.conv1d\.weight", "post_attention_groups"),
  (r"(.*\.)?intermediate\.conv1d\.weight", "intermediate_groups"),
  (r"(.*\.)?output\.conv1d\.weight", "output_groups"),
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
  known = _evidence(name, stored)
  plain = (Part(NeuronAxes(0), "convolution, (out, in, window)", evidence=known),)
  if reading := _read_groups(name, stored, plain):
    return reading
  if _is_never_transposed(name, stored):  # Or as others there.
    return plain
  what = "transposed convolution, (in, out, window)"
  transposed = (Part(NeuronAxes(1), what, evidence=BY_NAME),)
  # The bias, or the norm that follows in a Sequential, has an entry for each output.
  entries = stored.shapes.get(f"{module}.bias") or _following_norm(module, stored)
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
    return (dataclasses.replace(transposed[0], evidence=BY_NEIGHBORS),)
  is_named = _CONVOLUTION.search(module) and not _PERHAPS_TRANSPOSED.search(module)
  if is_named and shape[0] == shape[1] and not _DOWNSAMPLING.search(module):
    # What is upsampled by 2 has such windows.
    is_named = any(size % 2 for size in shape[2:])
  if is_named and outputs in (None, shape[0]):
    return plain
  return Unknown(
    f"{len(shape)} axes: a convolution has its neurons on axis 0, a transposed one on "
    "axis 1, and nothing says which it is; a rule does (0 or 1)"
  )


def _read_groups(name, stored, plain) -> Reading:
  """Of a convolution of which something says how many inputs arrive; or nothing."""
  shape = stored.shapes[name]
  for pattern, setting in _GROUPS_OF:
    groups = stored.number(setting)
    if groups and re.fullmatch(pattern, name) and shape[0] % groups == 0:
      return _parts(groups, shape, BY_CONFIG)
  given, is_pointwise = _given(name, stored)
  if given is None or given % shape[1]:
    return ()
  groups = given // shape[1]
  if groups == 1:
    return plain
  if groups < 1:
    return ()
  if shape[0] % groups:
    return Unknown(
      "it reads a part of what the layer before it gives, and its outputs are not in "
      "as many groups: something is between them; a rule says its axes (0)"
    )
  # After a window a pixel shuffle leaves a part, and before none a gate a half.
  if shape[1] > 1 and not (is_pointwise and entries(shape[2:]) > 1):
    return Unknown(
      f"it reads a {'half' if groups == 2 else 'part'} of what the layer before it "
      "gives: groups, a gate or a pixel shuffle between them; a rule says which "
      f"(0,groups:{groups} or 0)"
    )
  return _parts(groups, shape, BY_NEIGHBORS)


def _parts(groups, shape, evidence) -> Reading:
  if groups > 1 and shape[1] == 1:
    return NotNeurons(DEPTHWISE)
  what = f"convolution, (out, in / {groups}, window), {groups} groups"
  return (Part(NeuronAxes(0, groups=groups), what, evidence=evidence),)


def _given(name, stored) -> tuple[int | None, bool]:
  """What the convolution before one in its block gives; None if nothing says it.

  And whether that one is pointwise, as those before the grouped ones of bottlenecks
  are. Norms that are beside the two must agree.
  """
  for pattern, convolutions, norms in _BLOCKS:
    if not (match := re.fullmatch(pattern, name)):
      continue
    prefix, this = match["in"] or "", match["n"]
    before = "a" if this == "b" else int(this) - (not match["b"])
    for template in convolutions:
      earlier = stored.shapes.get(f"{prefix}{template.format(before)}.weight", ())
      if len(earlier) < 3:
        continue
      for number, entries_ in ((before, earlier[0]), (this, stored.shapes[name][0])):
        for norm in norms:
          key = f"{prefix}{norm.format(number)}.running_mean"
          if stored.shapes.get(key, (entries_,)) != (entries_,):
            return None, False
      return earlier[0], entries(earlier[2:]) == 1
  return None, False


def _evidence(name, stored) -> str:
  """What says that a convolution takes all that arrives, and gives one layer."""
  outputs = evidence(name, stored)
  if outputs == ASSUMED or not arrives(name, stored):
    return ASSUMED
  return outputs


def _is_never_transposed(name, stored) -> bool:
  """Whether the writer keeps the outputs of all convolutions in one place."""
  return stored.writer == "mlx" or name in stored.names.values()


def _has_one_channel(shape):
  return len(shape) > 2 and shape[1] == 1 < shape[0]


def _following_norm(module, stored):
  """Shape of the norm that follows a module of a Sequential, if there is one."""
  prefix, _, number = module.rpartition(".")
  if not number.isdigit():
    return None
  following = f"{prefix}.{int(number) + 1}"
  # Only norms have these; a layer of one axis could be anything.
  if f"{following}.running_mean" not in stored.shapes:
    return None
  return stored.shapes.get(f"{following}.weight")
