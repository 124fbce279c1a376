"""Several layers in one tensor under a name that also stands for one: by family.

What takes the outputs says that there are several, and how many; in which order they
lie, only the family does.
"""

import re

from mhe_jax.layers.axes import NeuronAxes
from mhe_jax.report.neighbors import fraction_taken
from mhe_jax.report.parts import (
  BY_CONFIG,
  BY_NAME,
  BY_NEIGHBORS,
  Part,
  Reading,
  Unknown,
)
from mhe_jax.report.pytorch.fused import contiguous_parts, parts_by_head
from mhe_jax.report.stored import Stored

# Two halves, one after the other, that are multiplied.
_HALVES = re.compile(
  r"(.*\.)?(w12|weights_in|Wi|fc1|ff_proj|dense_h_to_4h|linear_fc1|gated_layers"
  r"|up_gated_layer|up_gate_proj|pointwise_conv1|input_linear|proj_1"
  r"|ff\.net\.0\.proj)\.weight"
)


def read_branch(name: str, stored: Stored) -> Reading:
  """Parts of a weight of which the layer after it takes a part; nothing of others."""
  for pattern, read in _FAMILIES:
    if pattern.fullmatch(name) and (reading := read(name, stored)):
      return reading
  times, taker = fraction_taken(name, stored)
  if times == 1:
    return ()
  rows = stored.shapes[name][0]
  if times == 2 and _HALVES.fullmatch(name):
    what = "rows, two halves that are multiplied"
    sizes = (rows // 2, rows // 2)
    return contiguous_parts(("first", "second"), sizes, 0, what, BY_NEIGHBORS)
  part = {2: "half", 3: "third", 4: "quarter"}[times]
  return Unknown(
    f"{taker} takes a {part} of what it gives: {times} layers in one tensor, and "
    "nothing says whether they lie one after the other or take turns; a rule does "
    f"(0,groups:{times} or 0,groups:{times},turns:COUNT)"
  )


def _read_lfm2(name, stored) -> Reading:
  rows, size = stored.shapes[name][:2]
  if rows != 3 * size:
    return ()
  evidence = BY_CONFIG if stored.model_type.startswith("lfm2") else BY_NAME
  return contiguous_parts(("B", "C", "x"), (size,) * 3, 0, "rows, B C x", evidence)


def _read_deberta(name, stored) -> Reading:
  shape = stored.shapes[name]
  heads = stored.number("num_attention_heads")
  if shape[0] != 3 * shape[1]:
    return ()
  if heads is None:
    return Unknown(
      "query, key and value of each head in turn; num_attention_heads of config.json "
      "says of how many, a rule too (0,groups:3,turns:HEADS)"
    )
  return parts_by_head(shape, (heads, 3), (0, 1, 2), "deberta")


def _read_qwen(name, stored) -> Reading:
  """Query and gate of each head: of Qwen3-Next, and what came after it."""
  shape, heads = stored.shapes[name], stored.number("num_attention_heads")
  if not stored.model_type.startswith(("qwen3_next", "qwen3_5")) or heads is None:
    return ()
  size = stored.number("head_dim") or shape[0] // (2 * heads)
  if shape[0] != 2 * heads * size:
    return ()
  return parts_by_head(shape, (heads, 2), (0, 1), "qwen3_next", ("q", "gate"))


def _read_linear_attention(name, stored) -> Reading:
  """What steers, or enters, a gated delta net: a piece for each head of the keys."""
  shape = stored.shapes[name]
  keys = stored.number("linear_num_key_heads")
  values = stored.number("linear_num_value_heads")
  key, value = (stored.number(f"linear_{x}_head_dim") for x in ("key", "value"))
  if not keys or not values or not key or not value or values % keys:
    return Unknown(
      "several layers in one, by heads that config.json tells (linear_num_key_heads, "
      "linear_num_value_heads, linear_key_head_dim, linear_value_head_dim)"
    )
  shared = values // keys
  if "in_proj_ba" in name:
    labels, sizes = ("b", "a"), (shared, shared)
  else:
    labels = ("q", "k", "v", "z")
    sizes = (key, key, shared * value, shared * value)
  if shape[0] != keys * sum(sizes):
    return Unknown(f"{shape[0]} rows are not {keys} heads of {sum(sizes)}")
  parts, start = [], 0
  for label, size in zip(labels, sizes):
    parts.append(
      Part(
        NeuronAxes((0, 1)),
        "rows by head, as of qwen3_next",
        label,
        (keys, sum(sizes), shape[1]),
        (slice(None), slice(start, start + size)),
        evidence=BY_CONFIG,
      )
    )
    start += size
  return tuple(parts)


def _read_phi3_small(name, stored) -> Reading:
  rows = stored.shapes[name][0]
  if stored.model_type != "phi3small" or rows % 2:
    return ()
  return tuple(
    Part(
      NeuronAxes(0),
      "rows, gate and up take turns",
      label,
      index=(slice(start, None, 2),),
      evidence=BY_CONFIG,
    )
    for start, label in enumerate(("gate", "up"))
  )


def _read_focal_net(name, stored) -> Reading:
  """Query, context, and a gate for each level."""
  rows, size = stored.shapes[name][:2]
  if not 2 <= rows - 2 * size <= 16:
    return ()
  labels, sizes = ("q", "context", "gates"), (size, size, rows - 2 * size)
  return contiguous_parts(labels, sizes, 0, "rows, q context gates", BY_NAME)


_FAMILIES = tuple(
  (re.compile(rf"(.*\.)?{pattern}\.weight"), read)
  for pattern, read in (
    (r"conv\.in_proj", _read_lfm2),
    (r"attention\.self\.in_proj", _read_deberta),
    (r"q_proj", _read_qwen),
    (r"in_proj_(ba|qkvz)", _read_linear_attention),
    (r"up_proj", _read_phi3_small),
    (r"(projection_in|modulation\.f)", _read_focal_net),
  )
)
