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
  WEIGHTS,
  UnreadableError,
  is_position_table,
  layout_from_names,
)
from mhe_jax.report.parts import (
  TIED,
  NotNeurons,
  Part,
  Reading,
  Stored,
  Unknown,
  dotted,
)
from mhe_jax.report.pytorch import fused
from mhe_jax.report.pytorch.convolutions import convolution
from mhe_jax.report.pytorch.fused import last_module
from mhe_jax.report.pytorch.state_space import STATE_SPACE, state_space

_ROWS = NeuronAxes(0)
_NOT_KNOWN = "its name is not known; a rule says where its neurons are, if it has some"


def read_name(name: str, stored: Stored) -> Reading:
  """How a tensor of two axes or more is read, from its name and what is beside it."""
  name = dotted(name)
  if _is_moment(name, stored):
    return NotNeurons(_STATE)
  for pattern, read in _TABLE:
    if pattern.fullmatch(name):
      return read(name, stored)
  return Unknown(_NOT_KNOWN, is_named=False)


# --- Flax ---------------------------------------------------------------------------


def _flax(name, stored) -> Reading:
  shapes = {_without_value(path): stored.shapes[k] for k, path in stored.paths.items()}
  try:
    axes = layout_from_names(_without_value(stored.paths[name]), shapes)
  except UnreadableError as error:
    choices = " or ".join(dict.fromkeys(map(_as_text, error.candidates)))
    rule = f"; a rule says which ({choices})" if choices else "; a rule says which"
    return Unknown(f"{error}: its neurons could be on several axes{rule}")
  if isinstance(axes, str):
    return NotNeurons(axes)
  return (Part(axes, "as Flax stores it"),)


def _without_value(path):
  """Checkpoints of nnx have arrays below an attribute ``value``."""
  return path[:-1] if path[-1] == "value" and path[-2:-1] != () else path


def _as_text(axes: NeuronAxes) -> str:
  """Axes as the command's rules have them."""
  neurons, batch = (cast(tuple, a) for a in (axes.neurons, axes.batch))
  groups = [f"groups:{axes.groups}"] if axes.groups > 1 else []
  return ",".join([*map(str, neurons), *(f"batch:{a}" for a in batch), *groups])


# --- dense layers of PyTorch --------------------------------------------------------


def _weight(name, stored) -> Reading:
  shape = stored.shapes[name]
  if _NORM.search(last_module(name)):
    return Unknown("a norm by its name, but of several axes")
  if len(shape) > 2:
    reading = convolution(name, stored)
    if isinstance(reading, tuple) and _is_output(name, stored):
      return tuple(dataclasses.replace(part, role="output") for part in reading)
    return reading
  if is_position_table(last_module(name)):
    return NotNeurons(POSITIONS)
  if _is_output(name, stored):
    return (Part(_ROWS, "output layer, rows", role="output"),)
  if _EMBEDDING.search(last_module(name)):
    return (Part(_ROWS, TIED if _is_tied(name, stored) else "embedding, a row each"),)
  return (Part(_ROWS, "PyTorch's (out, in), rows"),)


_NORM = re.compile(r"norm\d*$|^ln(_|\d|$)", re.IGNORECASE)
_EMBEDDING = re.compile(r"embed|^w[tp]e$|^shared$")
_OF_TOKENS = re.compile(
  r"(embed_tokens|word_embeddings|tok_embeddings|embed_in|wte)$|^shared$"
)
# In wrappers: of several devices, and of torch.compile.
_WRAPPED = r"(module\.|_orig_mod\.)*"
_OUTPUT = re.compile(
  # Of language models, of classifiers of texts, and of timm's and torchvision's.
  r"(.*\.)?(lm_head|lm_head\.decoder|generator_lm_head|lm_loss|embed_out)\.weight"
  r"|(.*\.)?(predictions\.decoder|seq_relationship|vocab_projector)\.weight"
  rf"|{_WRAPPED}(decoder|output|score|classifier|classifier\.out_proj|qa_outputs"
  r"|fc|head|head_dist|head\.fc|heads\.head|last_linear)\.weight"
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


def _maybe_gated(name, stored) -> Reading:
  return fused.gated(name, stored) or _weight(name, stored)


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
    return (Part(_ROWS, "projection of an LSTM, rows"),)
  recurrent = stored.shapes.get(f"{cell}weight_hh{layer}", ())
  projection = stored.shapes.get(f"{cell}weight_hr{layer}")
  rows = stored.shapes[name][0]
  if len(recurrent) == 2 and recurrent[1] and rows == recurrent[0]:
    hidden = projection[1] if projection and len(projection) == 2 else recurrent[1]
    gates = rows // hidden if hidden and rows % hidden == 0 else 0
    if gates in ((4,) if projection else (1, 3, 4)):
      what = f"recurrent cell, rows, {gates} gates"
      return (Part(NeuronAxes(0, groups=gates), what),)
  return Unknown("a recurrent cell whose number of gates nothing tells")


# --- the table -------------------------------------------------------------------

_OPTIMIZER = r"(.*\.)?(opt(imizer|im)?s?_states?|optimizers?|optim)\..*"
_MOMENT = re.compile(
  r"((?P<state>.*)\.)?(mu|nu|trace|momentum(_buffer)?|exp_avg(_sq)?)\.(?P<rest>.*)"
)


def _of_optimizer(name, _) -> Reading:
  return NotNeurons(_STATE)


_STATE = "state of an optimizer"


def _is_moment(name, stored) -> bool:
  """Whether a tensor is a moment of another, wherever the optimizer's state is.

  The moments of optax are trees of the names of the parameters; Adam's have a count
  beside them. A layer of this name has neither: the mu of an autoencoder.
  """
  match = _MOMENT.fullmatch(name)
  if match is None:
    return False
  state, rest = match["state"] or "", match["rest"]
  if stored.shapes.get(f"{state}.count".lstrip(".")) == ():
    return True
  if not state or "." not in rest:
    return False
  return any(
    shape == stored.shapes[name]
    for other, shape in stored.shapes.items()
    if f".{other}".endswith(f".{rest}")
    and not other.startswith(f"{state}.")
    and not _MOMENT.fullmatch(other)
  )


def _lora_of_embedding(name, _) -> Reading:
  return Unknown("LoRA of an embedding; a rule says where its neurons are")


# Names that hold several projections, or are of two orders, in modules not known above.
_FUSED = re.compile(
  r"(?!.*lora_)(.*\.)?(\w*(qkv|kqv)\w*|query_key_value|att_proj|W_pack"
  r"|(c_attn|q_attn|c_fc|c_proj)\.\w+)(\.\w+)*\.weight",
  re.IGNORECASE,
)
_TABLE: tuple[tuple[re.Pattern, Callable[[str, Stored], Reading]], ...] = (
  (re.compile(_OPTIMIZER), _of_optimizer),
  (re.compile(rf"(.*\.)?({'|'.join(WEIGHTS)})(\.value)?"), _flax),
  (re.compile(r"(.*[._])?(bias|scale|scale_inv)(\.value)?"), _bias),
  (fused.GPT2, fused.gpt2),
  (re.compile(r"(.*\.)?(query_key_value|wqkv)\.weight"), fused.interleaved),
  (re.compile(r"(.*\.)?(qkv_proj|Wqkv)\.weight"), fused.contiguous),
  (re.compile(r"(.*\.)?(attn\.qkv|W_pack|to_qkv)\.weight"), fused.thirds),
  (re.compile(r"(.*\.)?in_proj_weight"), fused.thirds),
  (_FUSED, fused.of_an_unknown_order),
  (re.compile(r"(.*\.)?[qkv]_proj_weight"), _weight),
  (re.compile(r"(.*\.)?(kv_a_proj_with_mqa|kv_b_proj)\.weight"), fused.latent),
  (re.compile(r"(.*\.)?gate_up_proj\.weight"), fused.gate_up),
  (fused.MAYBE_GATED, _maybe_gated),
  (STATE_SPACE, _maybe_state_space),
  (re.compile(r"(.*\.)?experts\.(gate_up|gate|up|down)_proj"), fused.experts),
  (_RECURRENT, _recurrent),
  (re.compile(r"(.*\.)?lora_embedding_[AB](\..*)?"), _lora_of_embedding),
  (re.compile(r"(.*\.)?weight"), _weight),
)
