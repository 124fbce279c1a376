"""Where PyTorch's modules, and known architectures, store their neurons.

A table of names: the first pattern that matches a tensor says how it is read. Modules
of PyTorch keep ``weight`` as (out, in, window...), a neuron a row. The exceptions are
fused, transposed or stacked, and differ between architectures that use the same name;
then ``config.json`` decides, or the other tensors do, or nobody: the tensor is listed.
docs/checkpoints.md has the table for people.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import cast

from mhe_jax.layers.axes import NeuronAxes
from mhe_jax.layers.names import (
  POSITIONS,
  UnreadableError,
  is_position_table,
)
from mhe_jax.report.neighbors import evidence, is_norm
from mhe_jax.report.parts import (
  BY_CONFIG,
  BY_NAME,
  BY_NEIGHBORS,
  TIED,
  NotNeurons,
  Part,
  Reading,
  Unknown,
)
from mhe_jax.report.pytorch import fused
from mhe_jax.report.pytorch.convolutions import convolution
from mhe_jax.report.pytorch.families import read_branch
from mhe_jax.report.pytorch.state_space import STATE_SPACE, state_space
from mhe_jax.report.states import STATE, is_of_optimizer
from mhe_jax.report.stored import EMBEDDING, EXPERTS, Stored, dotted, last_module

_ROWS = NeuronAxes(0)
_NOT_KNOWN = "its name is not known; a rule says where its neurons are, if it has some"


def read_name(name: str, stored: Stored) -> Reading:
  """How a tensor of two axes or more is read, from its name and what is beside it."""
  name = dotted(name)
  if is_of_optimizer(name, stored):
    return NotNeurons(STATE)
  if name in stored.axes and name not in stored.names:
    return _flax(name, stored)
  reading = _read_as_pytorch(stored.names.get(name, name), stored)
  if (order := stored.orders.get(name)) and isinstance(reading, tuple):
    what = _IN_OUT if order == (1, 0) else _WINDOW_ELSEWHERE
    return tuple(
      dataclasses.replace(part, order=order, what=f"{what}: {part.what}")
      for part in reading
    )
  return reading


_IN_OUT = "stored as (in, out)"
_WINDOW_ELSEWHERE = "stored with its window elsewhere"


def _read_as_pytorch(name, stored) -> Reading:
  for pattern, read in _TABLE:
    if pattern.fullmatch(name):
      return read(name, stored)
  return Unknown(_NOT_KNOWN, is_named=False)


# --- Flax ---------------------------------------------------------------------------


def _flax(name, stored) -> Reading:
  """A kernel of several axes, or of a stack, which PyTorch has no notation for."""
  axes = stored.axes[name]
  if isinstance(axes, UnreadableError):
    choices = " or ".join(dict.fromkeys(map(_format_axes, axes.candidates)))
    rule = f"; a rule says which ({choices})" if choices else "; a rule says which"
    return Unknown(f"{axes}: its neurons could be on several axes{rule}")
  if isinstance(axes, str):
    return NotNeurons(axes)
  *_, outputs, _ = axes.matrix_shape(stored.shapes[name])
  known = BY_NEIGHBORS if axes.groups > 1 else evidence(name, stored, outputs)
  return (Part(axes, "as Flax stores it", evidence=known),)


def _format_axes(axes: NeuronAxes) -> str:
  """Axes as the command's rules have them."""
  neurons, batch = (cast(tuple, a) for a in (axes.neurons, axes.batch))
  groups = [f"groups:{axes.groups}"] if axes.groups > 1 else []
  return ",".join([*map(str, neurons), *(f"batch:{a}" for a in batch), *groups])


# --- dense layers of PyTorch --------------------------------------------------------


def _weight(name, stored) -> Reading:
  shape, module = stored.shapes[name], last_module(name)
  if is_norm(module):
    return Unknown("a norm by its name, but of several axes")
  if _ADAPTER.search(name):
    return Unknown("of an adapter that stores no (out, in)")
  if len(shape) == 3 and EXPERTS.search(name):
    return _experts(name, shape)
  if len(shape) > 2:
    reading = read_branch(name, stored) or convolution(name, stored)
    if isinstance(reading, tuple) and _is_output(name, stored):
      known = dict(role="output", evidence=BY_NAME)
      return tuple(dataclasses.replace(part, **known) for part in reading)
    return reading
  if is_position_table(module):
    return NotNeurons(POSITIONS)
  if _is_output(name, stored):
    return (Part(_ROWS, "output layer, rows", role="output", evidence=BY_NAME),)
  if EMBEDDING.search(module):
    what = TIED if _is_tied(name, stored) else "embedding, a row each"
    return (Part(_ROWS, what, evidence=BY_NAME),)
  if _CONVOLUTION.search(module):
    return Unknown("a convolution by its name, but of two axes: perhaps of experts")
  if known := _is_of_the_vocabulary(name, stored):
    what = "as many rows as tokens: the output layer"
    return (Part(_ROWS, what, role="output", evidence=known),)
  if parts := read_branch(name, stored):
    return parts
  return (Part(_ROWS, "(out, in), rows", evidence=evidence(name, stored)),)


def _experts(name, shape) -> Reading:
  """All experts in one tensor: of MLX (experts, out, in), of others nobody knows."""
  if "switch_" not in name or shape[2] < 2:
    return Unknown("experts in one tensor, (in, out) or (out, in); a rule says which")
  what = "an expert each, (out, in)"
  return (Part(NeuronAxes(1, batch=0), what, evidence=BY_NAME),)


_CONVOLUTION = re.compile(r"^conv(_\w+)?\d*d?$")
_ADAPTER = re.compile(r"(^|[._])(oft|boft|vera|hra|loha|lokr|hada|ia3|road|vblora)_")
_OF_TOKENS = re.compile(
  r"(embed_tokens|word_embeddings|tok_embeddings|embed_in|wte)$|^shared$"
)
# In wrappers: of several devices, and of torch.compile.
_WRAPPED = r"(module\.|_orig_mod\.)*"
_OUTPUT = re.compile(
  # Of language models, of classifiers of texts, and of timm's and torchvision's.
  r"(.*\.)?(lm_head|lm_head\.decoder|generator_lm_head|lm_loss|embed_out"
  r"|output_layer|to_logits|unembed(ding)?)\.weight"
  r"|(.*\.)?(predictions\.decoder|seq_relationship|vocab_projector)\.weight"
  rf"|{_WRAPPED}(params\.|model\.params\.)?"
  r"(decoder|output|score|classifier|classifier\.out_proj|qa_outputs|fc|head|head_dist"
  r"|head\.fc|heads\.head|last_linear)\.weight"
)
_NUMBERED_OUTPUT = re.compile(rf"{_WRAPPED}classifier\.(?P<number>\d+)\.weight")


def _is_tied(name, stored) -> bool:
  """Whether an embedding is the output layer too, of which nothing is stored then."""
  return bool(
    _OF_TOKENS.search(last_module(name))
    and stored.config.get("tie_word_embeddings")
    and not any(_OUTPUT.fullmatch(other) for other in stored.shapes)
  )


def _is_output(name, stored) -> bool:
  if _OUTPUT.fullmatch(name):
    return True
  if not (match := _NUMBERED_OUTPUT.fullmatch(name)):
    return False
  numbers = (
    _NUMBERED_OUTPUT.fullmatch(n) for n, s in stored.shapes.items() if len(s) > 1
  )
  return int(match["number"]) == max(int(m["number"]) for m in numbers if m)


def _is_of_the_vocabulary(name, stored) -> str:
  """What says that a weight has a row for each token, as the embedding has."""
  shape = stored.shapes[name]
  if shape[0] == stored.number("vocab_size"):
    return BY_CONFIG
  is_alike = shape[0] > shape[1] and any(
    stored.shapes[other] == shape and _OF_TOKENS.search(last_module(other))
    for other in stored.shapes
    if other.endswith(".weight")
  )
  return BY_NEIGHBORS if is_alike else ""


def _maybe_state_space(name, stored) -> Reading:
  return state_space(name, stored) or _weight(name, stored)


def _bias(name, _) -> Reading:
  return NotNeurons("a bias, or a scale, not neurons")


# --- recurrent cells -------------------------------------------------------------

_RECURRENT = re.compile(
  r"(?P<cell>.*\.)?weight_(ih|hh|hr)(?P<layer>(_l\d+)?(_reverse)?)"
)


def _recurrent(name, stored) -> Reading:
  """(gates * hidden, in): LSTM has four gates, GRU three, plain cells one."""
  match = _RECURRENT.fullmatch(name)
  assert match is not None
  cell, layer = match["cell"] or "", match["layer"]
  if match[2] == "hr":
    what = "projection of an LSTM, rows"
    return (Part(_ROWS, what, evidence=BY_NAME),)
  recurrent = stored.shapes.get(f"{cell}weight_hh{layer}", ())
  projection = stored.shapes.get(f"{cell}weight_hr{layer}")
  rows = stored.shapes[name][0]
  if len(recurrent) == 2 and recurrent[1] and rows == recurrent[0]:
    hidden = projection[1] if projection and len(projection) == 2 else recurrent[1]
    gates = rows // hidden if hidden and rows % hidden == 0 else 0
    if gates in ((4,) if projection else (1, 3, 4)):
      what = f"recurrent cell, rows, {gates} gates"
      axes = NeuronAxes(0, groups=gates)
      return (Part(axes, what, evidence=BY_NEIGHBORS),)
  return Unknown("a recurrent cell whose number of gates nothing tells")


# --- the table -------------------------------------------------------------------


def _lora_of_embedding(name, _) -> Reading:
  return Unknown("LoRA of an embedding; a rule says where its neurons are")


# Names that hold several projections, or are of two orders, in modules not known above.
_FUSED = re.compile(
  r"(?!.*lora_)(.*\.)?(\w*(qkv|kqv)\w*|(\w*_)?kv(_\w+)?|wkv|query_key_value"
  r"|att_proj|W_pack"
  r"|(c_attn|q_attn|c_enc_kv|c_fc|c_proj)\.\w+)(\.\w+)*\.weight",
  re.IGNORECASE,
)
_TABLE: tuple[tuple[re.Pattern, Callable[[str, Stored], Reading]], ...] = (
  (re.compile(r"(.*[._])?(bias|scale|scale_inv)(\.value)?"), _bias),
  (fused.GPT2, fused.gpt2),
  (re.compile(r"(.*\.)?(query_key_value|wqkv)\.weight"), fused.interleaved),
  (re.compile(r"(.*\.)?(qkv_proj|Wqkv)\.weight"), fused.contiguous),
  (
    re.compile(r"(.*\.)?attn_(block|grid|window)\.attn\.qkv\.weight"),
    fused.read_maxvit,
  ),
  (re.compile(r"(.*\.)?(attn\.qkv|W_pack|to_qkv)\.weight"), fused.thirds),
  (re.compile(r"(.*\.)?in_proj_weight"), fused.thirds),
  (re.compile(r"(.*\.)?[qkv]_proj_weight"), _weight),
  (re.compile(r"(.*\.)?(kv_a_proj_with_mqa|kv_b_proj)\.weight"), fused.latent),
  (re.compile(r"(.*\.)?in_proj_qkvz\.weight"), _weight),
  (_FUSED, fused.refuse_unknown_order),
  (re.compile(r"(.*\.)?gate_up_proj\.weight"), fused.gate_up),
  (STATE_SPACE, _maybe_state_space),
  (re.compile(r"(.*\.)?experts\.(gate_up|gate|up|down)_proj"), fused.experts),
  (_RECURRENT, _recurrent),
  (re.compile(r"(.*\.)?lora_embedding_[AB](\..*)?"), _lora_of_embedding),
  (re.compile(r"(.*\.)?weight"), _weight),
)
