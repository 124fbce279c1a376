"""Every kind of linen module, in stacks too, against matrices made by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import (
  OFF,
  check,
  first,
  heads,
  heads_first,
  in_groups,
  inputs_of,
  last,
  second_last,
  stacked,
)
from sets import normal32
from trees import F32, init

from mhe_jax import LayerRule, NeuronAxes, layer_rules, neuron_matrices


class MyDense(nn.Dense):
  """A subclass."""


class Tied(nn.Module):
  """A table that is used both ways."""

  @nn.compact
  def __call__(self, tokens):
    embed = nn.Embed(7, 4)
    return embed.attend(nn.Dense(4, use_bias=False)(embed(tokens)))


def rnn(cell):
  return nn.RNN(cell)


GATES_OF_LSTM = [f"{x}{g}/kernel" for x in "ih" for g in "ifgo"]


LINEN = {
  "Dense": (nn.Dense(5, **OFF), (2, 3), {"kernel": last}),
  "subclass": (MyDense(5, **OFF), (2, 3), {"kernel": last}),
  "DenseGeneral out": (nn.DenseGeneral((2, 4), **OFF), (2, 8), {"kernel": heads}),
  "DenseGeneral in": (
    nn.DenseGeneral(4, axis=(-2, -1), **OFF),
    (2, 3, 5),
    {"kernel": last},
  ),
  "DenseGeneral batch": (
    nn.DenseGeneral(4, batch_dims=(0,), **OFF),
    (3, 5),
    {"kernel": stacked(last)},
  ),
  "Conv 1d": (nn.Conv(4, (3,), **OFF), (1, 5, 3), {"kernel": last}),
  "Conv 2d": (nn.Conv(4, (3, 2), **OFF), (1, 5, 5, 3), {"kernel": last}),
  "Conv 3d": (nn.Conv(4, (1, 2, 3), **OFF), (1, 4, 4, 4, 3), {"kernel": last}),
  "Conv 1x1": (
    nn.Conv(8, (1, 1), name="query", **OFF),
    (1, 5, 5, 16),
    {"kernel": last},
  ),
  "Conv groups": (
    nn.Conv(6, (3, 3), feature_group_count=2, **OFF),
    (1, 5, 5, 4),
    {"kernel": in_groups(2)},
  ),
  "ConvLocal": (
    nn.ConvLocal(4, (3,), padding="VALID", **OFF),
    (1, 5, 2),
    {"kernel": stacked(last)},
  ),
  "ConvTranspose": (
    nn.ConvTranspose(4, (2, 2), **OFF),
    (1, 5, 5, 4),
    {"kernel": last},
  ),
  "ConvTranspose transposed": (
    nn.ConvTranspose(4, (2, 2), transpose_kernel=True, **OFF),
    (1, 5, 5, 4),
    {"kernel": second_last},
  ),
  "Einsum": (
    nn.Einsum((3, 4, 5), "ac,cde->ade", **OFF),
    (2, 3),
    {"kernel": heads},
  ),
  "Einsum batch": (
    nn.Einsum((3, 4, 5), "bec,ecd->bed", **OFF),
    (2, 3, 4),
    {"kernel": stacked(last)},
  ),
  "Embed": (nn.Embed(7, 3), "tokens", {"embedding": first}),
  "tied Embed": (
    Tied(),
    "tokens",
    {"Embed_0/embedding": first, "Dense_0/kernel": last},
  ),
  "attention": (
    nn.MultiHeadDotProductAttention(4, qkv_features=16, **OFF),
    (1, 5, 4),
    {
      "query/kernel": heads,
      "key/kernel": heads,
      "value/kernel": heads,
      "out/kernel": last,
    },
  ),
  "SimpleCell": (
    rnn(nn.SimpleCell(4)),
    (1, 5, 3),
    {"cell/i/kernel": last, "cell/h/kernel": last},
  ),
  "LSTMCell": (
    rnn(nn.LSTMCell(4)),
    (1, 5, 3),
    {f"cell/{name}": last for name in GATES_OF_LSTM},
  ),
  "OptimizedLSTMCell": (
    rnn(nn.OptimizedLSTMCell(4)),
    (1, 5, 3),
    {f"cell/{name}": last for name in GATES_OF_LSTM},
  ),
  "GRUCell": (
    rnn(nn.GRUCell(4)),
    (1, 5, 3),
    {f"cell/{x}{g}/kernel": last for x in "ih" for g in "rzn"},
  ),
  "MGUCell": (
    rnn(nn.MGUCell(4)),
    (1, 5, 3),
    {f"cell/{x}{g}/kernel": last for x in "ih" for g in "fn"},
  ),
  "ConvLSTMCell": (
    rnn(nn.ConvLSTMCell(4, (3, 3))),
    (1, 2, 5, 5, 3),
    {f"cell/{name}/kernel": in_groups(4) for name in ("ih", "hh")},
  ),
  "norms": (
    nn.Sequential([nn.Dense(4), nn.LayerNorm(), nn.GroupNorm(2), nn.PReLU()]),
    (2, 3),
    {"layers_0/kernel": last},
  ),
}


@pytest.mark.usefixtures("as_users")
@pytest.mark.parametrize("name", LINEN)
def test_linen(name):
  module, shape, readings = LINEN[name]
  x = inputs_of(shape)
  variables = init(module, x)
  rules = layer_rules(module, x)
  check(variables["params"], rules, readings)
  whole = neuron_matrices({"params": variables["params"]}, rules)
  assert set(whole) == {f"params/{path}" for path in readings}
  # Abstract inputs do as well.
  assert layer_rules(module, jax.ShapeDtypeStruct(x.shape, x.dtype)) == rules


class Projections(nn.Module):
  """As of a language model: no biases, and names of its own."""

  @nn.compact
  def __call__(self, x, _=None):
    x = nn.LayerNorm(use_bias=False)(x)
    y = nn.DenseGeneral((2, 4), name="q_proj", **OFF)(x)
    y = nn.DenseGeneral(8, axis=(-2, -1), name="o_proj", **OFF)(y)
    return x + nn.Dense(8, name="square", **OFF)(y), None


def scanned(module, axis, **options):
  return nn.scan(
    module, variable_axes={"params": axis}, split_rngs={"params": True}, length=3,
    **options,
  )  # fmt: skip


class Scanned(nn.Module):
  axis: int
  name_of_stack: str | None = None
  remat: bool = False

  @nn.compact
  def __call__(self, x):
    block = nn.remat(Projections) if self.remat else Projections
    return scanned(block, self.axis)(name=self.name_of_stack)(x, None)[0]


@pytest.mark.usefixtures("as_users")
@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("stack_name", [None, "blocks"])
@pytest.mark.parametrize("axis", [0, 1])
def test_linen_scan_along_any_axis(axis, stack_name, remat):
  module, x = Scanned(axis, stack_name, remat), normal32(1, 5, 8)
  params = init(module, x)["params"]
  (stack,) = params
  kernels = params[stack]
  assert kernels["q_proj"]["kernel"].shape == ((3, 8, 2, 4), (8, 3, 2, 4))[axis]
  matrices = neuron_matrices(params, layer_rules(module, x))
  assert len(matrices) == 3
  readings = {"q_proj": heads, "o_proj": last, "square": last}
  for name, reading in readings.items():
    layers = np.moveaxis(np.asarray(kernels[name]["kernel"]), axis, 0)
    expected = np.stack([reading(layer) for layer in layers])
    np.testing.assert_array_equal(matrices[f"{stack}/{name}/kernel"], expected)


@pytest.mark.usefixtures("as_users")
def test_names_alone_do_not_tell_the_axis_of_a_scan():
  module, x = Scanned(1), normal32(1, 5, 8)
  params = init(module, x)["params"]
  with pytest.raises(ValueError, match="3 parameters whose neurons could be"):
    neuron_matrices(params)


class Member(nn.Module):
  """Of an ensemble, whose sizes are all equal."""

  width: int = 4

  @nn.compact
  def __call__(self, x):
    x = nn.tanh(nn.Dense(self.width, name="first", **OFF)(x))
    return nn.Dense(self.width, name="second", **OFF)(x)


def ensemble(axis, num, **options):
  return nn.vmap(
    Member, variable_axes={"params": axis}, split_rngs={"params": True},
    in_axes=None, axis_size=num, **options,
  )  # fmt: skip


@pytest.mark.parametrize("num", [3, 4])
@pytest.mark.parametrize("axis", [0, 1])
def test_linen_vmap(axis, num):
  module, x = ensemble(axis, num)(), normal32(2, 4)
  params = init(module, x)["params"]
  matrices = neuron_matrices(params, layer_rules(module, x))
  assert len(matrices) == 2
  for path, rows in matrices.items():
    kernel = np.moveaxis(np.asarray(params[path.split("/")[0]]["kernel"]), axis, 0)
    np.testing.assert_array_equal(rows, kernel.transpose(0, 2, 1), err_msg=path)


def test_members_of_one_layer_are_one_layer_unless_a_rule_says_otherwise():
  """The same program as a projection to heads."""
  lifted = nn.vmap(
    nn.Dense, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=None,
    axis_size=3,
  )  # fmt: skip
  module, x = lifted(4, **OFF), normal32(2, 5)
  params = init(module, x)["params"]
  kernel = np.asarray(params["kernel"])
  expected = kernel.transpose(0, 2, 1)
  rows = neuron_matrices(params, layer_rules(module, x))["kernel"]
  np.testing.assert_array_equal(rows, expected.reshape(12, 5))
  rule = LayerRule("kernel", NeuronAxes(-1, batch=0))
  rows = neuron_matrices(params, layer_rules(module, x, rules=[rule]))["kernel"]
  np.testing.assert_array_equal(rows, expected)


def test_two_stacks_of_one_length_along_different_axes():
  class Two(nn.Module):
    @nn.compact
    def __call__(self, x):
      y = ensemble(0, 4)(name="enc")(x).mean(0)
      return ensemble(1, 4)(name="dec")(y)

  x = normal32(2, 4)
  params = init(Two(), x)["params"]
  matrices = neuron_matrices(params, layer_rules(Two(), x))
  assert len(matrices) == 4
  for axis, part in enumerate(("enc", "dec")):
    for layer in ("first", "second"):
      kernel = np.moveaxis(np.asarray(params[part][layer]["kernel"]), axis, 0)
      rows = matrices[f"{part}/{layer}/kernel"]
      np.testing.assert_array_equal(rows, kernel.transpose(0, 2, 1))


def test_a_subclass_with_a_kernel_of_other_rank():
  class Experts(nn.Dense):
    @nn.compact
    def __call__(self, x):
      kernel = self.param("kernel", nn.initializers.normal(), (3, 4, 5), F32)
      return jnp.einsum("bd,edf->bef", x, kernel)

  model, x = Experts(5), normal32(2, 4)
  check(
    init(model, x)["params"],
    layer_rules(model, x),
    {"kernel": heads_first},
  )


@pytest.mark.usefixtures("as_users")
@pytest.mark.parametrize(
  ("subscripts", "shape", "expected"),
  [
    ("...d,...hd->...h", (6, 4), (6, 4)),
    ("bd,dh->bdh", (4, 6), None),
    ("bd,df->bf", (4, 6), (6, 4)),
  ],
)
def test_einsums_that_say_more_or_less(subscripts, shape, expected):
  model, x = nn.Einsum(shape, subscripts, **OFF), normal32(2, 4)
  params, rules = init(model, x)["params"], layer_rules(model, x)
  if expected is None:  # Nothing is summed.
    (rule,) = rules
    assert rule.role == "skip" and "multiplied" in rule.reason
  else:
    assert neuron_matrices(params, rules)["kernel"].shape == expected
