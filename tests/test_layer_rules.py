"""layer_rules: every kind of module, against matrices made by hand."""

import functools
import math
import re

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from trees import F32, filled, init, normal

from mhe_jax import (
  LayerRule,
  NeuronAxes,
  describe,
  layer_rules,
  network_energy,
  neuron_matrices,
  with_hyperspherical_energy,
)

# --- matrices by hand ------------------------------------------------------------


def rows_of(kernel, order, batch=0, neurons=1, groups=1):
  """Axes of a kernel in the order batch, neurons, features, as a matrix.

  Groups are sliced out one by one: contiguous, equal parts of the neurons.
  """
  x = np.transpose(np.asarray(kernel), order)
  stack, rest = x.shape[:batch], x.shape[batch:]
  n = math.prod(rest[:neurons])
  x = x.reshape(*stack, n, -1)
  if groups == 1:
    return x
  size = n // groups
  parts = [x[..., g * size : (g + 1) * size, :] for g in range(groups)]
  return np.stack(parts, axis=batch)


def last(ndim, **options):
  return functools.partial(rows_of, order=(ndim - 1, *range(ndim - 1)), **options)


def second_last(ndim):
  return functools.partial(rows_of, order=(ndim - 2, *range(ndim - 2), ndim - 1))


def first(ndim, **options):
  return functools.partial(rows_of, order=range(ndim), **options)


heads = functools.partial(rows_of, order=(1, 2, 0), neurons=2)
OFF = {"use_bias": False}


def check(params, rules, readings):
  """These layers and no others, each as by hand; the rest is not read."""
  arrays = {
    "/".join(
      part
      for key in path
      for part in jax.tree_util.keystr((key,), simple=True).split("/")
    ): x
    for path, x in jax.tree_util.tree_flatten_with_path(params)[0]
  }
  matrices = neuron_matrices(params, rules)
  assert set(matrices) == set(readings)
  for path, reading in readings.items():
    expected = reading(arrays[path])
    assert matrices[path].shape == expected.shape, path
    np.testing.assert_array_equal(matrices[path], expected, err_msg=path)


# --- linen ---------------------------------------------------------------------


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
  "Dense": (nn.Dense(5, **OFF), (2, 3), {"kernel": last(2)}),
  "subclass": (MyDense(5, **OFF), (2, 3), {"kernel": last(2)}),
  "DenseGeneral out": (nn.DenseGeneral((2, 4), **OFF), (2, 8), {"kernel": heads}),
  "DenseGeneral in": (
    nn.DenseGeneral(4, axis=(-2, -1), **OFF),
    (2, 3, 5),
    {"kernel": last(3)},
  ),
  "DenseGeneral batch": (
    nn.DenseGeneral(4, batch_dims=(0,), **OFF),
    (3, 5),
    {"kernel": functools.partial(rows_of, order=(0, 2, 1), batch=1)},
  ),
  "Conv 1d": (nn.Conv(4, (3,), **OFF), (1, 5, 3), {"kernel": last(3)}),
  "Conv 2d": (nn.Conv(4, (3, 2), **OFF), (1, 5, 5, 3), {"kernel": last(4)}),
  "Conv 3d": (nn.Conv(4, (1, 2, 3), **OFF), (1, 4, 4, 4, 3), {"kernel": last(5)}),
  "Conv 1x1": (
    nn.Conv(8, (1, 1), name="query", **OFF),
    (1, 5, 5, 16),
    {"kernel": last(4)},
  ),
  "Conv groups": (
    nn.Conv(6, (3, 3), feature_group_count=2, **OFF),
    (1, 5, 5, 4),
    {"kernel": last(4, groups=2)},
  ),
  "ConvLocal": (
    nn.ConvLocal(4, (3,), padding="VALID", **OFF),
    (1, 5, 2),
    {"kernel": functools.partial(rows_of, order=(0, 2, 1), batch=1)},
  ),
  "ConvTranspose": (
    nn.ConvTranspose(4, (2, 2), **OFF),
    (1, 5, 5, 4),
    {"kernel": last(4)},
  ),
  "ConvTranspose transposed": (
    nn.ConvTranspose(4, (2, 2), transpose_kernel=True, **OFF),
    (1, 5, 5, 4),
    {"kernel": second_last(4)},
  ),
  "Einsum": (
    nn.Einsum((3, 4, 5), "ac,cde->ade", **OFF),
    (2, 3),
    {"kernel": heads},
  ),
  "Einsum batch": (
    nn.Einsum((3, 4, 5), "bec,ecd->bed", **OFF),
    (2, 3, 4),
    {"kernel": functools.partial(rows_of, order=(0, 2, 1), batch=1)},
  ),
  "Embed": (nn.Embed(7, 3), "tokens", {"embedding": first(2)}),
  "tied Embed": (
    Tied(),
    "tokens",
    {"Embed_0/embedding": first(2), "Dense_0/kernel": last(2)},
  ),
  "attention": (
    nn.MultiHeadDotProductAttention(4, qkv_features=16, **OFF),
    (1, 5, 4),
    {
      "query/kernel": heads,
      "key/kernel": heads,
      "value/kernel": heads,
      "out/kernel": last(3),
    },
  ),
  "SimpleCell": (
    rnn(nn.SimpleCell(4)),
    (1, 5, 3),
    {"cell/i/kernel": last(2), "cell/h/kernel": last(2)},
  ),
  "LSTMCell": (
    rnn(nn.LSTMCell(4)),
    (1, 5, 3),
    {f"cell/{name}": last(2) for name in GATES_OF_LSTM},
  ),
  "OptimizedLSTMCell": (
    rnn(nn.OptimizedLSTMCell(4)),
    (1, 5, 3),
    {f"cell/{name}": last(2) for name in GATES_OF_LSTM},
  ),
  "GRUCell": (
    rnn(nn.GRUCell(4)),
    (1, 5, 3),
    {f"cell/{x}{g}/kernel": last(2) for x in "ih" for g in "rzn"},
  ),
  "MGUCell": (
    rnn(nn.MGUCell(4)),
    (1, 5, 3),
    {f"cell/{x}{g}/kernel": last(2) for x in "ih" for g in "fn"},
  ),
  "ConvLSTMCell": (
    rnn(nn.ConvLSTMCell(4, (3, 3))),
    (1, 2, 5, 5, 3),
    {f"cell/{name}/kernel": last(4, groups=4) for name in ("ih", "hh")},
  ),
  "norms": (
    nn.Sequential([nn.Dense(4), nn.LayerNorm(), nn.GroupNorm(2), nn.PReLU()]),
    (2, 3),
    {"layers_0/kernel": last(2)},
  ),
}


def inputs_of(shape):
  return jnp.arange(6) % 7 if shape == "tokens" else normal(shape, seed=9)


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


# --- linen: lifted transformations -----------------------------------------------


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
  module, x = Scanned(axis, stack_name, remat), normal((1, 5, 8))
  params = init(module, x)["params"]
  (stack,) = params
  kernels = params[stack]
  assert kernels["q_proj"]["kernel"].shape == ((3, 8, 2, 4), (8, 3, 2, 4))[axis]
  matrices = neuron_matrices(params, layer_rules(module, x))
  assert len(matrices) == 3
  readings = {"q_proj": heads, "o_proj": last(3), "square": last(2)}
  for name, reading in readings.items():
    layers = np.moveaxis(np.asarray(kernels[name]["kernel"]), axis, 0)
    expected = np.stack([reading(layer) for layer in layers])
    np.testing.assert_array_equal(matrices[f"{stack}/{name}/kernel"], expected)


@pytest.mark.usefixtures("as_users")
def test_names_alone_do_not_tell_the_axis_of_a_scan():
  module, x = Scanned(1), normal((1, 5, 8))
  params = init(module, x)["params"]
  with pytest.raises(ValueError, match="3 parameters whose neurons could be"):
    neuron_matrices(params)


def test_linen_vmap():
  class Ensemble(nn.Module):
    @nn.compact
    def __call__(self, x):
      lifted = nn.vmap(
        nn.Dense, variable_axes={"params": 1}, split_rngs={"params": True},
        in_axes=None, axis_size=3,
      )  # fmt: skip
      return lifted(4, use_bias=False)(x)

  x = normal((2, 5))
  params = init(Ensemble(), x)["params"]
  rows = neuron_matrices(params, layer_rules(Ensemble(), x))["VmapDense_0/kernel"]
  kernel = np.asarray(params["VmapDense_0"]["kernel"])
  assert kernel.shape == (5, 3, 4)
  np.testing.assert_array_equal(rows, np.stack([kernel[:, i].T for i in range(3)]))


def test_sizes_that_leave_a_choice_are_told():
  class Ensemble(nn.Module):
    @nn.compact
    def __call__(self, x):
      lifted = nn.vmap(
        nn.Dense, variable_axes={"params": 0}, split_rngs={"params": True},
        in_axes=None, axis_size=3,
      )  # fmt: skip
      return lifted(3, use_bias=False, name="square")(x)

  x = normal((2, 3))
  with pytest.raises(ValueError, match=r"'square/kernel', shape \(3, 3, 3\).*batch=0"):
    layer_rules(Ensemble(), x)
  rule = LayerRule("square/kernel", NeuronAxes(-1, batch=0))
  params = init(Ensemble(), x)["params"]
  rows = neuron_matrices(params, layer_rules(Ensemble(), x, rules=[rule]))
  kernel = params["square"]["kernel"]
  np.testing.assert_array_equal(rows["square/kernel"], kernel.transpose(0, 2, 1))


# --- nnx -----------------------------------------------------------------------


class MyConv(nnx.Conv):
  """A subclass."""


NNX = {
  "Linear": (lambda r: nnx.Linear(3, 5, **OFF, rngs=r), {"kernel": last(2)}),
  "LinearGeneral": (
    lambda r: nnx.LinearGeneral(3, (4, 5), **OFF, rngs=r),
    {"kernel": heads},
  ),
  "LinearGeneral batch": (
    lambda r: nnx.LinearGeneral(4, 5, batch_axis={0: 3}, **OFF, rngs=r),
    {"kernel": functools.partial(rows_of, order=(0, 2, 1), batch=1)},
  ),
  "Einsum": (
    lambda r: nnx.Einsum("ntd,dhk->nthk", (3, 4, 5), rngs=r),
    {"kernel": heads},
  ),
  "Einsum experts": (
    lambda r: nnx.Einsum("bed,edf->bef", (3, 4, 5), rngs=r),
    {"kernel": functools.partial(rows_of, order=(0, 2, 1), batch=1)},
  ),
  "Conv 1d": (lambda r: nnx.Conv(3, 4, 3, **OFF, rngs=r), {"kernel": last(3)}),
  "Conv 2d": (lambda r: nnx.Conv(3, 4, (3, 2), **OFF, rngs=r), {"kernel": last(4)}),
  "Conv groups": (
    lambda r: nnx.Conv(4, 6, (3, 3), feature_group_count=2, rngs=r),
    {"kernel": last(4, groups=2)},
  ),
  "subclass": (lambda r: MyConv(3, 4, (3, 2), **OFF, rngs=r), {"kernel": last(4)}),
  "ConvTranspose": (
    lambda r: nnx.ConvTranspose(3, 3, 2, **OFF, rngs=r),
    {"kernel": last(3)},
  ),
  "ConvTranspose transposed": (
    lambda r: nnx.ConvTranspose(3, 3, 2, transpose_kernel=True, **OFF, rngs=r),
    {"kernel": second_last(3)},
  ),
  "Embed": (lambda r: nnx.Embed(7, 3, rngs=r), {"embedding": first(2)}),
  "attention": (
    lambda r: nnx.MultiHeadAttention(4, 4, 16, decode=False, **OFF, rngs=r),
    {
      "query/kernel": heads,
      "key/kernel": heads,
      "value/kernel": heads,
      "out/kernel": last(3),
    },
  ),
  "SimpleCell": (
    lambda r: nnx.SimpleCell(3, 4, rngs=r),
    {f"dense_{x}/kernel": last(2) for x in "ih"},
  ),
  "LSTMCell": (
    lambda r: nnx.LSTMCell(3, 4, rngs=r),
    {
      f"{x}{g}/kernel": last(2)
      for x in "ih"
      for g in ("i", "f_" if x == "i" else "f", "g", "o")
    },
  ),
  "OptimizedLSTMCell": (
    lambda r: nnx.OptimizedLSTMCell(3, 4, rngs=r),
    {f"dense_{x}/kernel": last(2, groups=4) for x in "ih"},
  ),
  "GRUCell": (
    lambda r: nnx.GRUCell(3, 4, rngs=r),
    {f"dense_{x}/kernel": last(2, groups=3) for x in "ih"},
  ),
  "LoRA": (
    lambda r: nnx.LoRA(5, 2, 6, rngs=r),
    {"lora_a": last(2), "lora_b": last(2)},
  ),
  "LoRALinear": (
    lambda r: nnx.LoRALinear(5, 6, lora_rank=2, rngs=r),
    {"kernel": last(2), "lora/lora_a": last(2), "lora/lora_b": last(2)},
  ),
  "norms": (
    lambda r: nnx.Sequential(
      nnx.Linear(4, 6, rngs=r), nnx.BatchNorm(6, rngs=r), nnx.RMSNorm(6, rngs=r)
    ),
    {"layers/0/kernel": last(2)},
  ),
  "WeightNorm": (
    lambda r: nnx.WeightNorm(nnx.Linear(4, 6, rngs=r), rngs=r),
    {"layer_instance/kernel": last(2)},
  ),
}


def nnx_init(make):
  graphdef, state = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
  return nnx.merge(graphdef, filled(state))


@pytest.mark.parametrize("name", NNX)
def test_nnx(name):
  make, readings = NNX[name]
  module = nnx_init(make)
  rules = layer_rules(module)
  params = nnx.to_pure_dict(nnx.state(module, nnx.Param))
  check(params, rules, readings)
  for tree in (module, nnx.state(module, nnx.Param), nnx.split(module)[1]):
    for some in (None, rules) if tree is module else (rules,):
      matrices = neuron_matrices(tree, some)
      assert set(matrices) == set(readings)
      for path, rows in neuron_matrices(params, rules).items():
        np.testing.assert_array_equal(matrices[path], rows, err_msg=path)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", ["Linear", "Conv 2d", "attention", "GRUCell", "LoRA"])
def test_nnx_stack_along_any_axis(name, axis):
  make, readings = NNX[name]
  axes = nnx.StateAxes({nnx.Param: axis, ...: 0})
  module = nnx_init(nnx.split_rngs(splits=7)(nnx.vmap(make, out_axes=axes)))
  state = nnx.state(module, nnx.Param)
  matrices = neuron_matrices(state, layer_rules(module))
  arrays = {"/".join(map(str, p)): x[...] for p, x in nnx.to_flat_state(state)}
  assert set(matrices) == set(readings)
  for path, reading in readings.items():
    layers = np.moveaxis(np.asarray(arrays[path]), axis, 0)
    expected = np.stack([reading(layer) for layer in layers])
    np.testing.assert_array_equal(matrices[path], expected, err_msg=path)


@pytest.mark.parametrize("name", ["OptimizedLSTMCell", "GRUCell"])
def test_linen_and_nnx_cells_have_equal_energies(name):
  linen, x = nn.RNN(getattr(nn, name)(4)), normal((1, 5, 3))
  params = init(linen, x)["params"]["cell"]
  cell = nnx_init(lambda r: getattr(nnx, name)(3, 4, rngs=r))
  gates = "rzn" if name == "GRUCell" else "ifgo"
  for part in "ih":
    kernels = [params[f"{part}{gate}"]["kernel"] for gate in gates]
    getattr(cell, f"dense_{part}").kernel[...] = jnp.concatenate(kernels, axis=1)
  expected = network_energy({"cell": params}, rules=layer_rules(linen, x))
  for tree in (cell, nnx.state(cell, nnx.Param)):
    for rules in (None, layer_rules(cell)):
      energy = network_energy(tree, rules=rules)
      np.testing.assert_allclose(energy, expected, rtol=1e-6)


def test_an_optimizer_reads_what_the_module_says():
  make = nnx.split_rngs(splits=4)(
    nnx.vmap(lambda r: nnx.Linear(8, 16, **OFF, rngs=r), out_axes=0)
  )
  model = nnx_init(make)
  assert neuron_matrices(model)["kernel"].shape == (4, 16, 8)
  with pytest.raises(ValueError, match=r"'kernel', shape \(4, 8, 16\).*batch=0"):
    nnx.Optimizer(model, with_hyperspherical_energy(optax.sgd(1.0), 1.0), wrt=nnx.Param)
  rules = layer_rules(model)
  tx = with_hyperspherical_energy(optax.sgd(1.0), 1.0, rules=rules)
  optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
  before = model.kernel[...]
  gradient = jax.grad(lambda k: network_energy({"kernel": k}, rules=rules))(before)
  optimizer.update(model, jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.Param)))
  np.testing.assert_allclose(model.kernel[...], before - gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("pure", [False, True])
def test_a_restored_checkpoint(tmp_path, pure):
  make = nnx.split_rngs(splits=7)(nnx.vmap(lambda r: nnx.GRUCell(3, 4, rngs=r)))
  model = nnx_init(lambda r: nnx.Dict(cells=make(r), out=nnx.Linear(4, 5, rngs=r)))
  state = nnx.state(model, nnx.Param)
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / "model", nnx.to_pure_dict(state) if pure else state)
    checkpointer.wait_until_finished()
    restored = checkpointer.restore(tmp_path / "model")
  expected = neuron_matrices(model)
  end = "" if pure else "/value"
  matrices = neuron_matrices(restored, layer_rules(model))
  assert set(matrices) == {f"{path}{end}" for path in expected}
  for path, rows in expected.items():
    np.testing.assert_array_equal(matrices[f"{path}{end}"], rows)
  rules = [LayerRule(f"cells/.*{end}", role="skip")]
  assert list(neuron_matrices(restored, rules)) == [f"out/kernel{end}"]


# --- Equinox -------------------------------------------------------------------


class MyLinear(eqx.nn.Linear):
  """A subclass."""


K = {"key": jax.random.key(0), "dtype": F32}
EQUINOX = {
  "Linear": (lambda: eqx.nn.Linear(3, 5, **K), {"weight": first(2)}),
  "Linear scalar": (lambda: eqx.nn.Linear("scalar", 5, **K), {"weight": first(2)}),
  "subclass": (lambda: MyLinear(3, 5, **K), {"weight": first(2)}),
  "Conv1d": (lambda: eqx.nn.Conv1d(3, 4, 3, **K), {"weight": first(3)}),
  "Conv2d": (lambda: eqx.nn.Conv2d(3, 4, (3, 2), **K), {"weight": first(4)}),
  "Conv2d groups": (
    lambda: eqx.nn.Conv2d(4, 6, 3, groups=2, **K),
    {"weight": first(4, groups=2)},
  ),
  "ConvTranspose2d": (
    lambda: eqx.nn.ConvTranspose2d(3, 4, 3, **K),
    {"weight": first(4)},
  ),
  "Embedding": (lambda: eqx.nn.Embedding(7, 3, **K), {"weight": first(2)}),
  "MLP": (
    lambda: eqx.nn.MLP(3, 2, 5, depth=2, **K),
    {f"layers/{i}/weight": first(2) for i in range(3)},
  ),
  "MultiheadAttention": (
    lambda: eqx.nn.MultiheadAttention(2, 8, **K),
    {f"{n}_proj/weight": first(2) for n in ("query", "key", "value", "output")},
  ),
  "GRUCell": (
    lambda: eqx.nn.GRUCell(3, 4, **K),
    {"weight_ih": first(2, groups=3), "weight_hh": first(2, groups=3)},
  ),
  "LSTMCell": (
    lambda: eqx.nn.LSTMCell(3, 4, **K),
    {"weight_ih": first(2, groups=4), "weight_hh": first(2, groups=4)},
  ),
  "norms": (
    lambda: [
      eqx.nn.Linear(3, 5, **K),
      eqx.nn.LayerNorm((5, 2)),
      eqx.nn.GroupNorm(2, 4),
    ],
    {"0/weight": first(2)},
  ),
  "WeightNorm": (
    lambda: eqx.nn.WeightNorm(eqx.nn.Linear(3, 5, **K)),
    {"layer/weight": first(2)},
  ),
}


@pytest.mark.parametrize("name", EQUINOX)
def test_equinox(name):
  make, readings = EQUINOX[name]
  model = make()
  rules = layer_rules(model)
  check(eqx.filter(model, eqx.is_array), rules, readings)
  # The classes are in every tree of the module, also without rules.
  for tree in (model, eqx.filter(model, eqx.is_array)):
    for path, rows in neuron_matrices(tree).items():
      expected = neuron_matrices(model, rules)[path]
      np.testing.assert_array_equal(rows, expected, err_msg=path)


@pytest.mark.parametrize("name", ["Linear", "Conv2d", "GRUCell", "MLP"])
def test_equinox_ensemble(name):
  _, readings = EQUINOX[name]

  @eqx.filter_vmap
  def make(key):
    kinds = {
      "Linear": lambda: eqx.nn.Linear(3, 5, dtype=F32, key=key),
      "Conv2d": lambda: eqx.nn.Conv2d(3, 4, (3, 2), dtype=F32, key=key),
      "GRUCell": lambda: eqx.nn.GRUCell(3, 4, dtype=F32, key=key),
      "MLP": lambda: eqx.nn.MLP(3, 2, 5, depth=2, dtype=F32, key=key),
    }
    return kinds[name]()

  model = make(jax.random.split(jax.random.key(0), 7))
  matrices = neuron_matrices(model, layer_rules(model))
  flat = jax.tree_util.tree_flatten_with_path(eqx.filter(model, eqx.is_array))[0]
  arrays = {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in flat}
  assert set(matrices) == set(readings)
  for path, reading in readings.items():
    expected = np.stack([reading(layer) for layer in arrays[path]])
    np.testing.assert_array_equal(matrices[path], expected, err_msg=path)


# --- Haiku ---------------------------------------------------------------------


def core(make):
  def forward(x):
    cell = make()
    return cell(x, cell.initial_state(len(x)))

  return forward


def applied(make):
  return lambda x: make()(x)  # noqa: PLW0108 (modules are made inside)


HAIKU = {
  "Linear": (applied(lambda: hk.Linear(5)), (2, 3), {"linear/w": last(2)}),
  "Conv1D": (applied(lambda: hk.Conv1D(4, 3)), (1, 5, 3), {"conv1_d/w": last(3)}),
  "Conv2D": (applied(lambda: hk.Conv2D(4, 3)), (1, 5, 5, 3), {"conv2_d/w": last(4)}),
  "Conv2D channels first": (
    applied(lambda: hk.Conv2D(4, 3, data_format="NCHW")),
    (1, 3, 5, 5),
    {"conv2_d/w": last(4)},
  ),
  "Conv2D groups": (
    applied(lambda: hk.Conv2D(6, 3, feature_group_count=2)),
    (1, 5, 5, 4),
    {"conv2_d/w": last(4, groups=2)},
  ),
  "Conv2DTranspose": (
    applied(lambda: hk.Conv2DTranspose(4, 3)),
    (1, 5, 5, 4),
    {"conv2_d_transpose/w": second_last(4)},
  ),
  "Embed": (applied(lambda: hk.Embed(7, 3)), "tokens", {"embed/embeddings": first(2)}),
  "MLP": (
    applied(lambda: hk.nets.MLP([5, 4])),
    (2, 3),
    {"mlp/~/linear_0/w": last(2), "mlp/~/linear_1/w": last(2)},
  ),
  "attention": (
    lambda x: hk.MultiHeadAttention(
      2, 4, model_size=6, w_init=hk.initializers.RandomNormal()
    )(x, x, x),
    (1, 5, 3),
    {
      f"multi_head_attention/{n}/w": last(2)
      for n in ("query", "key", "value", "linear")
    },
  ),
  "VanillaRNN": (
    core(lambda: hk.VanillaRNN(4)),
    (2, 3),
    {
      "vanilla_rnn/linear/w": last(2),
      "vanilla_rnn/linear_1/w": last(2),
    },
  ),
  "LSTM": (core(lambda: hk.LSTM(4)), (2, 3), {"lstm/linear/w": last(2, groups=4)}),
  "GRU": (
    core(lambda: hk.GRU(4)),
    (2, 3),
    {"gru/w_i": last(2, groups=3), "gru/w_h": last(2, groups=3)},
  ),
  "norms": (
    lambda x: hk.LayerNorm(-1, True, True)(hk.Linear(5)(x)),
    (2, 3),
    {"linear/w": last(2)},
  ),
}


@pytest.mark.usefixtures("as_users")
@pytest.mark.parametrize("name", HAIKU)
def test_haiku(name):
  forward, shape, readings = HAIKU[name]
  model, x = hk.transform(forward), inputs_of(shape)
  check(init(model, x), layer_rules(model, x), readings)


@pytest.mark.usefixtures("as_users")
def test_haiku_with_state():
  def forward(x):
    return hk.BatchNorm(True, True, 0.9)(hk.Linear(5)(x), is_training=True)

  model, x = hk.transform_with_state(forward), normal((2, 3))
  params, _ = model.init(jax.random.key(0), x)
  check(params, layer_rules(model, x), {"linear/w": last(2)})


def test_at_least_forty_kinds_of_modules():
  assert len(LINEN) + len(NNX) + len(EQUINOX) + len(HAIKU) >= 40


# --- what is no set of neurons ----------------------------------------------------


class TwoTables(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = nn.Conv(6, (3, 3), feature_group_count=3, name="depthwise")(x)
    buckets = jnp.arange(4)
    bias = nn.Embed(4, 2, name="relative_attention_bias")(buckets)
    return nn.Dense(5)(x) + bias.sum()


@pytest.mark.parametrize("library", ["linen", "nnx", "equinox", "haiku"])
def test_depthwise_convolutions_are_reported_and_skipped(library):
  if library == "linen":
    model, x = TwoTables(), normal((1, 5, 5, 3))
    params, rules = init(model, x)["params"], layer_rules(model, x)
    path, left = "depthwise/kernel", "Dense_0/kernel"
  elif library == "nnx":
    params = nnx_init(
      lambda r: nnx.Sequential(
        nnx.Conv(3, 6, (3, 3), feature_group_count=3, rngs=r), nnx.Linear(6, 5, rngs=r)
      )
    )
    rules, path, left = layer_rules(params), "layers/0/kernel", "layers/1/kernel"
  elif library == "equinox":
    params = [eqx.nn.Conv2d(3, 6, 3, groups=3, **K), eqx.nn.Linear(6, 5, **K)]
    rules, path, left = layer_rules(params), "0/weight", "1/weight"
  else:
    model = hk.transform(lambda x: hk.Linear(5)(hk.DepthwiseConv2D(2, 3)(x)))
    x = normal((1, 5, 5, 3))
    params, rules = init(model, x), layer_rules(model, x)
    path, left = "depthwise_conv2_d/w", "linear/w"
  report = describe(params, rules=rules)
  assert [row.path for row in report] == [left]
  assert "depthwise convolution" in report.skipped[path]
  # Unless a rule asks: filters of all channels as one set.
  axes = NeuronAxes(0) if library == "equinox" else NeuronAxes(-1)
  asked = LayerRule(re.escape(path), axes)
  model = params if library in ("nnx", "equinox") else model
  inputs = () if library in ("nnx", "equinox") else (x,)
  rules = layer_rules(model, *inputs, rules=[asked])
  assert neuron_matrices(params, rules)[path].shape == (6, 9)


def test_tables_of_relative_positions():
  model, x = TwoTables(), normal((1, 5, 5, 3))
  params, path = init(model, x)["params"], "relative_attention_bias/embedding"
  for rules in (None, layer_rules(model, x)):
    assert "relative position" in describe(params, rules=rules).skipped[path]
  rules = layer_rules(model, x, rules=[LayerRule(path, NeuronAxes(0))])
  assert neuron_matrices(params, rules)[path].shape == (4, 2)


# --- rules of the user's own, partial trees, errors ----------------------------------


class Net(nn.Module):
  @nn.compact
  def __call__(self, x, train):
    x = nn.ConvTranspose(4, (2, 2), transpose_kernel=True, name="up", **OFF)(x)
    x = nn.Dropout(0.1, deterministic=not train)(x).mean((1, 2))
    return nn.Dense(3, name="head")(x)


NET_INPUT = normal((1, 5, 5, 4))


def net_rules(*rules):
  return layer_rules(Net(), NET_INPUT, False, rules=rules)


@pytest.mark.parametrize("prefix", ["", "params/"])
def test_a_rule_without_axes_keeps_those_of_the_class(prefix):
  params = init_net()
  for rule in (
    LayerRule(f"{prefix}up/kernel", role="output", weight=2.0),
    LayerRule(".*up/.*", role="output", weight=2.0),
  ):
    (row,) = [
      r for r in describe(params, rules=net_rules(rule)) if r.path == "up/kernel"
    ]
    assert row.role == "output"
    rows = neuron_matrices(params, net_rules(rule))["up/kernel"]
    np.testing.assert_array_equal(rows, second_last(4)(params["up"]["kernel"]))


def test_a_broad_rule_changes_weights_of_all_and_axes_of_none():
  params = init_net()
  head = LayerRule("head/kernel", role="output")
  rules = net_rules(head, LayerRule(".*", weight=2.0))
  report = describe(params, rules=rules)
  assert [(row.path, row.role) for row in report] == [
    ("head/kernel", "output"),
    ("up/kernel", "hidden"),
  ]
  rows = neuron_matrices(params, rules)["up/kernel"]
  np.testing.assert_array_equal(rows, second_last(4)(params["up"]["kernel"]))
  plain = network_energy(params, rules=net_rules(head), output_weight=0.0)
  doubled = network_energy(params, rules=rules, output_weight=0.0)
  np.testing.assert_allclose(doubled, 2.0 * plain, rtol=1e-6)


def test_a_rule_without_axes_for_what_is_no_set_of_neurons():
  x = normal((1, 5, 5, 3))
  rule = LayerRule("depthwise/kernel", role="output")
  with pytest.raises(ValueError, match=r"matches no neurons.*depthwise convolution"):
    layer_rules(TwoTables(), x, rules=[rule])


class WithTable(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.Dense(5)(x) @ self.param("table", nn.initializers.normal(), (5, 3), F32)


def test_rules_for_parameters_of_unknown_classes_are_kept():
  x = normal((2, 4))
  params = init(WithTable(), x)["params"]
  with pytest.warns(UserWarning, match="1 of 2 parameters.*'table'"):
    network_energy(params, rules=layer_rules(WithTable(), x))
  for rule, shape in (
    (LayerRule(".*", weight=2.0), (3, 5)),
    (LayerRule("table", NeuronAxes(0)), (5, 3)),
  ):
    rules = layer_rules(WithTable(), x, rules=[rule])
    matrices = neuron_matrices(params, rules)
    assert {k: w.shape for k, w in matrices.items()} == {
      "Dense_0/kernel": (5, 4),
      "table": shape,
    }


def init_net():
  return filled(
    jax.eval_shape(lambda k: Net().init(k, NET_INPUT, False), jax.random.key(0))
  )["params"]


def test_rules_of_the_user_come_first():
  params = init_net()
  rules = net_rules(
    LayerRule("up/kernel", NeuronAxes(-1)), LayerRule("head/.*", role="skip")
  )
  matrices = neuron_matrices(params, rules)
  assert list(matrices) == ["up/kernel"]
  np.testing.assert_array_equal(matrices["up/kernel"], last(4)(params["up"]["kernel"]))


def test_rules_of_a_model_fit_parts_of_its_tree():
  params, rules = init_net(), net_rules()
  assert list(neuron_matrices({"head": params["head"]}, rules)) == ["head/kernel"]
  holes = {**params, "up": optax.MaskedNode()}
  assert list(neuron_matrices(holes, rules)) == ["head/kernel"]
  tx = optax.partition(
    {
      "a": with_hyperspherical_energy(optax.sgd(1.0), 1.0, rules=rules),
      "b": optax.sgd(1),
    },
    {"up": "a", "head": "b"},
  )
  zeros = jax.tree.map(jnp.zeros_like, params)
  updates, _ = tx.update(zeros, tx.init(params), params)
  assert float(jnp.abs(updates["up"]["kernel"]).sum()) > 0
  assert float(jnp.abs(updates["head"]["kernel"]).sum()) == 0


def test_rules_can_be_pasted():
  rules = net_rules(LayerRule("head/kernel", role="output", weight=2.0))
  text = ", ".join(map(repr, rules))
  names = {"LayerRule": LayerRule, "NeuronAxes": NeuronAxes}
  assert eval(f"({text},)", names) == rules


def test_a_rule_that_matches_nothing_in_the_model():
  with pytest.raises(ValueError, match=r"'tail/kernel' matches no path.*'head/kernel'"):
    net_rules(LayerRule("tail/kernel"))


def test_a_rule_that_never_wins():
  with pytest.raises(ValueError, match=r"'head/kernel' never wins.*'.*/kernel'"):
    net_rules(LayerRule(".*/kernel"), LayerRule("head/kernel", role="output"))


@pytest.mark.parametrize("model", [3, None, {"kernel": normal((3, 4))}, nn.Dense])
def test_what_is_no_model(model):
  with pytest.raises(TypeError, match="model must be"):
    layer_rules(model)


def test_inputs_of_a_module_that_has_its_parameters():
  with pytest.raises(TypeError, match=r"example_inputs .* got 1"):
    layer_rules(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), normal((1, 3)))


def test_rules_must_be_rules():
  with pytest.raises(TypeError, match="rules must be"):
    net_rules("head/kernel")


# --- found by trying to break it -----------------------------------------------------


@pytest.mark.parametrize("pattern", ["up/kernel", ".*"])
def test_a_rule_before_those_of_a_model_keeps_their_axes(pattern):
  params = init_net()
  rules = [LayerRule(pattern, role="output", weight=2.0), *net_rules()]
  rows = neuron_matrices(params, rules)["up/kernel"]
  np.testing.assert_array_equal(rows, second_last(4)(params["up"]["kernel"]))
  assert describe(params, rules=rules)["up/kernel"].role == "output"


def test_a_rule_before_those_of_a_model_wakes_nothing_that_is_no_neurons():
  model, x = TwoTables(), normal((1, 5, 5, 3))
  params = init(model, x)["params"]
  rules = [LayerRule(".*", weight=2.0), *layer_rules(model, x)]
  assert list(neuron_matrices(params, rules)) == ["Dense_0/kernel"]


@pytest.mark.parametrize(
  "rule",
  [
    LayerRule("head/kernel", NeuronAxes(-1)),
    LayerRule("head/kernel", role="skip"),
    LayerRule("head/kernel", NeuronAxes(0), optional=True),
    LayerRule("params/head/kernel", role="skip", optional=True),
  ],
)
def test_rules_of_the_user_fit_every_tree_too(rule):
  params, rules = init_net(), net_rules(rule, LayerRule(".*kernel", weight=2.0))
  kernel = params["head"]["kernel"]
  for tree, path in (
    (params, "head/kernel"),
    ({"params": params}, "params/head/kernel"),
  ):
    matrices = neuron_matrices(tree, rules)
    assert (path in matrices) == (rule.role != "skip")
    if rule.axes is not None:
      expected = kernel if rule.axes == NeuronAxes(0) else kernel.T
      np.testing.assert_array_equal(matrices[path], expected)
  assert list(neuron_matrices({"up": params["up"]}, rules)) == ["up/kernel"]


def test_two_stacks_of_one_length_along_different_axes():
  class Two(nn.Module):
    @nn.compact
    def __call__(self, x):
      def stack(axis, features, name):
        lifted = nn.vmap(
          nn.Dense, variable_axes={"params": axis}, split_rngs={"params": True},
          in_axes=None, axis_size=4,
        )  # fmt: skip
        return lifted(features, name=name, **OFF)

      y = stack(0, 4, "enc")(x).mean(0)
      return stack(1, 4, "dec")(y)

  with pytest.raises(ValueError, match=r"1 parameter .*[^@]*'dec/kernel'"):
    layer_rules(Two(), normal((2, 5)))


@pytest.mark.parametrize("library", ["nnx", "equinox"])
def test_a_class_that_the_tree_contradicts_is_an_error(library):
  if library == "nnx":
    model = nnx_init(lambda r: nnx.Linear(3, 5, rngs=r))
    model.kernel = nnx.Param(normal((5, 3)))
  else:
    model = eqx.nn.Linear(3, 5, **K)
    model = eqx.tree_at(lambda m: m.weight, model, normal((3, 5)))
  for function in (layer_rules, neuron_matrices):
    with pytest.raises(ValueError, match="by its class"):
      function(model)


def test_a_subclass_with_a_kernel_of_other_rank():
  class Experts(nn.Dense):
    @nn.compact
    def __call__(self, x):
      kernel = self.param("kernel", nn.initializers.normal(), (3, 4, 5), F32)
      return jnp.einsum("bd,edf->bef", x, kernel)

  with pytest.raises(ValueError, match=r"'kernel', shape \(3, 4, 5\), a dense layer"):
    layer_rules(Experts(5), normal((2, 4)))


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
  model, x = nn.Einsum(shape, subscripts, **OFF), normal((2, 4))
  if expected is None:
    with pytest.raises(ValueError, match="an einsum 'bd,dh->bdh'"):
      layer_rules(model, x)
  else:
    params = init(model, x)["params"]
    assert neuron_matrices(params, layer_rules(model, x))["kernel"].shape == expected


def test_haiku_modules_of_one_name_in_and_out_of_a_lifted_function():
  def forward(x):
    x = hk.experimental.layer_stack(3)(lambda x: hk.Linear(4)(x))(x)  # noqa: PLW0108
    return hk.Linear(5)(x)

  model, x = hk.transform(forward), normal((2, 4))
  params = init(model, x)
  with pytest.warns(UserWarning, match="__layer_stack"):
    network_energy(params, rules=layer_rules(model, x))
  check(params, layer_rules(model, x), {"linear/w": last(2)})


def test_a_projection_in_a_subclass_of_an_lstm_has_no_gates():
  class Projected(hk.LSTM):
    def __call__(self, x, state):
      y, state = super().__call__(x, state)
      return hk.Linear(8, name="proj")(y), state

  model = hk.transform(core(lambda: Projected(4, name="cell")))
  x = normal((2, 3))
  with jax.numpy_dtype_promotion("standard"):
    params, rules = init(model, x), layer_rules(model, x)
  check(params, rules, {"cell/linear/w": last(2, groups=4), "cell/proj/w": last(2)})


def test_nnx_modules_in_a_dict():
  make = lambda r: nnx.Conv(4, 6, (3, 3), feature_group_count=2, rngs=r)  # noqa: E731
  models = {"gen": nnx_init(make), "disc": nnx_init(make)}
  for rules in (None, layer_rules(models)):
    matrices = neuron_matrices(models, rules)
    assert {k: w.shape for k, w in matrices.items()} == {
      "disc/kernel": (2, 3, 18),
      "gen/kernel": (2, 3, 18),
    }


def test_keyword_arguments_of_init():
  class Keyword(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
      return nn.Dropout(0.5, deterministic=not train)(nn.Dense(3)(x))

  (rule,) = layer_rules(Keyword(), normal((2, 4)), train=False)
  assert rule.matches("params/Dense_0/kernel")
  with pytest.raises(TypeError, match="got 1 inputs"):
    layer_rules(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), train=False)


def test_multi_transform():
  def forward():
    linear = hk.Linear(5)
    return linear, (linear,)

  model, x = hk.multi_transform(forward), normal((2, 3))
  (rule,) = layer_rules(model, x)
  assert rule.matches("linear/w")
