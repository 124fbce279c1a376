"""Tables of positions are not neurons: by name, by class, by what a program does."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from sets import normal32
from trees import init

from mhe_jax import describe, layer_rules
from mhe_jax.layers.names import is_position_table
from mhe_jax.report import redundancy

TABLES = (
  "wpe", "pos", "pos_embed", "position_embeddings", "embed_positions", "positions",
  "posembed_input", "PositionEmbed_0", "AddPositionEmbs_0", "PosEmbed",
  "positional_embedding", "relative_attention_bias", "rel_pos",
)  # fmt: skip
OTHERS = (
  "wte", "word_embeddings", "token_type_embeddings", "Embed_0", "composition",
  "pose_embed", "PoseNet", "posterior", "deposit", "proposal", "disposition",
)  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_names_of_tables(name):
  params = {name: {"embedding": normal32(5, 8)}, "wte": {"embedding": normal32(9, 8)}}
  report = describe(params)
  assert [row.path for row in report] == ["wte/embedding"]
  assert report.skipped[f"{name}/embedding"] == "a table of positions, not neurons"


@pytest.mark.parametrize("name", OTHERS)
def test_names_of_others(name):
  assert not is_position_table(name)


class Linen(nn.Module):
  @nn.compact
  def __call__(self, tokens):
    x = nn.Embed(9, 8, name="words")(tokens)
    # By a name that says nothing: that the rows are those in order says it.
    x = x + nn.Embed(5, 8, name="table")(jnp.arange(tokens.shape[-1]))
    return nn.Dense(9, name="head")(x)


class NNX(nnx.Module):
  def __init__(self, rngs):
    self.words, self.wpe = nnx.Embed(9, 8, rngs=rngs), nnx.Embed(5, 8, rngs=rngs)
    self.head = nnx.Linear(8, 9, rngs=rngs)

  def __call__(self, tokens):
    x = self.words(tokens) + self.wpe(jnp.arange(tokens.shape[-1]))
    return self.head(x)


TOKENS = jnp.arange(5)


def test_of_a_program_whatever_the_name():
  model = Linen()
  params = init(model, TOKENS)["params"]
  report = describe(params, rules=layer_rules(model, TOKENS))
  assert {row.path for row in report} == {"words/embedding", "head/kernel"}
  assert "table that is added" in report.skipped["table/embedding"]


@pytest.mark.parametrize("inputs", [(), (TOKENS,)], ids=["by class", "by program"])
def test_of_a_module(inputs):
  model = NNX(nnx.Rngs(0))
  report = describe(model, rules=layer_rules(model, *inputs))
  assert {row.path for row in report} == {"words/embedding", "head/kernel"}


def test_of_a_file(tmp_path):
  path = tmp_path / "model.npz"
  names = ("wte.weight", "wpe.weight", "h.0.ln.weight")
  np.savez(path, **{n: np.ones(8) if "ln" in n else normal32(9, 8) for n in names})
  report = redundancy(path)
  assert [row.name for row in report] == ["wte.weight"]
  assert report.skipped["wpe.weight"] == "a table of positions, not neurons"
