"""Trees of public models, as their packages lay them out, small and random.

Rebuilt by hand from the published layouts, since the packages are large.
"""

import numpy as np
import pytest
from flax import traverse_util
from sets import normals

from mhe_jax import LayerRule, NeuronAxes, describe, neuron_matrices


def model(layers, **rest):
  """A nested tree; ``{}`` in a path stands for the number of one of two layers."""
  shapes = dict(rest)
  for path, shape in layers.items():
    shapes |= {path.format(i): shape for i in range(2)}
  flat = normals(shapes)
  return traverse_util.unflatten_dict(flat, sep="/"), flat


def with_biases(layers, axis):
  for path, shape in layers.items():
    yield path, shape
    yield path.replace("kernel", "bias"), (shape[axis],)


def check(params, rules, expected, skipped=()):
  """Shapes by the end of the path, for both layers, and what is left out."""
  matrices = neuron_matrices(params, rules)
  found = {}
  for path, rows in matrices.items():
    found.setdefault(path.replace("/1/", "/0/"), set()).add(rows.shape)
  assert {k: v.pop() for k, v in found.items()} == expected
  if skipped:
    report = describe(params, rules=rules)
  for path, reason in skipped:
    assert reason in report.skipped[path], path


BERT = dict(
  with_biases(
    {
      "encoder/layer/{}/attention/self/query/kernel": (6, 6),
      "encoder/layer/{}/attention/output/dense/kernel": (6, 6),
      "encoder/layer/{}/intermediate/dense/kernel": (6, 10),
      "encoder/layer/{}/output/dense/kernel": (10, 6),
    },
    -1,
  )
)


def test_bert():
  params, flat = model(
    {**BERT, "encoder/layer/{}/output/LayerNorm/scale": (6,)},
    **{"embeddings/word_embeddings/embedding": (12, 6)},
  )
  expected = {
    "embeddings/word_embeddings/embedding": (12, 6),
    "encoder/layer/0/attention/self/query/kernel": (6, 6),
    "encoder/layer/0/attention/output/dense/kernel": (6, 6),
    "encoder/layer/0/intermediate/dense/kernel": (10, 6),
    "encoder/layer/0/output/dense/kernel": (6, 10),
  }
  for tree in (params, flat):
    check(tree, None, expected)
  query = "encoder/layer/0/attention/self/query/kernel"
  np.testing.assert_array_equal(neuron_matrices(params)[query], flat[query].T)


def test_t5():
  block = "encoder/block/{}/layer/0/SelfAttention"
  params, _ = model(
    {
      f"{block}/q/kernel": (6, 8),
      f"{block}/o/kernel": (8, 6),
      "encoder/block/{}/ff/DenseReluDense/wi_0/kernel": (6, 10),
    },
    **{
      "shared/embedding": (12, 6),
      f"{block.format(0)}/relative_attention_bias/embedding": (4, 2),
    },
  )
  expected = {
    "encoder/block/0/layer/0/SelfAttention/q/kernel": (8, 6),
    "encoder/block/0/layer/0/SelfAttention/o/kernel": (6, 8),
    "encoder/block/0/ff/DenseReluDense/wi_0/kernel": (10, 6),
    "shared/embedding": (12, 6),
  }
  table = f"{block.format(0)}/relative_attention_bias/embedding"
  check(params, None, expected, [(table, "table of positions")])


def test_gpt2():
  layers = {
    "h/{}/attn/c_attn/kernel": (18, 6),
    "h/{}/attn/c_proj/kernel": (6, 6),
    "h/{}/mlp/c_fc/kernel": (24, 6),
    "h/{}/mlp/c_proj/kernel": (6, 24),
  }
  params, flat = model(dict(with_biases(layers, 0)))
  # All eight at once, the square ones too, although their biases fit (in, out).
  with pytest.raises(ValueError, match="8 parameters"):
    neuron_matrices(params)
  rules = [
    LayerRule(".*/c_attn/kernel", NeuronAxes(0, groups=3)),
    LayerRule(".*/c_(fc|proj)/kernel", NeuronAxes(0)),
  ]
  expected = {
    "h/0/attn/c_attn/kernel": (3, 6, 6),
    "h/0/attn/c_proj/kernel": (6, 6),
    "h/0/mlp/c_fc/kernel": (24, 6),
    "h/0/mlp/c_proj/kernel": (6, 24),
  }
  check(params, rules, expected)
  kernel = flat["h/0/attn/c_proj/kernel"]
  np.testing.assert_array_equal(
    neuron_matrices(params, rules)["h/0/attn/c_proj/kernel"], kernel
  )


def test_llama_of_dense_layers():
  params, _ = model(
    {
      "model/layers/{}/self_attn/q_proj/kernel": (6, 8),
      "model/layers/{}/mlp/gate_proj/kernel": (6, 10),
      "model/layers/{}/input_layernorm/weight": (6,),
    },
    **{"model/embed_tokens/embedding": (12, 6), "lm_head/kernel": (6, 12)},
  )
  expected = {
    "lm_head/kernel": (12, 6),
    "model/embed_tokens/embedding": (12, 6),
    "model/layers/0/self_attn/q_proj/kernel": (8, 6),
    "model/layers/0/mlp/gate_proj/kernel": (10, 6),
  }
  head = LayerRule("lm_head/kernel", role="output")
  check(params, [head], expected)


def test_llama_with_heads_and_experts():
  params, flat = model(
    {
      "layers/{}/attn/q_proj/kernel": (6, 2, 4),
      "layers/{}/attn/o_proj/kernel": (2, 4, 6),
      "layers/{}/moe/gate/kernel": (6, 5),
      "layers/{}/moe/wi/kernel": (5, 6, 7),
    }
  )
  with pytest.raises(ValueError, match="6 parameters"):
    neuron_matrices(params)
  rules = [
    LayerRule(".*/q_proj/kernel", NeuronAxes((-2, -1))),
    LayerRule(".*/o_proj/kernel", NeuronAxes(-1)),
    LayerRule(".*/wi/kernel", NeuronAxes(-1, batch=0)),
  ]
  expected = {
    "layers/0/attn/q_proj/kernel": (8, 6),
    "layers/0/attn/o_proj/kernel": (6, 8),
    "layers/0/moe/gate/kernel": (5, 6),
    "layers/0/moe/wi/kernel": (5, 7, 6),
  }
  check(params, rules, expected)
  experts = neuron_matrices(params, rules)["layers/0/moe/wi/kernel"]
  np.testing.assert_array_equal(experts[3], flat["layers/0/moe/wi/kernel"][3].T)


def test_maxtext_scans_along_axis_one():
  # Bias-free, and stacked along axis 1: names do not tell, rules do.
  params, flat = model(
    {},
    **{
      "decoder/layers/attn/query/kernel": (6, 3, 2, 4),
      "decoder/layers/attn/out/kernel": (2, 3, 4, 6),
      "decoder/layers/mlp/wi/kernel": (6, 3, 7),
      "decoder/layers/norm/scale": (6, 3),
    },
  )
  with pytest.raises(ValueError, match="3 parameters"):
    neuron_matrices(params)
  rules = [
    LayerRule(".*/query/kernel", NeuronAxes((-2, -1), batch=1)),
    LayerRule(".*/(out|wi)/kernel", NeuronAxes(-1, batch=1)),
  ]
  matrices = neuron_matrices(params, rules)
  shapes = {path.split("/")[-2]: rows.shape for path, rows in matrices.items()}
  assert shapes == {"query": (3, 8, 6), "out": (3, 6, 8), "wi": (3, 7, 6)}
  np.testing.assert_array_equal(
    matrices["decoder/layers/mlp/wi/kernel"][1],
    flat["decoder/layers/mlp/wi/kernel"][:, 1].T,
  )


def test_vision_transformer():
  # As linen's own attention, with biases, and a patch embedding called embedding.
  attention = {
    f"Transformer/encoderblock_{{}}/MultiHeadDotProductAttention_1/{name}": shape
    for name, shape in {
      "query/kernel": (6, 2, 3),
      "query/bias": (2, 3),
      "out/kernel": (2, 3, 6),
      "out/bias": (6,),
    }.items()
  }
  params, _ = model(
    attention,
    **{
      "embedding/kernel": (16, 16, 3, 6),
      "embedding/bias": (6,),
      "Transformer/posembed_input/pos_embedding": (1, 5, 6),
      "cls": (1, 1, 6),
      "head/kernel": (6, 4),
    },
  )
  matrices = neuron_matrices(params, [LayerRule("head/kernel", role="output")])
  shapes = {path.split("/")[-2]: rows.shape for path, rows in matrices.items()}
  assert shapes == {
    "query": (6, 6),
    "out": (6, 6),
    "embedding": (6, 768),
    "head": (4, 6),
  }
