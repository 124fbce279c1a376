"""Names and shapes of real checkpoints: rows of the table, and what they leave open."""

import numpy as np
import pytest
from sets import normal32
from stored import matrices, select

from mhe_jax.report import redundancy

# --- dense layers, embeddings, outputs -------------------------------------------


def test_llama(tmp_path):
  shapes = {
    "model.embed_tokens.weight": (20, 8),
    "model.layers.0.self_attn.q_proj.weight": (8, 8),
    "model.layers.0.self_attn.k_proj.weight": (4, 8),
    "model.layers.0.self_attn.v_proj.weight": (4, 8),
    "model.layers.0.self_attn.o_proj.weight": (8, 8),
    "model.layers.0.mlp.gate_proj.weight": (12, 8),
    "model.layers.0.mlp.up_proj.weight": (12, 8),
    "model.layers.0.mlp.down_proj.weight": (8, 12),
    "model.layers.0.input_layernorm.weight": (8,),
    "model.norm.weight": (8,),
    "lm_head.weight": (20, 8),
  }
  selected, tensors = select(tmp_path, shapes)
  assert not selected.unknown
  assert selected.skipped == {
    "model.layers.0.input_layernorm.weight": "fewer than two axes",
    "model.norm.weight": "fewer than two axes",
  }
  found = matrices(selected, tensors)
  assert list(found) == sorted(name for name, s in shapes.items() if len(s) == 2)
  for name, w in found.items():  # A row each: heads are one set.
    np.testing.assert_array_equal(w, tensors[name])
  roles = {layer.name: layer.part.role for layer in selected.layers}
  assert [name for name, role in roles.items() if role == "output"] == [
    "lm_head.weight"
  ]


@pytest.mark.parametrize(
  ("output", "others"),
  [
    ("fc.weight", ["layer1.0.conv1.weight", "layer1.0.downsample.0.weight"]),
    ("head.weight", ["blocks.0.mlp.fc1.weight"]),
    ("heads.head.weight", ["encoder.layers.encoder_layer_0.mlp.0.weight"]),
    ("classifier.6.weight", ["classifier.0.weight", "classifier.3.weight"]),
    ("classifier.weight", ["bert.pooler.dense.weight"]),
    ("score.weight", ["model.embed_tokens.weight"]),
    ("output.weight", ["layers.0.attention.output.weight"]),
    ("embed_out.weight", ["gpt_neox.embed_in.weight"]),
    ("cls.predictions.decoder.weight", ["decoder.fc.weight"]),
    ("language_model.lm_head.weight", ["model.head.proj.weight"]),
    ("lm_head.decoder.weight", ["lm_head.dense.weight"]),
    ("bert.cls.predictions.decoder.weight", ["model.decoder.weight"]),
    ("classifier.out_proj.weight", ["classifier.dense.weight"]),
    ("vocab_projector.weight", ["vocab_transform.weight"]),
    ("module.fc.weight", ["module.layer1.0.conv1.weight"]),
    ("_orig_mod.module.classifier.6.weight", ["_orig_mod.module.classifier.0.weight"]),
  ],
)
def test_output_layers(tmp_path, output, others):
  shapes = {name: (6, 5, 3, 3) if "layer1" in name else (6, 5) for name in others}
  selected, _ = select(tmp_path, {**shapes, output: (4, 6)})
  roles = {layer.name: layer.part.role for layer in selected.layers}
  assert roles == {**dict.fromkeys(others, "hidden"), output: "output"}


def test_convolutions_that_are_output_layers(tmp_path):
  shapes = {
    "classifier.1.weight": (10, 8, 1, 1),  # SqueezeNet.
    "classifier.1.bias": (10,),
    "head.fc.weight": (10, 8, 1, 1),  # timm.
    "head.fc.bias": (10,),
  }
  selected, _ = select(tmp_path, shapes)
  assert [layer.part.role for layer in selected.layers] == ["output", "output"]


def test_bert_and_positions(tmp_path):
  shapes = {
    "embeddings.word_embeddings.weight": (20, 8),
    "encoder.block.0.layer.0.SelfAttention.q.weight": (6, 8),
    "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": (32, 4),
    "wte.weight": (20, 8),
    "wpe.weight": (16, 8),
    "h.0.attn.bias": (1, 1, 16, 16),
  }
  selected, _ = select(tmp_path, shapes)
  what = {layer.name: layer.part.what for layer in selected.layers}
  assert [name for name, x in what.items() if "embedding" in x] == [
    "embeddings.word_embeddings.weight",
    "wte.weight",
  ]
  assert set(selected.skipped) == {
    "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    "wpe.weight",
    "h.0.attn.bias",
  }


def test_parts_for_images_have_heads_of_their_own(tmp_path):
  name = "vision_model.layers.0.self_attn.qkv_proj.weight"
  config = {"text_config": {"model_type": "phi3", "num_attention_heads": 4}}
  selected, _ = select(tmp_path, {name: (24, 8), name[7:]: (24, 8)}, config)
  assert list(selected.unknown) == [name] and len(selected.layers) == 3


def test_norms_of_several_axes(tmp_path):
  shapes = {
    name: (6, 5) for name in ("a.LayerNorm.weight", "ln_f.weight", "line.weight")
  }
  selected, _ = select(tmp_path, shapes)
  assert [layer.name for layer in selected.layers] == ["line.weight"]
  assert set(selected.unknown) == {"a.LayerNorm.weight", "ln_f.weight"}


def test_tied_embeddings(tmp_path):
  shapes = {"model.embed_tokens.weight": (6, 5), "model.layers.0.x.weight": (6, 5)}
  config = {"tie_word_embeddings": True}
  select(tmp_path, shapes, config)
  report = redundancy(tmp_path)
  note = "Tied, the embedding and the output layer: model.embed_tokens.weight."
  assert note in str(report)
  assert report["model.embed_tokens.weight"].role == "hidden"
  select(tmp_path, {**shapes, "lm_head.weight": (6, 5)}, config)
  assert note not in str(redundancy(tmp_path))
  selected, _ = select(tmp_path, {"shared.weight": (6, 5)}, config)  # T5.
  assert "the output layer" in selected.layers[0].part.what


def test_lora(tmp_path):
  base = "base_model.model.model.layers.0.self_attn.q_proj"
  shapes = {
    f"{base}.lora_A.weight": (4, 16),
    f"{base}.lora_B.weight": (12, 4),
    f"{base}.lora_A.default.weight": (4, 16),
    "base_model.model.model.embed_tokens.lora_embedding_A": (4, 30),
  }
  selected, tensors = select(tmp_path, shapes)
  for name, w in matrices(selected, tensors).items():
    np.testing.assert_array_equal(w, tensors[name])
  assert len(selected.layers) == 3
  assert list(selected.unknown) == [
    "base_model.model.model.embed_tokens.lora_embedding_A"
  ]


# --- recurrent cells and convolutions --------------------------------------------


@pytest.mark.parametrize(("cell", "gates"), [("lstm", 4), ("gru", 3), ("rnn", 1)])
def test_recurrent_cells(tmp_path, cell, gates):
  shapes = {
    f"{cell}.weight_ih_l0": (gates * 6, 5),
    f"{cell}.weight_hh_l0": (gates * 6, 6),
    f"{cell}.bias_ih_l0": (gates * 6,),
    f"{cell}.weight_ih_l0_reverse": (gates * 6, 5),
    f"{cell}.weight_hh_l0_reverse": (gates * 6, 6),
    f"{cell}_cell.weight_ih": (gates * 6, 5),
    f"{cell}_cell.weight_hh": (gates * 6, 6),
  }
  selected, tensors = select(tmp_path, shapes)
  found = matrices(selected, tensors)
  assert set(found) == {name for name in shapes if "weight" in name}
  for name, w in found.items():
    np.testing.assert_array_equal(
      np.concatenate(w.reshape(gates, 6, -1)), tensors[name]
    )


def test_lstm_with_a_projection(tmp_path):
  shapes = {
    "weight_ih_l0": (24, 5),
    "weight_hh_l0": (24, 3),
    "weight_hr_l0": (3, 6),
    "other.weight_ih_l0": (24, 5),
  }
  selected, _ = select(tmp_path, shapes)
  sets = {layer.name: layer.shape for layer in selected.layers}
  assert sets == {
    "weight_ih_l0": (4, 6, 5),
    "weight_hh_l0": (4, 6, 3),
    "weight_hr_l0": (1, 3, 6),
  }
  assert list(selected.unknown) == ["other.weight_ih_l0"]


CONVOLUTIONS = {
  # Of torchvision, timm, diffusers and others.
  "conv1.weight": (8, 3, 7, 7),
  "layer1.0.conv2.weight": (8, 8, 3, 3),
  "layer2.0.downsample.0.weight": (8, 8, 1, 1),
  "features.10.weight": (8, 8, 3, 3),
  "patch_embed.proj.weight": (8, 3, 16, 16),
  "stem.0.weight": (8, 8, 4, 4),
  "encoder.conv_layers.0.conv.weight": (8, 8, 3),
  "conv_of_gray_images.weight": (8, 1, 3, 3),
  "vision_model.embeddings.patch_embedding.weight": (8, 3, 16, 16),
  "down_blocks.0.attentions.0.proj_in.weight": (8, 8, 1, 1),
  "up_blocks.0.upsamplers.0.conv.weight": (8, 8, 3, 3),
}


def test_convolutions(tmp_path):
  selected, tensors = select(tmp_path, CONVOLUTIONS)
  found = matrices(selected, tensors)
  assert set(found) == set(CONVOLUTIONS)
  for name, w in found.items():
    np.testing.assert_array_equal(w, tensors[name].reshape(8, -1))


def test_depthwise_convolutions(tmp_path):
  # Filters of different channels are no neurons of one layer, as in Flax.
  shapes = {
    "stages.0.layers.0.dwconv.weight": (8, 1, 7, 7),
    "blocks.0.conv_dw.weight": (8, 1, 3, 3),
    "layers.0.mixer.conv1d.weight": (8, 1, 4),
    "layers.0.mixer.conv1d.bias": (8,),
    "a.depthwise.weight": (8, 1, 3),
    "one.conv.weight": (8, 1, 3, 3),
  }
  selected, _ = select(tmp_path, shapes)
  assert [layer.name for layer in selected.layers] == []
  assert {"one.conv.weight"} == {*selected.unknown}
  # Torchvision's names of these say nothing, but more than one is not of the input.
  shapes = {"features.0.0.weight": (8, 3, 3, 3), "features.1.0.weight": (8, 1, 3, 3)}
  assert len(select(tmp_path, shapes)[0].layers) == 2
  selected, _ = select(tmp_path, {**shapes, "features.2.0.weight": (16, 1, 3, 3)})
  assert {*selected.unknown} == {"features.1.0.weight", "features.2.0.weight"}


GROUPED = {  # The second convolution of a block: its name, its norm; those before it.
  "torchvision, timm": ("conv2", "bn2", "conv1", "bn1"),
  "detectron2": ("conv2", "conv2.norm", "conv1", "conv1.norm"),
  "RegNet, timm": ("conv2.conv", "conv2.bn", "conv1.conv", "conv1.bn"),
  "RegNet, torchvision": ("f.b.0", "f.b.1", "f.a.0", "f.a.1"),
  "RegNet, transformers": (
    *("layer.1.convolution", "layer.1.normalization"),
    *("layer.0.convolution", "layer.0.normalization"),
  ),
}


@pytest.mark.parametrize("names", GROUPED.values(), ids=GROUPED)
def test_groups_of_convolutions_that_the_layer_before_tells(tmp_path, names):
  second, norm, first, first_norm = (f"layer1.0.{name}" for name in names)

  def read(inputs, outputs=12, given=12, normed=12, window=1, own=12):
    shapes = {
      f"{first}.weight": (given, 5, window, window),
      f"{first_norm}.running_mean": (normed,),
      f"{second}.weight": (outputs, inputs, 3, 3),
      f"{norm}.weight": (own,),
      f"{norm}.running_mean": (own,),
    }
    selected, tensors = select(tmp_path, shapes)
    return selected, tensors[f"{second}.weight"], f"{second}.weight"

  selected, w, name = read(inputs=3)
  np.testing.assert_array_equal(
    matrices(selected, {name: w, f"{first}.weight": normal32(12, 5, 1, 1)})[name],
    w.reshape(4, 3, -1),
  )
  for inputs in (12, 24, 5):  # All of them; more, as after a concatenation; others.
    selected, w, name = read(inputs)
    assert {layer.name: layer.shape for layer in selected.layers}[name] == (
      *(1, 12, inputs * 9),
    )
  selected, _, name = read(inputs=1)
  assert "depthwise" in selected.skipped[name]
  selected, w, name = read(inputs=6)
  assert {x.name: x.shape for x in selected.layers}[name] == (2, 6, 54)
  selected, _, name = read(inputs=6, window=3)  # Or a gated linear unit between them.
  assert "(0,groups:2 or 0)" in selected.unknown[name]
  # A pixel shuffle leaves a quarter of the channels, too, after windows of 3 x 3.
  selected, _, name = read(inputs=3, window=3)
  assert "pixel shuffle" in selected.unknown[name]
  assert "(0,groups:4 or 0)" in selected.unknown[name]
  selected, _, name = read(inputs=12, window=3)
  assert name in {layer.name for layer in selected.layers}
  selected, _, name = read(inputs=1, window=3)
  assert "depthwise" in selected.skipped[name]
  selected, _, name = read(inputs=5, given=20, normed=20, outputs=10, own=10)
  assert selected.unknown[name].endswith("a rule says its axes (0)")  # 4 of 10.
  for changes in ({"outputs": 24}, {"given": 24}, {"normed": 6}):  # Norms of others.
    selected, _, _ = read(inputs=3, **changes)
    assert all(layer.part.axes.groups == 1 for layer in selected.layers)


def test_convolutions_that_a_bias_tells(tmp_path):
  shapes = {
    "net.0.weight": (8, 3, 3, 3),  # 8 outputs: the first axis.
    "net.0.bias": (8,),
    "net.2.weight": (8, 5, 3, 3),  # 5 outputs: the second.
    "net.2.bias": (5,),
    "net.4.weight": (6, 6, 3, 3),  # Either.
    "net.4.bias": (6,),
  }
  selected, tensors = select(tmp_path, shapes)
  found = matrices(selected, tensors)
  np.testing.assert_array_equal(found["net.0.weight"], normal32(8, 27))
  expected = tensors["net.2.weight"].transpose(1, 0, 2, 3).reshape(5, -1)
  np.testing.assert_array_equal(found["net.2.weight"], expected)
  assert list(selected.unknown) == ["net.4.weight"]


def test_generator_of_dcgan(tmp_path):
  # Transposed, in a Sequential, without biases: the norms that follow tell.
  shapes = {
    "main.0.weight": (10, 16, 4, 4),
    "main.1.weight": (16,),
    "main.1.running_mean": (16,),
    "main.3.weight": (16, 8, 4, 4),
    "main.4.weight": (8,),
    "main.4.running_mean": (8,),
    "main.6.weight": (8, 3, 4, 4),
  }
  selected, _ = select(tmp_path, shapes)
  sets = {layer.name: layer.shape for layer in selected.layers}
  assert sets == {"main.0.weight": (1, 16, 160), "main.3.weight": (1, 8, 256)}
  assert "(0 or 1)" in selected.unknown["main.6.weight"]


def test_transposed_convolutions(tmp_path):
  shapes = {
    "decoder.conv_transpose1.weight": (8, 5, 2, 2),
    "deconv.weight": (6, 6, 2, 2),
    "convolutions.up1.up.weight": (8, 8, 3, 3),
    "ups.1.weight": (8, 8, 3),
    "conv_up1.weight": (8, 8, 3, 3),  # Of ESRGAN, plain ones.
    "conv_up1.bias": (8,),
    "upconv1.weight": (8, 8, 3, 3),
    "upconv2.weight": (8, 4, 2, 2),
    "upconv2.bias": (4,),
    "stem.conv_t.weight": (8, 8, 5, 1, 1),  # Over time.
    "deconv2.weight": (8, 3, 2, 2),
    "deconv2.bias": (6,),  # Two groups.
  }
  selected, tensors = select(tmp_path, shapes)
  found = matrices(selected, tensors)
  assert set(found) == {
    "decoder.conv_transpose1.weight",
    "deconv.weight",
    "upconv2.weight",
  }
  for name, w in found.items():
    x = tensors[name]
    np.testing.assert_array_equal(w, x.transpose(1, 0, 2, 3).reshape(x.shape[1], -1))
  assert set(selected.unknown) == {
    "deconv2.weight",
    "convolutions.up1.up.weight",
    "ups.1.weight",
    "conv_up1.weight",
    "upconv1.weight",
    "stem.conv_t.weight",
  }


# --- Flax, and what is not known -------------------------------------------------


@pytest.mark.parametrize("separator", ["/", "."])
def test_flax(tmp_path, separator):
  shapes = {
    "params/Dense_0/kernel": (8, 6),
    "params/Dense_0/bias": (6,),
    "params/Conv_0/kernel": (3, 3, 4, 6),
    "params/Embed_0/embedding": (20, 8),
    "params/LayerNorm_0/scale": (8,),
    "params/attention/query/kernel": (8, 2, 4),
    "params/attention/query/bias": (2, 4),
    "opt_state/0/mu/Dense_0/kernel": (8, 6),
  }
  shapes = {name.replace("/", separator): shape for name, shape in shapes.items()}
  selected, tensors = select(tmp_path, shapes)
  found = {k.replace(separator, "/"): w for k, w in matrices(selected, tensors).items()}
  tensors = {k.replace(separator, "/"): x for k, x in tensors.items()}
  assert set(found) == {
    "params/Dense_0/kernel",
    "params/Conv_0/kernel",
    "params/Embed_0/embedding",
    "params/attention/query/kernel",
  }
  name = "params/Dense_0/kernel"
  np.testing.assert_array_equal(found[name], tensors[name].T)
  name = "params/Conv_0/kernel"
  expected = tensors[name].transpose(3, 2, 0, 1).reshape(6, -1)
  np.testing.assert_array_equal(found[name], expected)
  name = "params/attention/query/kernel"
  np.testing.assert_array_equal(found[name], tensors[name].reshape(8, 8).T)


def test_states_of_optimizers(tmp_path):
  parameter = "Dense_0/kernel"
  states = [
    f"{state}/{parameter}"
    for state in (
      "opt_state/0/mu",
      "optimizer/0/mu",
      "optim_state/exp_avg",
      "state/1/0/mu",  # Of a name that says nothing.
      "state/1/0/nu",
      "sgd/0/trace",
    )
  ]
  shapes = dict.fromkeys([f"params/{parameter}", f"ema/{parameter}", *states], (8, 6))
  selected, _ = select(tmp_path, {**shapes, "adam/count": (), "adam/mu/kernel": (3, 4)})
  # Averages of parameters are parameters.
  assert {x.name for x in selected.layers} == {
    f"params/{parameter}",
    f"ema/{parameter}",
  }
  reasons = {selected.skipped[name] for name in [*states, "adam/mu/kernel"]}
  assert reasons == {"state of an optimizer"}
  # The mean of an autoencoder is a layer.
  shapes = dict.fromkeys(
    ["encoder.mu.weight", "encoder.mu.out.weight", "encoder.sigma.out.weight"], (4, 8)
  )
  assert len(select(tmp_path, shapes)[0].layers) == 3


def test_names_that_differ_in_separators(tmp_path):
  shapes = {"a/attn/qkv.weight": (24, 8), "a.attn.qkv.weight": (12, 4)}
  selected, _ = select(tmp_path, shapes)
  assert len(selected.layers) == 3 and len(selected.unknown) == 1


def test_what_flax_leaves_open(tmp_path):
  shapes = {
    "Dense_0/kernel": (8, 6),
    "moe/wi/kernel": (4, 8, 6),
    "mlp/~/linear_0/w": (8, 6),
  }
  selected, _ = select(tmp_path, shapes)
  assert {layer.name for layer in selected.layers} == {"Dense_0/kernel"}
  assert "a rule says which" in selected.unknown["moe/wi/kernel"]
  assert "-1,batch:0" in selected.unknown["moe/wi/kernel"]
  assert "its name is not known" in selected.unknown["mlp/~/linear_0/w"]
