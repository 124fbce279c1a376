"""Several projections, gates or experts in one tensor: every order of their rows.

They are split here as the models split their outputs: the outputs of the basis vectors
are the columns of the weight, so that what a model calls its queries says which rows
these are.
"""

import numpy as np
import pytest
from stored import check_parts, matrices, select

# --- fused query, key and value --------------------------------------------------


def test_gpt2(tmp_path):
  shapes = {
    "h.0.attn.c_attn.weight": (8, 24),
    "h.0.attn.c_attn.bias": (24,),
    "h.0.attn.c_proj.weight": (8, 8),
    "h.0.mlp.c_fc.weight": (8, 32),
    "h.0.mlp.c_proj.weight": (32, 8),
    "h.0.crossattention.q_attn.weight": (8, 8),
    "h.0.crossattention.c_attn.weight": (8, 16),
  }
  selected, tensors = select(tmp_path, shapes)
  found = matrices(selected, tensors)
  outputs = tensors["h.0.attn.c_attn.weight"]  # Of the basis, x @ weight.
  parts = dict(zip("qkv", np.split(outputs, 3, axis=1)))
  check_parts(found, "h.0.attn.c_attn.weight", parts, 24)
  outputs = tensors["h.0.crossattention.c_attn.weight"]
  parts = dict(zip("kv", np.split(outputs, 2, axis=1)))
  check_parts(found, "h.0.crossattention.c_attn.weight", parts, 16)
  for name in list(shapes)[2:6]:
    np.testing.assert_array_equal(found[name], tensors[name].T)


def test_names_of_gpt2_with_linear_layers(tmp_path):
  # nanoGPT without biases.
  shapes = {
    "transformer.h.0.attn.c_attn.weight": (24, 8),
    "transformer.h.0.attn.c_proj.weight": (8, 8),
    "transformer.h.0.mlp.c_fc.weight": (32, 8),
    "transformer.h.0.mlp.c_proj.weight": (8, 32),
  }
  selected, tensors = select(tmp_path, shapes)
  found = matrices(selected, tensors)
  outputs = tensors["transformer.h.0.attn.c_attn.weight"].T
  parts = dict(zip("qkv", np.split(outputs, 3, axis=1)))
  check_parts(found, "transformer.h.0.attn.c_attn.weight", parts, 24)
  for name in list(shapes)[1:]:
    np.testing.assert_array_equal(found[name], tensors[name])


def test_both_layouts_of_gpt2_in_a_model(tmp_path):
  # A language model of GPT-2 and an encoder of CLIP: the own bias tells.
  shapes = {
    "gpt.h.0.mlp.c_fc.weight": (8, 32),
    "gpt.h.0.mlp.c_fc.bias": (32,),
    "clip.resblocks.0.mlp.c_fc.weight": (32, 8),
    "clip.resblocks.0.mlp.c_fc.bias": (32,),
    "clip.resblocks.0.mlp.c_proj.weight": (8, 32),
    "clip.resblocks.0.mlp.c_proj.bias": (8,),
  }
  selected, _ = select(tmp_path, shapes)
  sets = {layer.name: layer.shape for layer in selected.layers}
  assert sets == {
    "gpt.h.0.mlp.c_fc.weight": (1, 32, 8),
    "clip.resblocks.0.mlp.c_fc.weight": (1, 32, 8),
    "clip.resblocks.0.mlp.c_proj.weight": (1, 8, 32),
  }


def test_starcoder_shares_keys(tmp_path):
  shapes = {
    "transformer.h.0.attn.c_attn.weight": (12, 8),
    "transformer.h.0.attn.c_attn.bias": (12,),
  }
  config = {"model_type": "gpt_bigcode", "multi_query": True}
  selected, tensors = select(tmp_path, shapes, config)
  outputs = tensors["transformer.h.0.attn.c_attn.weight"].T
  parts = dict(zip("qkv", np.split(outputs, [8, 10], axis=1)))
  check_parts(
    matrices(selected, tensors), "transformer.h.0.attn.c_attn.weight", parts, 12
  )
  selected, _ = select(tmp_path, shapes, {"model_type": "gpt_bigcode"})
  assert list(selected.unknown) == ["transformer.h.0.attn.c_attn.weight"]


def test_layouts_of_gpt2_that_nothing_tells(tmp_path):
  selected, _ = select(tmp_path, {"h.0.attn.c_proj.weight": (8, 8)})
  assert "(1 or 0)" in selected.unknown["h.0.attn.c_proj.weight"]
  for name in ("h.0.attn.c_attn.base_layer.weight", "h.0.mlp.c_fc.base_layer.weight"):
    selected, _ = select(tmp_path, {name: (8, 24)})
    assert list(selected.unknown) == [name]
  contradiction = {"h.0.attn.c_attn.weight": (24, 8), "h.1.attn.c_attn.weight": (8, 24)}
  selected, _ = select(tmp_path, contradiction)
  assert set(selected.unknown) == set(contradiction)


@pytest.mark.parametrize(
  ("name", "config"),
  [
    (
      "gpt_neox.layers.0.attention.query_key_value.weight",
      {"model_type": "gpt_neox", "num_attention_heads": 4},
    ),
    (
      "gpt_neox.layers.0.attention.query_key_value.weight",
      {"num_attention_heads": 4},
    ),
    ("h.0.self_attention.query_key_value.weight", {"model_type": "bloom", "n_head": 4}),
    (
      "transformer.h.0.self_attention.query_key_value.weight",
      {"model_type": "falcon", "num_attention_heads": 4, "multi_query": False},
    ),
    (
      "model.layers.0.self_attn.query_key_value.weight",
      {"model_type": "persimmon", "num_attention_heads": 4},
    ),
  ],
  ids=["neox", "neox by name", "bloom", "falcon-rw", "persimmon"],
)
def test_rows_of_heads(tmp_path, name, config):
  selected, tensors = select(tmp_path, {name: (24, 8)}, config)
  outputs = tensors[name].T.reshape(8, 4, 3, 2)
  parts = {label: outputs[:, :, i] for i, label in enumerate("qkv")}
  check_parts(matrices(selected, tensors), name, parts, 24)


FALCON = "transformer.h.0.self_attention.query_key_value.weight"


def test_falcon_7b(tmp_path):
  config = {"model_type": "falcon", "num_attention_heads": 4, "multi_query": True}
  selected, tensors = select(tmp_path, {FALCON: (12, 8)}, config)
  outputs = tensors[FALCON].T.reshape(8, 6, 2)
  parts = {"q": outputs[:, :-2], "k": outputs[:, -2], "v": outputs[:, -1]}
  check_parts(matrices(selected, tensors), FALCON, parts, 12)


FALCON_40B = {
  "model_type": "falcon",
  "num_attention_heads": 4,
  "num_kv_heads": 2,
  "new_decoder_architecture": True,
  "multi_query": True,
}
INTERNLM = {
  "model_type": "internlm2",
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
}


@pytest.mark.parametrize(
  ("name", "config"),
  [(FALCON, FALCON_40B), ("model.layers.0.attention.wqkv.weight", INTERNLM)],
  ids=["falcon-40b", "internlm2"],
)
def test_groups_of_queries(tmp_path, name, config):
  selected, tensors = select(tmp_path, {name: (16, 8)}, config)
  outputs = tensors[name].T.reshape(8, 2, 4, 2)
  parts = {"q": outputs[:, :, :-2], "k": outputs[:, :, -2], "v": outputs[:, :, -1]}
  check_parts(matrices(selected, tensors), name, parts, 16)


@pytest.mark.parametrize(
  ("config", "shape"),
  [
    (None, (24, 8)),
    ({"model_type": "chatglm", "num_attention_heads": 4}, (24, 8)),
    ({"model_type": "bloom", "n_head": 5}, (24, 8)),
    ({"model_type": "bloom", "n_head": True}, (24, 8)),
    ({**FALCON_40B, "num_attention_heads": 2, "num_kv_heads": 4}, (24, 8)),
    ({**FALCON_40B, "num_attention_heads": 5}, (24, 8)),
  ],
)
def test_orders_that_nothing_tells(tmp_path, config, shape):
  selected, _ = select(tmp_path, {FALCON: shape}, config)
  assert list(selected.unknown) == [FALCON] and not selected.layers


@pytest.mark.parametrize(
  ("name", "config", "sizes"),
  [
    (
      "model.layers.0.self_attn.qkv_proj.weight",
      {"model_type": "phi3", "num_attention_heads": 4, "num_key_value_heads": 2},
      (8, 4, 4),
    ),
    (
      "transformer.blocks.0.attn.Wqkv.weight",
      {"model_type": "mpt", "n_heads": 4, "attn_config": {"kv_n_heads": 1}},
      (8, 2, 2),
    ),
    (
      "model.layers.0.attn.Wqkv.weight",
      {"model_type": "modernbert", "num_attention_heads": 4},
      (8, 8, 8),
    ),
  ],
  ids=["phi3", "mpt", "modernbert"],
)
def test_queries_then_keys_then_values(tmp_path, name, config, sizes):
  selected, tensors = select(tmp_path, {name: (sum(sizes), 8)}, config)
  outputs = np.split(tensors[name].T, np.cumsum(sizes)[:-1], axis=1)
  parts = dict(zip("qkv", outputs))
  check_parts(matrices(selected, tensors), name, parts, sum(sizes))
  for other in (None, {**config, "model_type": "codegen"}):
    (tmp_path / "config.json").unlink()
    selected, _ = select(tmp_path, {name: (sum(sizes), 8)}, other)
    assert list(selected.unknown) == [name]
    (tmp_path / "config.json").write_text("{}")


@pytest.mark.parametrize(
  "name",
  [
    "blocks.0.attn.qkv.weight",
    "visual.transformer.resblocks.0.attn.in_proj_weight",
    "model.layers.0.self_attn.W_pack.weight",
    "transformer.layers.0.0.to_qkv.weight",
  ],
)
def test_thirds(tmp_path, name):
  selected, tensors = select(tmp_path, {name: (24, 8)})
  parts = dict(zip("qkv", np.split(tensors[name].T, 3, axis=1)))
  check_parts(matrices(selected, tensors), name, parts, 24)
  selected, _ = select(tmp_path, {name: (20, 8)})
  assert list(selected.unknown) == [name]


@pytest.mark.parametrize(
  "name",
  [
    "attention.qkv.weight",
    "attention.qkv.linear.weight",
    "self_attn.qkv_proj.base_layer.weight",
    "self_attention.linear_qkv.weight",
    "att_proj.weight",
  ],
)
def test_projections_in_one_that_are_not_known(tmp_path, name):
  # As one set of rows they would look like one layer.
  selected, _ = select(tmp_path, {name: (24, 8)})
  assert list(selected.unknown) == [name] and "0,groups:3" in selected.unknown[name]
  selected, _ = select(tmp_path, {"input_blocks.1.1.qkv.weight": (24, 8, 1)})
  assert not selected.layers
  lora = name.replace("weight", "lora_A.weight")
  assert len(select(tmp_path, {lora: (4, 8)})[0].layers) == 1


# --- gates and experts -----------------------------------------------------------


def test_gate_and_up(tmp_path):
  name = "model.layers.0.mlp.gate_up_proj.weight"
  selected, tensors = select(tmp_path, {name: (12, 8)})
  parts = dict(zip(("gate", "up"), np.split(tensors[name].T, 2, axis=1)))
  check_parts(matrices(selected, tensors), name, parts, 12)


@pytest.mark.parametrize(
  ("module", "following"),
  [
    ("blocks.0.mlp.w12", "w3"),  # DINOv2, and
    ("encoder.layer.0.mlp.weights_in", "weights_out"),  # of transformers.
    ("layers.0.mlp.Wi", "Wo"),  # ModernBERT
    ("blocks.0.mlp.fc1", "fc2"),  # timm
    ("blocks.0.ff_proj", "ff_out"),  # OLMo
    ("layers.0.mlp.dense_h_to_4h", "dense_4h_to_h"),  # ChatGLM
    ("layers.0.mlp.linear_fc1", "linear_fc2"),  # Megatron
    ("encoder.layer.0.mlp.gated_layers", "wo"),  # MosaicBERT
    ("encoder.layer.0.mlp.up_gated_layer", "down_layer"),  # Jina's BERT
    ("encoder.layer.0.mlp.up_gate_proj", "down_proj"),  # GTE
  ],
)
def test_halves_that_are_multiplied(tmp_path, module, following):
  name = f"{module}.weight"
  after = f"{module.rpartition('.')[0]}.{following}.weight"
  selected, tensors = select(tmp_path, {name: (12, 8), after: (8, 6)})
  parts = dict(zip(("first", "second"), np.split(tensors[name].T, 2, axis=1)))
  check_parts(matrices(selected, tensors), name, parts, 12)
  for others, evidence in (({after: (8, 12)}, "neighbors"), ({}, "assumed")):
    selected, tensors = select(tmp_path, {name: (12, 8), **others})
    np.testing.assert_array_equal(matrices(selected, tensors)[name], tensors[name])
    (layer,) = (x for x in selected.layers if x.name == name)
    assert layer.part.evidence == evidence
  selected, _ = select(tmp_path, {name: (12, 8), after: (8, 3)})
  assert "takes a quarter of what it gives" in selected.unknown[name]


def test_halves_of_a_convolution_that_are_multiplied(tmp_path):
  module = "encoder.layers.0.conv_module"  # Of a Conformer.
  name = f"{module}.pointwise_conv1.weight"
  shapes = {
    name: (12, 6, 1),
    f"{module}.depthwise_conv.weight": (6, 1, 31),
    f"{module}.pointwise_conv2.weight": (6, 6, 1),
  }
  selected, tensors = select(tmp_path, shapes)
  parts = dict(zip(("first", "second"), np.split(tensors[name][..., 0].T, 2, axis=1)))
  check_parts(matrices(selected, tensors), name, parts, 12)


def test_latent_attention(tmp_path):
  config = {
    "model_type": "deepseek_v3", "num_attention_heads": 2, "kv_lora_rank": 6,
    "qk_rope_head_dim": 4, "qk_nope_head_dim": 3, "v_head_dim": 5,
  }  # fmt: skip
  module = "model.layers.0.self_attn"
  compressed, full = f"{module}.kv_a_proj_with_mqa.weight", f"{module}.kv_b_proj.weight"
  shapes = {compressed: (10, 8), full: (16, 6)}
  selected, tensors = select(tmp_path, shapes, config)
  found = matrices(selected, tensors)
  kv, k_rope = np.split(tensors[compressed].T, [6], axis=1)
  check_parts(found, compressed, {"kv": kv, "k_rope": k_rope}, 10)
  k, v = np.split(tensors[full].T.reshape(6, 2, 8), [3], axis=2)
  check_parts(found, full, {"k": k, "v": v}, 16)
  for others in ({}, {**config, "v_head_dim": 4, "kv_lora_rank": 5}):
    selected, _ = select(tmp_path, shapes, others)
    assert set(selected.unknown) == set(shapes)
  selected, _ = select(tmp_path, {full: (16, 3, 2)}, config)
  assert "not of two axes" in selected.unknown[full]


def test_mamba(tmp_path):
  mixer = "backbone.layers.0.mixer"
  shapes = {
    f"{mixer}.A_log": (12, 4),
    f"{mixer}.in_proj.weight": (24, 8),
    f"{mixer}.conv1d.weight": (12, 1, 4),
    f"{mixer}.x_proj.weight": (11, 12),
    f"{mixer}.dt_proj.weight": (12, 3),
    f"{mixer}.out_proj.weight": (8, 12),
  }
  selected, tensors = select(tmp_path, shapes)
  assert not selected.unknown
  found = matrices(selected, tensors)
  for name, labels, ends in (
    ("in_proj", ("x", "gate"), [12]),
    ("x_proj", ("dt", "B", "C"), [3, 7]),
  ):
    key = f"{mixer}.{name}.weight"
    parts = dict(zip(labels, np.split(tensors[key].T, ends, axis=1)))
    check_parts(found, key, parts, len(tensors[key]))
  shapes[f"{mixer}.in_proj.weight"] = (25, 8)
  assert list(select(tmp_path, shapes)[0].unknown) == [f"{mixer}.in_proj.weight"]


def test_mamba2(tmp_path):
  mixer = "backbone.layers.0.mixer"
  shapes = {
    f"{mixer}.A_log": (3,),
    f"{mixer}.in_proj.weight": (12 + 12 + 4 + 4 + 3, 8),
    f"{mixer}.conv1d.weight": (20, 1, 4),
    f"{mixer}.out_proj.weight": (8, 12),
  }
  selected, tensors = select(tmp_path, shapes)
  key = f"{mixer}.in_proj.weight"
  labels = ("gate", "x", "B", "C", "dt")
  parts = dict(zip(labels, np.split(tensors[key].T, [12, 24, 28, 32], axis=1)))
  check_parts(matrices(selected, tensors), key, parts, 35)
  # Of no state space: a layer as others.
  selected, tensors = select(tmp_path, {"attention.in_proj.weight": (24, 8)})
  assert [layer.shape for layer in selected.layers] == [(1, 24, 8)]


def test_mixtral(tmp_path):
  experts = "model.layers.0.block_sparse_moe"
  shapes = {
    f"{experts}.gate.weight": (4, 8),
    f"{experts}.experts.0.w1.weight": (12, 8),
    f"{experts}.experts.0.w2.weight": (8, 12),
    f"{experts}.experts.0.w3.weight": (12, 8),
  }
  selected, tensors = select(tmp_path, shapes)
  found = matrices(selected, tensors)
  assert set(found) == set(shapes)
  for name, w in found.items():
    np.testing.assert_array_equal(w, tensors[name])


@pytest.mark.parametrize(
  ("config", "is_in_out", "takes_turns"),
  [
    ({"model_type": "llama4", "text_config": {"hidden_size": 8}}, True, False),
    ({"model_type": "llama4_text"}, True, False),
    ({"model_type": "gpt_oss", "hidden_size": 8}, True, True),
    ({"model_type": "mixtral", "hidden_size": 8}, False, False),
    ({"model_type": "qwen3_moe", "hidden_size": 8}, False, False),
  ],
  ids=["llama4", "llama4 alone", "gpt-oss", "mixtral", "qwen3"],
)
def test_experts_in_one_tensor(tmp_path, config, is_in_out, takes_turns):
  experts = "model.layers.0.mlp.experts"
  shapes = {
    f"{experts}.gate_up_proj": (3, 8, 20) if is_in_out else (3, 20, 8),
    f"{experts}.down_proj": (3, 10, 8) if is_in_out else (3, 8, 10),
    f"{experts}.gate_up_proj_bias": (3, 20),
  }
  selected, tensors = select(tmp_path, shapes, config)
  found = matrices(selected, tensors)
  outputs = tensors[f"{experts}.gate_up_proj"]  # (experts, in, out), of the basis.
  outputs = outputs if is_in_out else outputs.transpose(0, 2, 1)
  if takes_turns:
    gate, up = outputs[..., ::2], outputs[..., 1::2]
  else:
    gate, up = np.split(outputs, 2, axis=-1)
  for label, part in (("gate", gate), ("up", up)):
    w = found[f"{experts}.gate_up_proj[{label}]"]
    np.testing.assert_array_equal(w, part.transpose(0, 2, 1))
  down = tensors[f"{experts}.down_proj"]
  down = down.transpose(0, 2, 1) if is_in_out else down
  np.testing.assert_array_equal(found[f"{experts}.down_proj"], down)
  assert list(selected.skipped) == [f"{experts}.gate_up_proj_bias"]


def test_experts_of_equal_sizes(tmp_path):
  experts = "model.layers.0.mlp.experts"
  shapes = {f"{experts}.gate_up_proj": (3, 8, 8), f"{experts}.down_proj": (3, 8, 8)}
  for config in (None, {"hidden_size": 8}, {"hidden_size": 5}):
    selected, _ = select(tmp_path, shapes, config)
    assert set(selected.unknown) == set(shapes)
    assert "(2,batch:0 or 1,batch:0)" in selected.unknown[f"{experts}.gate_up_proj"]
