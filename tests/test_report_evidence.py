"""On what evidence a tensor is read: what excludes that it is something else.

Rows of public layouts that a table of names alone reads wrong, each with its siblings.
Parts are split here as the models split their outputs.
"""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file
from sets import normal
from stored import check_parts, matrices, select

from mhe_jax import Riesz
from mhe_jax.report import compare, redundancy


def orthonormal(*, sets, size):
  """Sets of orthonormal rows, one after the other."""
  matrices_ = [np.linalg.qr(normal(size, size, seed=i))[0] for i in range(sets)]
  return np.concatenate(matrices_).astype(np.float32)


def evidence(selected):
  return {layer.name: layer.part.evidence for layer in selected.layers}


# --- what takes the outputs --------------------------------------------------------


def test_a_layer_is_one_where_another_takes_all_it_gives(tmp_path):
  shapes = {
    "layers.0.mlp.a.weight": (24, 8),  # c takes 24.
    "layers.0.mlp.c.weight": (8, 24),  # The norm has 8.
    "layers.0.norm.weight": (8,),
    "layers.1.b.weight": (5, 8),  # Nobody takes 5.
  }
  selected, _ = select(tmp_path, shapes)
  assert evidence(selected) == {
    "layers.0.mlp.a.weight": "neighbors",
    "layers.0.mlp.c.weight": "neighbors",
    "layers.1.b.weight": "assumed",
  }
  selected, _ = select(tmp_path, shapes, {"hidden_size": 5})
  assert evidence(selected)["layers.1.b.weight"] == "config"


@pytest.mark.parametrize(("times", "part"), [(2, "half"), (3, "third"), (4, "quarter")])
def test_a_layer_of_which_a_part_is_taken_is_listed(tmp_path, times, part):
  shapes = {
    "layers.0.block.x.weight": (6 * times, 8),
    "layers.0.block.y.weight": (8, 6),
    "layers.0.other.weight": (8, 6 * times),  # Of another branch of the block.
  }
  selected, _ = select(tmp_path, shapes)
  reason = selected.unknown["layers.0.block.x.weight"]
  assert f"layers.0.block.y takes a {part}" in reason
  assert f"0,groups:{times},turns:COUNT" in reason


def test_lfm2(tmp_path):
  name = "model.layers.0.conv.in_proj.weight"
  save_file({name: orthonormal(sets=3, size=8)}, tmp_path / "model.safetensors")
  report = redundancy(tmp_path, Riesz(1.0))
  assert [(row.sets, row.n, row.d) for row in report] == [(1, 8, 8)] * 3
  np.testing.assert_allclose([row.energy for row in report], 0.69330, atol=1e-5)
  assert not report.assumed


@pytest.mark.parametrize(
  ("module", "following"),
  [
    ("model.layers.0.shared_mlp.input_linear", "shared_mlp.output_linear"),  # Granite.
    ("transformer.layers.0.ffn.proj_1", "ffn.proj_2"),  # OpenELM.
    ("blocks.0.ff.net.0.proj", "ff.net.2"),  # GEGLU of diffusers.
  ],
)
def test_halves_of_gates(tmp_path, module, following):
  prefix = module.split(following.partition(".")[0])[0]
  shapes = {f"{module}.weight": (12, 8), f"{prefix}{following}.weight": (8, 6)}
  selected, tensors = select(tmp_path, shapes)
  name = f"{module}.weight"
  parts = dict(zip(("first", "second"), np.split(tensors[name].T, 2, axis=1)))
  check_parts(matrices(selected, tensors), name, parts, 12)
  # Without a gate all is taken; alone nothing tells.
  shapes[f"{prefix}{following}.weight"] = (8, 12)
  assert evidence(select(tmp_path, shapes)[0])[name] == "neighbors"
  assert evidence(select(tmp_path, {name: (12, 8)})[0]) == {name: "assumed"}


def test_deberta(tmp_path):
  name = "deberta.encoder.layer.0.attention.self.in_proj.weight"
  config = {"model_type": "deberta", "num_attention_heads": 4}
  selected, tensors = select(tmp_path, {name: (24, 8)}, config)
  outputs = tensors[name].T.reshape(8, 4, 3, 2)
  parts = {label: outputs[:, :, i] for i, label in enumerate("qkv")}
  check_parts(matrices(selected, tensors), name, parts, 24)
  (tmp_path / "config.json").unlink()
  assert "HEADS" in select(tmp_path, {name: (24, 8)})[0].unknown[name]


QWEN = {
  "model_type": "qwen3_next", "num_attention_heads": 2, "head_dim": 4,
  "linear_num_key_heads": 2, "linear_num_value_heads": 4,
  "linear_key_head_dim": 3, "linear_value_head_dim": 5,
}  # fmt: skip


def test_qwen3_next(tmp_path):
  attention, linear = "model.layers.0.self_attn", "model.layers.1.linear_attn"
  query, ba = f"{attention}.q_proj.weight", f"{linear}.in_proj_ba.weight"
  qkvz = f"{linear}.in_proj_qkvz.weight"
  shapes = {query: (16, 6), f"{attention}.o_proj.weight": (6, 8), ba: (8, 6)}
  shapes[qkvz] = (2 * (3 + 3 + 10 + 10), 6)
  selected, tensors = select(tmp_path, shapes, QWEN)
  found = matrices(selected, tensors)
  q, gate = np.split(tensors[query].T.reshape(6, 2, 8), 2, axis=2)
  check_parts(found, query, {"q": q, "gate": gate}, 16)
  b, a = np.split(tensors[ba].T.reshape(6, 2, 4), 2, axis=2)
  check_parts(found, ba, {"b": b, "a": a}, 8)
  pieces = np.split(tensors[qkvz].T.reshape(6, 2, 26), [3, 6, 16], axis=2)
  check_parts(found, qkvz, dict(zip("qkvz", pieces)), 52)
  (tmp_path / "config.json").unlink()
  selected, _ = select(tmp_path, shapes)
  assert {query, ba, qkvz} == {*selected.unknown}


def test_phi3_small(tmp_path):
  mlp = "model.layers.0.mlp"
  name = f"{mlp}.up_proj.weight"
  shapes = {name: (12, 8), f"{mlp}.down_proj.weight": (8, 6)}
  selected, tensors = select(tmp_path, shapes, {"model_type": "phi3small"})
  outputs = tensors[name].T
  parts = {"gate": outputs[:, ::2], "up": outputs[:, 1::2]}
  check_parts(matrices(selected, tensors), name, parts, 12)
  (tmp_path / "config.json").unlink()
  assert "takes a half" in select(tmp_path, shapes)[0].unknown[name]


def test_focal_net(tmp_path):
  name = "encoder.stages.0.layers.0.modulation.projection_in.weight"
  selected, tensors = select(tmp_path, {name: (8 + 8 + 3, 8)})
  parts = dict(
    zip(("q", "context", "gates"), np.split(tensors[name].T, [8, 16], axis=1))
  )
  check_parts(matrices(selected, tensors), name, parts, 19)


RW = {"architecture": "maxvit_tiny_rw_224"}


def test_maxvit(tmp_path):
  name = "stages.0.blocks.0.attn_block.attn.qkv.weight"
  selected, _ = select(tmp_path, {name: (192, 64)})
  assert "head by head" in selected.unknown[name]
  selected, tensors = select(
    tmp_path, {name: (192, 64)}, {"architecture": "maxvit_t_rw"}
  )
  outputs = tensors[name].T.reshape(64, 2, 3, 32)
  parts = {label: outputs[:, :, i] for i, label in enumerate("qkv")}
  check_parts(matrices(selected, tensors), name, parts, 192)
  config = {"architecture": "maxvit_tiny_tf_224"}
  selected, tensors = select(tmp_path, {name: (192, 64)}, config)
  parts = dict(zip("qkv", np.split(tensors[name].T, 3, axis=1)))
  check_parts(matrices(selected, tensors), name, parts, 192)


# --- who wrote the file ------------------------------------------------------------


def test_paddle(tmp_path):
  shapes = {"encoder.layers.0.linear1.weight": (8, 12), "embed.weight": (20, 8)}
  head = {"lm_head.weight": (20, 8)}  # Of ERNIE, as the embedding.
  (tmp_path / "head").mkdir()
  selected, _ = select(tmp_path / "head", {**shapes, **head}, writer="pd")
  assert [x.shape[1:] for x in selected.layers if x.part.role == "output"] == [(20, 8)]
  selected, tensors = select(tmp_path, shapes, writer="pd")
  found = matrices(selected, tensors)
  name = "encoder.layers.0.linear1.weight"
  np.testing.assert_array_equal(found[name], tensors[name].T)
  np.testing.assert_array_equal(found["embed.weight"], tensors["embed.weight"])
  copy = tmp_path / "copy.safetensors"
  save_file(
    {name: tensors[name].T.copy(), "embed.weight": tensors["embed.weight"]},
    copy,
    metadata={"format": "pt"},
  )
  report = compare(tmp_path / "model.safetensors", copy)
  assert len(report) == 2 and report.summary.startswith("0 of 2 layers changed")


def test_biases_say_who_wrote_a_file_that_does_not(tmp_path):
  shapes = {
    "linear1.weight": (8, 12), "linear1.bias": (12,), "linear2.weight": (12, 8),
    "embed.weight": (20, 8),
  }  # fmt: skip
  selected, _ = select(tmp_path, shapes, writer="np")
  sets = {layer.name: layer.shape[1:] for layer in selected.layers}
  assert sets == {
    "linear1.weight": (12, 8), "linear2.weight": (8, 12), "embed.weight": (20, 8),
  }  # fmt: skip
  shapes["linear3.weight"], shapes["linear3.bias"] = (5, 8), (5,)
  selected, _ = select(tmp_path, shapes, writer="np")
  sets = {layer.name: layer.shape[1:] for layer in selected.layers}
  assert (sets["linear1.weight"], sets["linear3.weight"]) == ((12, 8), (5, 8))


def test_mlx(tmp_path):
  shapes = {
    "conv_transpose.weight": (16, 2, 2, 8),
    "conv1.weight": (16, 3, 3, 8),
    "layers.0.dw_conv.weight": (16, 3, 1),
    "mlp.switch_mlp.up_proj.weight": (3, 6, 8),
  }
  selected, tensors = select(tmp_path, shapes, writer="mlx")
  found = matrices(selected, tensors)
  for name in ("conv_transpose.weight", "conv1.weight"):
    expected = tensors[name].transpose(0, 3, 1, 2).reshape(16, -1)
    np.testing.assert_array_equal(found[name], expected)
  assert "depthwise" in selected.skipped["layers.0.dw_conv.weight"]
  name = "mlp.switch_mlp.up_proj.weight"
  np.testing.assert_array_equal(found[name], tensors[name])


# --- groups of convolutions --------------------------------------------------------


def test_groups_without_norms(tmp_path):
  # NFNet: 8 arrive, 4 are taken.
  name = "stages.1.0.conv2.weight"
  weight = np.concatenate(
    [np.linalg.qr(normal(36, 36, seed=i))[0][:4] for i in range(2)]
  ).reshape(8, 4, 3, 3)
  tensors = {"stages.1.0.conv1.weight": normal(8, 16, 1, 1), name: weight}
  save_file(
    {k: x.astype(np.float32) for k, x in tensors.items()}, tmp_path / "m.safetensors"
  )
  row = redundancy(tmp_path, Riesz(1.0))[name]
  assert (row.sets, row.n, row.d, row.evidence) == (2, 4, 36, "neighbors")
  np.testing.assert_allclose(row.energy, 0.67749, atol=1e-4)


@pytest.mark.parametrize(
  ("first", "second"),
  [
    ("layer1.0.conv1", "layer1.0.conv2.conv"),  # ResNeSt.
    ("layer1.0.conv1.conv", "layer1.0.conv2.paths.1.conv"),  # SK-ResNeXt.
    ("s1.b1.conv1.conv", "s1.b1.conv2.conv"),  # RegNetV, RegNetZ.
    ("stage1.0.mlp.conv1", "stage1.0.mlp.conv2"),  # Visformer.
    ("stages.1.0.conv2", "stages.1.0.conv2b"),  # NFNet.
  ],
)
def test_groups_by_what_arrives(tmp_path, first, second):
  shapes = {f"{first}.weight": (16, 5, 1, 1), f"{second}.weight": (16, 4, 3, 3)}
  selected, _ = select(tmp_path, shapes)
  sets = {layer.name: layer.shape for layer in selected.layers}
  assert sets[f"{second}.weight"] == (4, 4, 36)
  # A half after a convolution without a window, before another: a gate.
  shapes[f"{second}.weight"] = (16, 8, 1, 1)
  selected, _ = select(tmp_path, shapes)
  assert "a gate" in selected.unknown[f"{second}.weight"]


def test_groups_of_the_config(tmp_path):
  shapes = {
    "encoder.layers.0.attention.query.weight": (8, 2, 1),  # SqueezeBERT.
    "encoder.pos_conv_embed.layers.0.conv.weight": (8, 2, 19),  # data2vec.
  }
  config = {"hidden_size": 8, "q_groups": 4, "num_conv_pos_embedding_groups": 4}
  selected, _ = select(tmp_path, shapes, config)
  assert [layer.shape for layer in selected.layers] == [(4, 2, 2), (4, 2, 38)]
  assert set(evidence(selected).values()) == {"config"}
  (tmp_path / "config.json").unlink()
  selected, _ = select(tmp_path, shapes)
  assert set(evidence(selected).values()) <= {"assumed"}


# --- 8-bit floats, and weights that are no (out, in) -----------------------------


@pytest.mark.parametrize(
  ("scale", "shape", "is_read"),
  [
    ("wo_b.scale", (2, 2), False),
    ("wo_b.weight_scale_inv", (2, 2), False),
    ("wo_b.weight.scale", (2, 2), False),
    ("wo_b.qscale_weight", (2, 2), False),
    ("wo_b.qscale_weight", (), True),
    ("wo_b.scale_weight", (256, 1), True),
    ("wo_b.input_scale", (2, 2), True),
    ("wo_b.bias", (256,), True),
  ],
)
def test_scales_under_other_names(tmp_path, scale, shape, is_read):
  weight = normal(256, 256).astype(ml_dtypes.float8_e4m3fn)
  tensors = {"wo_b.weight": weight, scale: np.ones(shape, np.float32)}
  save_file(tensors, tmp_path / "model.safetensors")
  report = redundancy(tmp_path)
  assert ("wo_b.weight" in {row.name for row in report}) == is_read


def test_scales_that_are_announced_and_not_there(tmp_path):
  weight = normal(256, 256).astype(ml_dtypes.float8_e4m3fn)
  save_file({"wo_b.weight": weight}, tmp_path / "model.safetensors")
  config = {"quantization_config": {"weight_block_size": [128, 128]}}
  (tmp_path / "config.json").write_text(json.dumps(config))
  assert "announces" in redundancy(tmp_path).unknown["wo_b.weight"]


def test_transposed_convolutions_with_square_shapes(tmp_path):
  shapes = {
    "mask_predictor.conv5_mask.weight": (8, 8, 2, 2),
    "upscale_block.block.0.conv1.weight": (8, 8, 2, 2),
    "downsample.1.conv.weight": (8, 8, 2, 2),
    "conv2.weight": (8, 8, 3, 3),
  }
  selected, _ = select(tmp_path, shapes)
  assert {*selected.unknown} == {*list(shapes)[:2]}


def test_weights_that_are_no_out_in(tmp_path):
  shapes = {
    "blocks.0.conv_pw.weight": (4, 96),  # CondConv: experts.
    "q_proj.oft_R.weight": (4, 28),
    "q_proj.oft_R.default.weight": (4, 28),
    "to_kv.weight": (16, 8),
  }
  selected, _ = select(tmp_path, shapes)
  assert {*selected.unknown} == {*shapes}


def test_jukebox(tmp_path):
  name = "prior.layers.0.attn.c_enc_kv.weight"
  shapes = {name: (8, 12), name.replace("weight", "bias"): (12,)}
  selected, tensors = select(tmp_path, shapes)
  parts = dict(zip("kv", np.split(tensors[name], 2, axis=1)))
  check_parts(matrices(selected, tensors), name, parts, 12)


# --- outputs, and a JAX user's own file --------------------------------------------


def test_output_layers_of_other_names(tmp_path):
  basis = np.eye(8, dtype=np.float32)
  name = "transformer.output_layer.weight"
  save_file({name: np.concatenate([basis, -basis])}, tmp_path / "m.safetensors")
  row = redundancy(tmp_path, Riesz(1.0))[name]
  assert (row.role, row.half_space) == ("output", False)
  np.testing.assert_allclose(row.energy, 0.69330, atol=1e-5)
  # As many rows as the embedding, and as the config says.
  shapes = {"wte.weight": (40, 8), "words.weight": (40, 8)}
  (tmp_path / "m").mkdir()
  roles = {x.name: x.part.role for x in select(tmp_path / "m", shapes)[0].layers}
  assert roles == {"wte.weight": "hidden", "words.weight": "output"}


GPT = {  # In PyTorch's names: (out, in).
  "wte": (40, 8),
  "h.0.attn.c_attn": (24, 8),
  "h.0.attn.c_proj": (8, 8),
  "h.0.mlp.c_fc": (32, 8),
  "h.0.mlp.c_proj": (8, 32),
  "lm_head": (40, 8),
}


def gpt(notation):
  """One model in the names and orders of a library."""
  tensors = {}
  for i, (module, shape) in enumerate(GPT.items()):
    x = normal(*shape, seed=i)
    if notation == "pytorch":
      tensors[f"{module}.weight"] = x
    elif module == "wte":
      tensors["wte/embedding"] = x
    else:
      tensors[f"{module.replace('.', '/')}/kernel"] = x.T.copy()
  return tensors


def test_a_convolutional_model_in_several_notations(tmp_path):
  weights = {
    "conv1": normal(8, 3, 3, 3), "conv2": normal(12, 8, 3, 3, seed=1),
    "head": normal(4, 12, seed=2),
  }  # fmt: skip
  files = {
    "pt": {f"{k}.weight": w for k, w in weights.items()},
    "mlx": {
      f"{k}.weight": np.moveaxis(w, 1, -1) if w.ndim > 2 else w
      for k, w in weights.items()
    },
    "flax": {
      f"{k}.kernel": w.transpose(*range(2, w.ndim), 1, 0) for k, w in weights.items()
    },
    "equinox": {f"{k}/weight": w for k, w in weights.items()},
  }
  reports = {}
  for writer, tensors in files.items():
    path = tmp_path / f"{writer}.safetensors"
    contiguous = {k: np.ascontiguousarray(x) for k, x in tensors.items()}
    save_file(contiguous, path, metadata={"format": writer})
    reports[writer] = redundancy(path)
  first, *others = map(numbers, reports.values())
  assert len(first) == 3 and all(other == first for other in others)
  for writer in ("mlx", "flax", "equinox"):
    report = compare(tmp_path / f"{writer}.safetensors", tmp_path / "pt.safetensors")
    assert report.summary == "0 of 3 layers changed.", writer


def numbers(report):
  label = lambda name: name.partition("[")[2]  # noqa: E731
  return sorted((r.n, r.d, r.role, label(r.name), round(r.energy, 5)) for r in report)


def test_one_model_in_several_notations(tmp_path):
  reports = []
  for notation, prefix in (("pytorch", ""), ("flax", ""), ("flax", "params/")):
    path = tmp_path / f"{notation}{len(prefix)}.npz"
    np.savez(path, **{prefix + k: x for k, x in gpt(notation).items()})
    reports.append(redundancy(path))
  first, *others = map(numbers, reports)
  assert all(other == first for other in others)
  assert sum(role == "output" for _, _, role, _, _ in first) == 1
  assert {label for _, _, _, label, _ in first} == {"", "q]", "k]", "v]"}
  changes = compare(tmp_path / "flax0.npz", tmp_path / "pytorch0.npz")
  assert len(changes) == 8 and max(row.cosine_change for row in changes) < 1e-6
