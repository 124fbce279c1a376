"""Query, key and value in one tensor; gates and experts in one: known architectures.

The same name stands for different orders of rows. What tells them apart is the family
and the numbers of heads in ``config.json``, or other tensors; without, nothing does.
"""

import re

from mhe_jax.layers.axes import NeuronAxes
from mhe_jax.report.parts import (
  BY_CONFIG,
  BY_NAME,
  BY_NEIGHBORS,
  Part,
  Reading,
  Unknown,
)
from mhe_jax.report.stored import Stored, last_module

GPT2 = re.compile(r"(.*\.)?(c_attn|q_attn|c_enc_kv|c_fc|c_proj)\.weight")
_QKV = ("q", "k", "v")


def contiguous_parts(labels, sizes, axis, what, evidence=BY_NAME) -> tuple[Part, ...]:
  """Parts of these sizes, one after the other along an axis of a matrix."""
  parts, start = [], 0
  for label, size in zip(labels, sizes):
    index = (slice(None),) * axis + (slice(start, start + size),)
    axes = NeuronAxes(axis)
    parts.append(Part(axes, what, label, index=index, evidence=evidence))
    start += size
  return tuple(parts)


def gpt2(name: str, stored: Stored) -> Reading:
  """GPT-2 stores (in, out); others use its names for PyTorch's (out, in)."""
  shape = stored.shapes[name]
  # Its own bias before those of others: a model may have parts of both kinds.
  in_out = _vote_of_bias(name, shape, stored) or _votes_for_in_out(stored)
  if len(shape) != 2:
    return Unknown("a matrix of GPT-2, but not of two axes")
  if len(in_out) != 1:
    return Unknown(
      "(in, out), as GPT-2 has it, or (out, in), and nothing beside it tells; a rule "
      "does (1 or 0)"
    )
  axis = 1 if in_out.pop() else 0
  what = "GPT-2's (in, out), columns" if axis else "PyTorch's (out, in), rows"
  if last_module(name) not in ("c_attn", "c_enc_kv"):
    return (Part(NeuronAxes(axis), what, evidence=BY_NEIGHBORS),)
  out, size = shape[axis], shape[1 - axis]
  is_multi_query = stored.config.get("multi_query")
  if last_module(name) == "c_enc_kv" and out % 2 == 0:  # Of Jukebox.
    return contiguous_parts("kv", (out // 2, out // 2), axis, what, BY_NEIGHBORS)
  if out == 3 * size and stored.model_type != "gpt_bigcode":
    sizes = (size, size, size)
  elif is_multi_query and out > size and (out - size) % 2 == 0:
    sizes = (size, (out - size) // 2, (out - size) // 2)  # Heads share key and value.
  elif out == 2 * size:  # Of cross-attention; its queries are in q_attn.
    return contiguous_parts("kv", (size, size), axis, what, BY_NEIGHBORS)
  else:
    return Unknown("query, key and value in one, of sizes that nothing tells")
  return contiguous_parts(_QKV, sizes, axis, what, BY_NEIGHBORS)


def _votes_for_in_out(stored) -> set[bool]:
  votes = set()
  for name, shape in stored.shapes.items():
    if not GPT2.fullmatch(name) or len(shape) != 2:
      continue
    votes |= _vote_of_bias(name, shape, stored)
    if last_module(name) == "c_attn" and max(shape) == 3 * min(shape):
      votes.add(shape[1] > shape[0])
  return votes


def _vote_of_bias(name, shape, stored) -> set[bool]:
  bias = stored.shapes.get(f"{name.removesuffix('.weight')}.bias")
  if not bias or bias[0] not in shape or shape[0] == shape[1]:
    return set()
  return {shape[1] == bias[0]}


def interleaved(name: str, stored: Stored) -> Reading:
  """query_key_value: one name for five orders of its rows."""
  shape, kind = stored.shapes[name], stored.model_type
  if not kind and "gpt_neox." in name:
    kind = "gpt_neox"
  heads = _heads(name, stored, "num_attention_heads", "n_head", "num_heads")
  if len(shape) != 2 or heads is None or shape[0] == 0:
    return Unknown(
      "query, key and value in one; their order is in config.json (model_type and "
      "num_attention_heads), which is not there"
    )
  per_head = (0, 1, 2)
  is_falcon = kind in ("falcon", "RefinedWeb", "RefinedWebModel")
  if kind in ("gpt_neox", "gpt_neox_japanese", "bloom", "persimmon"):
    return parts_by_head(shape, (heads, 3), per_head, kind)
  is_grouped = is_falcon and stored.config.get(
    "new_decoder_architecture", kind == "RefinedWeb"
  )
  if is_grouped or kind == "internlm2":
    sharing = stored.number("num_kv_heads", "n_head_kv", "num_key_value_heads") or heads
    if heads % sharing:
      return Unknown(f"{heads} heads that are no multiple of {sharing} keys of {kind}")
    size = heads // sharing + 2  # Queries that share a key and a value, and these.
    chosen = (slice(0, size - 2), size - 2, size - 1)
    return parts_by_head(shape, (sharing, size), chosen, f"{kind}, grouped queries")
  if is_falcon and stored.config.get("multi_query", True):
    chosen = (slice(0, heads), heads, heads + 1)
    return parts_by_head(
      shape, (1, heads + 2), chosen, "falcon, one key for all queries"
    )
  if is_falcon:
    return parts_by_head(shape, (heads, 3), per_head, kind)
  return Unknown(
    f"query, key and value in one, in an order that is not known for {kind or 'it'}"
  )


def _heads(name, stored, *settings):
  """Number of heads; of a part for images the settings of the text say nothing."""
  return None if re.search(r"vis(ion|ual)", name) else stored.number(*settings)


def parts_by_head(shape, sizes, chosen, kind, labels=_QKV) -> Reading:
  """Rows that are (*sizes, head_dim): q, k and v are chosen of the second."""
  if shape[0] % (sizes[0] * sizes[1]):
    return Unknown(f"{shape[0]} rows are not {sizes[0]} x {sizes[1]} heads of {kind}")
  view = (*sizes, shape[0] // sizes[0] // sizes[1], shape[1])
  parts = []
  for label, index in zip(labels, chosen):
    axes = NeuronAxes((0, 1, 2) if isinstance(index, slice) else (0, 1))
    what = f"rows by head, as of {kind}"
    parts.append(
      Part(axes, what, label, view, (slice(None), index), evidence=BY_CONFIG)
    )
  return tuple(parts)


def contiguous(name: str, stored: Stored) -> Reading:
  """All queries, then keys, then values, of as many heads as the config says."""
  shape, kind = stored.shapes[name], stored.model_type
  heads = _heads(name, stored, "num_attention_heads", "n_heads", "n_head")
  if kind not in ("dbrx", "modernbert", "mpt", "phi3") or heads is None:
    return Unknown(
      "query, key and value in one; their order and sizes are known where config.json "
      "says the heads, and model_type phi3, modernbert, mpt or dbrx, not "
      f"{kind or 'nothing'}"
    )
  sharing = stored.number("num_key_value_heads", "kv_n_heads") or heads
  if len(shape) != 2 or shape[0] % (heads + 2 * sharing):
    return Unknown(f"rows that are no {heads} + 2 x {sharing} heads")
  size = shape[0] // (heads + 2 * sharing)
  sizes = (heads * size, sharing * size, sharing * size)
  return contiguous_parts(_QKV, sizes, 0, f"rows, as of {kind}", BY_CONFIG)


def thirds(name: str, stored: Stored) -> Reading:
  """Of modules in which queries, keys and values are always as many."""
  shape = stored.shapes[name]
  if len(shape) != 2 or shape[0] != 3 * shape[1]:
    return Unknown("query, key and value in one, but not of equal sizes")
  return contiguous_parts(_QKV, (shape[1],) * 3, 0, "rows, q k v")


def read_maxvit(name: str, stored: Stored) -> Reading:
  """Of timm's MaxViT and CoAtNet: as TensorFlow's by thirds, its own head by head."""
  architecture = str(stored.config.get("architecture", ""))
  if "_tf" in architecture:
    return thirds(name, stored)
  shape = stored.shapes[name]
  if "_rw" in architecture and shape[0] == 3 * shape[1] and shape[1] % 32 == 0:
    return parts_by_head(shape, (shape[1] // 32, 3), (0, 1, 2), architecture)
  return Unknown(
    "query, key and value in one, in thirds or head by head: architecture of "
    "config.json says which, a rule too (0,groups:3 or 0,groups:3,turns:HEADS)"
  )


def latent(name: str, stored: Stored) -> Reading:
  """Key and value of DeepSeek's latent attention: compressed, and then by head."""
  shape, heads = stored.shapes[name], stored.number("num_attention_heads")
  rank, turned = stored.number("kv_lora_rank"), stored.number("qk_rope_head_dim")
  plain, value = stored.number("qk_nope_head_dim"), stored.number("v_head_dim")
  if len(shape) != 2:
    return Unknown("key and value in one, but not of two axes")
  if last_module(name) == "kv_a_proj_with_mqa":
    if rank and turned and shape[0] == rank + turned:
      what = "rows, what is compressed, then the key of positions"
      sizes = (rank, turned)
      return contiguous_parts(("kv", "k_rope"), sizes, 0, what, BY_CONFIG)
  elif heads and plain and value and shape[0] == heads * (plain + value):
    chosen, sizes = (slice(0, plain), slice(plain, None)), (heads, plain + value)
    return parts_by_head(shape, sizes, chosen, "latent attention", ("k", "v"))
  return Unknown(
    "key and value in one; their sizes are in config.json (kv_lora_rank, "
    "qk_rope_head_dim, qk_nope_head_dim, v_head_dim, num_attention_heads), which has "
    "others or is not there"
  )


def refuse_unknown_order(name: str, stored: Stored) -> Reading:
  """A projection by its name, of an architecture, or in a wrapper, not known here."""
  return Unknown(
    "query, key and value in one, or a matrix of GPT-2's names, in an order that is "
    "not known; a rule says it (0, of equal thirds 0,groups:3)"
  )


def gate_up(name: str, stored: Stored) -> Reading:
  """The gate of a gated layer, and then what it gates."""
  shape = stored.shapes[name]
  if len(shape) != 2 or shape[0] % 2:
    return Unknown("gate and up in one, but not two equal halves of rows")
  return contiguous_parts(("gate", "up"), (shape[0] // 2,) * 2, 0, "rows, gate then up")


def experts(name: str, stored: Stored) -> Reading:
  """All experts in one tensor, (experts, in, out) or (experts, out, in)."""
  shape, hidden = stored.shapes[name], stored.number("hidden_size")
  if len(shape) != 3:
    return Unknown("experts, but not of three axes")
  module = name.rpartition(".")[2]
  inputs, outputs = (1, 2) if module != "down_proj" else (2, 1)
  if stored.model_type.startswith(("llama4", "gpt_oss")):
    neurons = 2  # (experts, in, out): the one order of these.
  elif hidden is not None and (shape[1] == hidden) != (shape[2] == hidden):
    # Which axis is that of the residual stream: in of gate and up, out of down.
    of_stream = 1 if shape[1] == hidden else 2
    neurons = of_stream if module == "down_proj" else 3 - of_stream
  else:
    return Unknown(
      "experts, (in, out) or (out, in); hidden_size of config.json, where it is not "
      f"the size of both axes, would tell; a rule does ({outputs},batch:0 or "
      f"{inputs},batch:0)"
    )
  what = f"an expert each, {'(in, out)' if neurons == 2 else '(out, in)'}"
  axes = NeuronAxes(neurons, batch=0)
  if module != "gate_up_proj":
    return (Part(axes, what, evidence=BY_CONFIG),)
  if shape[neurons] % 2:
    return Unknown("gate and up in one, but not two equal halves")
  half = shape[neurons] // 2
  # Those of gpt-oss take turns.
  takes_turns = (slice(0, None, 2), slice(1, None, 2))
  halves = (slice(0, half), slice(half, None))
  slices = takes_turns if stored.model_type.startswith("gpt_oss") else halves
  before = (slice(None),) * neurons
  return tuple(
    Part(axes, what, label, index=(*before, chosen), evidence=BY_CONFIG)
    for label, chosen in zip(("gate", "up"), slices)
  )
