"""The rows of a neuron matrix are the units of the layer, in every library's trees.

Where a layer can be run, its own forward function is the judge: the derivative of
output unit u with respect to the weights must fill row u and no other row.
"""

import functools

import equinox as eqx
import flax
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mhe_jax import (
  LayerRule,
  NeuronAxes,
  Riesz,
  layer_energies,
  network_energy,
  neuron_matrices,
)

F32 = jnp.float32


def normal(shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), F32)


def filled(abstract):
  """A tree of shapes, as an abstract init gives it for free, full of numbers."""
  leaves, treedef = jax.tree.flatten(abstract)
  return treedef.unflatten(
    normal(x.shape, i) if jnp.issubdtype(x.dtype, jnp.floating) else x
    for i, x in enumerate(leaves)
  )


def init(module, *args):
  return filled(jax.eval_shape(module.init, jax.random.key(0), *args))


def rows_of_units(forward, params, rules=None):
  """``{path: bool[units, rows]}``: which rows each output unit depends on.

  Rows are counted through the batch axes of a matrix. Asserts that a unit depends
  on all weights of a row or on none.
  """

  @jax.jit
  def jacobian_by_row(params):
    jacobian = jax.jacrev(forward)(params)
    return jax.vmap(functools.partial(neuron_matrices, rules=rules))(jacobian)

  owned = {}
  for path, m in jacobian_by_row(params).items():
    used = np.asarray(m.reshape(len(m), -1, m.shape[-1]) != 0)
    assert np.array_equal(used.all(-1), used.any(-1)), path
    owned[path] = used.all(-1)
  return owned


def units(y, axes=(-1,)):
  """The outputs of a batch summed into ``[units]``; ``axes`` index units."""
  axes = [a % y.ndim for a in axes]
  return y.sum([a for a in range(y.ndim) if a not in axes]).reshape(-1)


def last(kernel):
  return kernel.reshape(-1, kernel.shape[-1]).T


def last_two(kernel):
  return kernel.reshape(-1, kernel.shape[-2] * kernel.shape[-1]).T


def second_last(kernel):
  return np.moveaxis(kernel, -2, 0).reshape(kernel.shape[-2], -1)


VmapDense = nn.vmap(
  nn.Dense, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=None,
  axis_size=3,
)  # fmt: skip


# --- linen -------------------------------------------------------------------


@pytest.mark.parametrize(
  ("module", "input_shape", "unit_axes"),
  [
    (nn.Dense(5), (2, 3), (-1,)),
    (nn.Conv(4, (3,)), (1, 5, 3), (-1,)),
    (nn.Conv(4, (3, 3)), (1, 5, 5, 3), (-1,)),
    (nn.Conv(4, (3, 3), use_bias=False), (1, 5, 5, 3), (-1,)),
    (nn.Conv(2, (2, 2, 2)), (1, 3, 3, 3, 3), (-1,)),
    (nn.Conv(4, (3, 3), feature_group_count=2), (1, 5, 5, 6), (-1,)),
    (nn.Conv(6, (3, 3), feature_group_count=3), (1, 5, 5, 3), (-1,)),
    (nn.ConvLocal(4, (3,), padding="VALID"), (1, 5, 3), (1, 2)),
    (nn.ConvTranspose(4, (3, 3)), (1, 5, 5, 3), (-1,)),
    (nn.ConvTranspose(4, (3, 3), transpose_kernel=True), (1, 5, 5, 3), (-1,)),
    (nn.DenseGeneral((2, 3)), (2, 5), (-2, -1)),
    (nn.DenseGeneral(4, axis=(-2, -1)), (2, 3, 5), (-1,)),
    (nn.DenseGeneral(4, axis=(-2, -1), use_bias=False), (2, 3, 5), (-1,)),
    (nn.DenseGeneral(4, batch_dims=(0,)), (3, 5), (0, -1)),
    (nn.Einsum((3, 4, 5), "ac,cde->ade"), (2, 3), (-2, -1)),
    (VmapDense(4), (2, 5), (0, -1)),
  ],
  ids=lambda x: f"{type(x).__name__}" if isinstance(x, nn.Module) else "",
)
def test_linen_layer(module, input_shape, unit_axes):
  x = normal(input_shape, seed=9)
  params = init(module, x)["params"]
  owned = rows_of_units(
    lambda p: units(module.apply({"params": p}, x), unit_axes), params
  )
  assert list(owned) == ["kernel"]
  assert np.array_equal(owned["kernel"], np.eye(len(owned["kernel"]), dtype=bool))


@pytest.mark.parametrize(
  "cell", [nn.LSTMCell, nn.OptimizedLSTMCell, nn.GRUCell], ids=lambda c: c.__name__
)
def test_linen_recurrent_cell(cell):
  module, x = cell(4), normal((1, 3))
  carry = jax.tree.map(
    lambda c: normal(c.shape, seed=7),
    module.initialize_carry(jax.random.key(0), x.shape),
  )
  params = init(module, carry, x)["params"]
  owned = rows_of_units(
    lambda p: units(module.apply({"params": p}, carry, x)[1]), params
  )
  assert {path.split("/")[0] for path in owned} == set(params)
  for path, used in owned.items():
    assert np.array_equal(used, np.eye(4, dtype=bool)), path


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize(("heads", "width"), [(2, 6), (4, 4)])
def test_linen_attention(use_bias, heads, width):
  module = nn.MultiHeadDotProductAttention(
    heads, qkv_features=heads * 4, use_bias=use_bias
  )
  params = init(module, normal((1, 5, width)))["params"]
  matrices = neuron_matrices(params)
  assert list(matrices) == [f"{k}/kernel" for k in ("key", "out", "query", "value")]
  for name in ("query", "key", "value"):
    assert np.array_equal(matrices[f"{name}/kernel"], last_two(params[name]["kernel"]))
  assert np.array_equal(matrices["out/kernel"], last(params["out"]["kernel"]))


def test_linen_embedding_rows_are_tokens():
  module, tokens = nn.Embed(7, 3), jnp.arange(7)
  params = init(module, tokens)["params"]
  rows = neuron_matrices(params)["embedding"]
  assert np.array_equal(rows, module.apply({"params": params}, tokens))


class Block(nn.Module):
  use_bias: bool = True
  attention: bool = True

  @nn.compact
  def __call__(self, x, _=None):
    x = nn.LayerNorm()(x)
    if self.attention:
      x = nn.MultiHeadDotProductAttention(2, use_bias=self.use_bias)(x)
    x = nn.Dense(8, use_bias=self.use_bias)(x)
    return nn.Dense(6, use_bias=self.use_bias)(x), None


def scan(module, length):
  return nn.scan(
    module, variable_axes={"params": 0}, split_rngs={"params": True}, length=length
  )


class Outer(nn.Module):
  use_bias: bool = True

  @nn.compact
  def __call__(self, x, _=None):
    return scan(Block, 3)(self.use_bias)(x, None)


class Stack(nn.Module):
  lifted: type
  kwargs: dict
  stack_name: str | None = None

  @nn.compact
  def __call__(self, x):
    x, _ = self.lifted(**self.kwargs, name=self.stack_name)(x, None)
    return nn.Dense(4)(x)


def assert_reads_as_its_layers(params, stack, depth, rules=None):
  """Every slice of a stack, a tree of its own, has the stack's matrices."""
  whole = neuron_matrices(params, rules)
  assert whole["Dense_0/kernel"].shape == (4, 6)
  assert len(whole) > 1
  block = functools.reduce(dict.__getitem__, stack.split("/"), params)
  for index in np.ndindex(jax.tree.leaves(block)[0].shape[:depth]):
    matrices = neuron_matrices(jax.tree.map(lambda x: x[index], block))  # noqa: B023
    assert len(matrices) == len(whole) - 1
    for path, matrix in matrices.items():
      assert np.array_equal(whole[f"{stack}/{path}"][index], matrix), path


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize(
  ("lifted", "stack", "depth"),
  [
    (scan(Block, 3), "ScanBlock_0", 1),
    (scan(nn.remat(Block), 3), "ScanCheckpointBlock_0", 1),
    (nn.remat(scan(Block, 3)), "CheckpointScanBlock_0", 1),
    (scan(Outer, 2), "ScanOuter_0/ScanBlock_0", 2),
  ],
  ids=["scan", "scan remat", "remat scan", "nested"],
)
def test_linen_scan(lifted, stack, depth, use_bias):
  params = init(Stack(lifted, {"use_bias": use_bias}), normal((1, 5, 6)))["params"]
  assert_reads_as_its_layers(params, stack, depth)


@pytest.mark.parametrize("attention", [True, False])
def test_linen_scan_with_a_name_of_its_own(attention):
  # Nothing in the name tells of a stack, but the biases do; attention's output
  # projection, whose heads could be units as well, is told by a rule.
  module = Stack(scan(Block, 3), {"attention": attention}, "blocks")
  params = init(module, normal((1, 5, 6)))["params"]
  rules = [LayerRule(r"blocks/.*/out/kernel", NeuronAxes(-1, batch=0))]
  assert_reads_as_its_layers(params, "blocks", 1, rules if attention else None)


def test_linen_vmap_without_bias():
  class Heads(nn.Module):
    @nn.compact
    def __call__(self, x):
      return VmapDense(4, use_bias=False)(x)

  params = init(Heads(), normal((2, 5)))["params"]
  kernel = params["VmapDense_0"]["kernel"]
  matrices = neuron_matrices(params)
  assert np.array_equal(matrices["VmapDense_0/kernel"], kernel.transpose(0, 2, 1))


def test_linen_stack_along_another_axis_is_not_misread():
  # Layers on axis 1: the bias (6, 3) fits no reading of the kernel (8, 3, 6) whose
  # stack leads. An answer would mix the layers, so there must be none.
  params = {"blocks": {"kernel": normal((8, 3, 6)), "bias": normal((6, 3))}}
  with pytest.raises(ValueError, match=r"blocks/kernel.*\(8, 3, 6\).*LayerRule"):
    neuron_matrices(params)
  rules = [LayerRule("blocks/kernel", NeuronAxes(-1, batch=1))]
  assert neuron_matrices(params, rules)["blocks/kernel"].shape == (3, 6, 8)


class Annotated(nn.Module):
  """Kernels boxed in sharding metadata, and norms with state."""

  @nn.compact
  def __call__(self, x):
    normal_init = nn.initializers.normal()
    boxed = nn.with_partitioning(normal_init, ("in", "out"))
    x = nn.Dense(6, kernel_init=boxed)(x)
    x = nn.LayerNorm()(nn.BatchNorm(use_running_average=True)(x))
    logical = nn.with_logical_partitioning(normal_init, ("in", "out"))
    return nn.Dense(4, kernel_init=logical)(x)


@pytest.mark.parametrize(
  "convert", [lambda v: v, flax.core.freeze, nn.unbox], ids=["boxed", "frozen", "plain"]
)
def test_linen_variables(convert):
  variables = init(Annotated(), normal((2, 5)))
  matrices = neuron_matrices(convert(variables))
  plain = nn.unbox(variables)["params"]
  assert list(matrices) == ["params/Dense_0/kernel", "params/Dense_1/kernel"]
  for name in ("Dense_0", "Dense_1"):
    expected = plain[name]["kernel"].T
    assert np.array_equal(matrices[f"params/{name}/kernel"], expected)


# --- nnx ---------------------------------------------------------------------


FORMS = {
  "module": lambda module: module,
  "params": lambda module: nnx.state(module, nnx.Param),
  "split": lambda module: nnx.split(module)[1],
  "dict": lambda module: nnx.to_pure_dict(nnx.split(module)[1]),
}
forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def nnx_init(make):
  graphdef, state = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
  return nnx.merge(graphdef, filled(state))


def nnx_arrays(module):
  flat = nnx.to_flat_state(nnx.state(module, nnx.Param))
  return {"/".join(map(str, path)): np.asarray(v[...]) for path, v in flat}


class Zoo(nnx.Module):
  def __init__(self, rngs):
    self.attention = nnx.MultiHeadAttention(2, 6, 8, decode=False, rngs=rngs)
    self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
    self.dropout = nnx.Dropout(0.5, rngs=rngs)
    self.embed = nnx.Embed(7, 3, rngs=rngs)
    self.general = nnx.LinearGeneral((3, 2), (4, 5), axis=(-2, -1), rngs=rngs)
    self.gru = nnx.GRUCell(3, 4, rngs=rngs)
    self.layers = nnx.List([nnx.Linear(3, 5, rngs=rngs), nnx.relu])
    self.linear = nnx.LoRALinear(3, 5, lora_rank=2, rngs=rngs)
    self.norm = nnx.BatchNorm(5, rngs=rngs)
    self.up = nnx.ConvTranspose(3, 4, (2, 2), rngs=rngs)
    self.up_transposed = nnx.ConvTranspose(
      3, 4, (2, 2), transpose_kernel=True, rngs=rngs
    )


ZOO_READINGS = {
  "attention/key/kernel": last_two,
  "attention/out/kernel": last,
  "attention/query/kernel": last_two,
  "attention/value/kernel": last_two,
  "conv/kernel": last,
  "embed/embedding": lambda table: table,
  "general/kernel": last_two,
  "gru/dense_h/kernel": last,
  "gru/dense_i/kernel": last,
  "layers/0/kernel": last,
  "linear/kernel": last,
  "up/kernel": last,
  "up_transposed/kernel": second_last,
}


@pytest.fixture(scope="module")
def zoo():
  return nnx_init(Zoo)


@forms
def test_nnx_layers(zoo, form):
  arrays, matrices = nnx_arrays(zoo), neuron_matrices(form(zoo))
  assert list(matrices) == list(ZOO_READINGS)
  for path, reading in ZOO_READINGS.items():
    assert np.array_equal(matrices[path], reading(arrays[path])), path


@pytest.mark.parametrize(
  "cell", [nnx.LSTMCell, nnx.OptimizedLSTMCell, nnx.GRUCell], ids=lambda c: c.__name__
)
def test_nnx_recurrent_cell(cell):
  # Fused gates: kernel columns u, u + 4, u + 8, ... all belong to hidden unit u.
  x, h = normal((1, 3)), normal((1, 4), seed=1)
  carry = h if cell is nnx.GRUCell else (normal((1, 4), seed=2), h)
  graphdef, params, rest = nnx.split(
    nnx_init(lambda rngs: cell(3, 4, rngs=rngs)), nnx.Param, ...
  )
  owned = rows_of_units(
    lambda p: units(nnx.merge(graphdef, p, rest)(carry, x)[1]), params
  )
  assert owned
  for path, used in owned.items():
    gates = used.shape[1] // 4
    assert np.array_equal(used, np.tile(np.eye(4, dtype=bool), gates)), path


def nnx_stack(make):
  return nnx_init(nnx.split_rngs(splits=3)(nnx.vmap(make, in_axes=0, out_axes=0)))


@forms
def test_nnx_stack_with_bias(form):
  module = nnx_stack(lambda rngs: nnx.Linear(5, 4, rngs=rngs))
  kernel = nnx_arrays(module)["kernel"]
  matrices = neuron_matrices(form(module))
  assert np.array_equal(matrices["kernel"], kernel.transpose(0, 2, 1))


class WithoutBias(nnx.Module):
  """Layers that neither the name nor a bias tells: only the class does."""

  def __init__(self, rngs):
    off = {"use_bias": False, "rngs": rngs}
    self.attention = nnx.MultiHeadAttention(2, 6, 8, decode=False, **off)
    self.general = nnx.LinearGeneral(3, (4, 5), **off)
    self.linear = nnx.Linear(3, 5, **off)
    self.up = nnx.ConvTranspose(3, 3, 2, transpose_kernel=True, **off)


WITHOUT_BIAS_RULES = [
  LayerRule("stack/attention/out/kernel", NeuronAxes(-1, 0)),
  LayerRule("stack/general/kernel", NeuronAxes((-2, -1), 0)),
  LayerRule("stack/linear/kernel", NeuronAxes(-1, 0)),
  LayerRule("stack/up/kernel", NeuronAxes(-2, 0)),
]


@forms
def test_nnx_stack_without_bias(form):
  module = nnx.Dict(stack=nnx_stack(WithoutBias))
  arrays = nnx_arrays(module)
  # A module says it all; of its state, rules must.
  rules = None if form is FORMS["module"] else WITHOUT_BIAS_RULES
  matrices = neuron_matrices(form(module), rules)
  readings = {
    "stack/attention/key/kernel": last_two,
    "stack/attention/out/kernel": last,
    "stack/attention/query/kernel": last_two,
    "stack/attention/value/kernel": last_two,
    "stack/general/kernel": last_two,
    "stack/linear/kernel": last,
    "stack/up/kernel": second_last,
  }
  assert list(matrices) == list(readings)
  for path, reading in readings.items():
    expected = np.stack([reading(kernel) for kernel in arrays[path]])
    assert np.array_equal(matrices[path], expected), path


def test_linen_and_nnx_copies_of_a_network_have_equal_energies():
  linen = nn.Sequential(
    [
      nn.Conv(4, (3, 3)),
      nn.ConvTranspose(6, (2, 2), transpose_kernel=True),
      nn.MultiHeadDotProductAttention(2),
      nn.Dense(5),
    ]
  )
  x = normal((1, 4, 4, 3))
  params = init(linen, x)["params"]
  copy = nnx_init(
    lambda rngs: nnx.Sequential(
      nnx.Conv(3, 4, (3, 3), rngs=rngs),
      nnx.ConvTranspose(4, 6, (2, 2), transpose_kernel=True, rngs=rngs),
      nnx.MultiHeadAttention(2, 6, decode=False, rngs=rngs),
      nnx.Linear(6, 5, rngs=rngs),
    )
  )
  for i, layer in enumerate(copy.layers):
    nnx.update(layer, params[f"layers_{i}"])
  np.testing.assert_allclose(copy(x), linen.apply({"params": params}, x), atol=1e-3)
  energies = layer_energies(params, Riesz(2.0))
  assert len(energies) == 7
  for form in FORMS.values():
    copied = layer_energies(form(copy), Riesz(2.0))
    assert {k.replace("layers/", "layers_"): v for k, v in copied.items()} == energies
  assert network_energy(copy) == network_energy(params)


# --- other libraries -----------------------------------------------------------


@pytest.mark.parametrize(
  ("make", "axes", "input_shape"),
  [
    (lambda: hk.Linear(5), None, (2, 3)),
    (lambda: hk.Conv2D(4, 3), None, (1, 5, 5, 3)),
    (lambda: hk.Conv2DTranspose(4, 3), NeuronAxes(-2), (1, 5, 5, 3)),
  ],
  ids=["Linear", "Conv2D", "Conv2DTranspose"],
)
def test_haiku_layer(make, axes, input_shape):
  x = normal(input_shape, seed=9)
  network = hk.without_apply_rng(hk.transform(lambda x: make()(x)))  # noqa: PLW0108
  owned = rows_of_units(
    lambda p: units(network.apply(p, x)), init(network, x), [LayerRule(r".*/w", axes)]
  )
  (used,) = owned.values()
  assert np.array_equal(used, np.eye(len(used), dtype=bool))


@pytest.mark.parametrize(
  ("make", "input_shape"),
  [
    (lambda key: eqx.nn.Linear(3, 5, dtype=F32, key=key), (3,)),
    (lambda key: eqx.nn.Conv2d(4, 6, 3, groups=2, dtype=F32, key=key), (4, 5, 5)),
    (lambda key: eqx.nn.Conv1d(3, 4, 3, use_bias=False, dtype=F32, key=key), (3, 5)),
  ],
  ids=["Linear", "Conv2d", "Conv1d"],
)
def test_equinox_layer(make, input_shape, key):
  x = normal(input_shape, seed=9)
  params, static = eqx.partition(make(key), eqx.is_array)
  owned = rows_of_units(
    lambda p: units(eqx.combine(p, static)(x), (0,)),
    params,
    [LayerRule("weight", NeuronAxes(0))],
  )
  assert np.array_equal(owned["weight"], np.eye(len(owned["weight"]), dtype=bool))


def test_equinox_gru_gates(key):
  params, static = eqx.partition(eqx.nn.GRUCell(3, 4, dtype=F32, key=key), eqx.is_array)
  x, h = normal((3,)), normal((4,), seed=1)
  rules = [LayerRule("weight_[ih]h", NeuronAxes(0))]
  owned = rows_of_units(lambda p: eqx.combine(p, static)(x, h), params, rules)
  assert set(owned) == {"weight_ih", "weight_hh"}
  for used in owned.values():
    assert np.array_equal(used, np.tile(np.eye(4, dtype=bool), 3))


def test_equinox_module_with_function_and_none_leaves(key):
  mlp = eqx.nn.MLP(3, 2, 5, depth=2, use_bias=False, key=key)
  model = {"mlp": mlp, "norm": eqx.nn.LayerNorm(2)}
  leaves = jax.tree.leaves(model, is_leaf=lambda x: x is None)
  assert any(map(callable, leaves))
  assert any(x is None for x in leaves)
  matrices = neuron_matrices(model, [LayerRule(r"mlp/.*/weight", NeuronAxes(0))])
  assert list(matrices) == [f"mlp/layers/{i}/weight" for i in range(3)]
  for i, layer in enumerate(mlp.layers):
    assert np.array_equal(matrices[f"mlp/layers/{i}/weight"], layer.weight)


class Projections(eqx.Module):
  query: jax.Array
  value: jax.Array


@pytest.mark.parametrize("make", [dict, Projections], ids=["dict", "module"])
def test_parameter_named_value(make):
  # Only the boxes of Flax lose a trailing ``value``.
  params = {"attention": make(query=normal((5, 3)), value=normal((4, 3)))}
  matrices = neuron_matrices(params, [LayerRule(r"attention/\w+", NeuronAxes(0))])
  assert list(matrices) == ["attention/query", "attention/value"]
