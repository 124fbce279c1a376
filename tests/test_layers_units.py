"""The rows of a matrix are the units of the layer: its own function is the judge."""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from sets import normal32
from trees import F32, FORMS, VmapDense, init, nnx_init, rows_of_units, units

from mhe_jax import (
  LayerRule,
  NeuronAxes,
  Riesz,
  layer_energies,
  layer_rules,
  network_energy,
  neuron_matrices,
)

BARE = nn.Conv(4, (3, 3), use_bias=False)


@pytest.mark.parametrize(
  ("module", "input_shape", "unit_axes"),
  [
    (nn.Dense(5), (2, 3), (-1,)),
    (nn.Conv(4, (3,)), (1, 5, 3), (-1,)),
    (nn.Conv(4, (3, 3)), (1, 5, 5, 3), (-1,)),
    (BARE, (1, 5, 5, 3), (-1,)),
    (nn.Conv(2, (2, 2, 2)), (1, 3, 3, 3, 3), (-1,)),
    (nn.Conv(4, (3, 3), feature_group_count=2), (1, 5, 5, 6), (-1,)),
    (nn.Conv(6, (3, 3), feature_group_count=3), (1, 5, 5, 3), (-1,)),
    (nn.ConvLocal(4, (3,), padding="VALID"), (1, 5, 3), (1, 2)),
    (nn.ConvTranspose(4, (3, 3)), (1, 5, 5, 3), (-1,)),
    (nn.ConvTranspose(4, (3, 3), transpose_kernel=True), (1, 5, 5, 3), (-1,)),
    (nn.DenseGeneral((2, 3)), (2, 5), (-2, -1)),
    (nn.DenseGeneral(4, axis=(-2, -1)), (2, 3, 5), (-1,)),
    (nn.DenseGeneral(4, batch_dims=(0,)), (3, 5), (0, -1)),
    (nn.Einsum((3, 4, 5), "ac,cde->ade"), (2, 3), (-2, -1)),
    (VmapDense(4), (2, 5), (0, -1)),
  ],
  ids=lambda x: f"{type(x).__name__}" if isinstance(x, nn.Module) else "",
)
def test_linen_layer(module, input_shape, unit_axes):
  x = normal32(*input_shape, seed=9)
  params = init(module, x)["params"]
  # Without a name and a bias, or with five axes, it could be a stack.
  is_open = params["kernel"].ndim == 5 or module == BARE
  rules = layer_rules(module, x) if is_open else None
  owned = rows_of_units(
    lambda p: units(module.apply({"params": p}, x), unit_axes), params, rules
  )
  assert list(owned) == ["kernel"]
  assert np.array_equal(owned["kernel"], np.eye(len(owned["kernel"]), dtype=bool))


@pytest.mark.parametrize(
  "cell", [nn.LSTMCell, nn.OptimizedLSTMCell, nn.GRUCell], ids=lambda c: c.__name__
)
def test_linen_recurrent_cell(cell):
  module, x = cell(4), normal32(1, 3)
  carry = jax.tree.map(
    lambda c: normal32(*c.shape, seed=7),
    module.initialize_carry(jax.random.key(0), x.shape),
  )
  params = init(module, carry, x)["params"]
  owned = rows_of_units(
    lambda p: units(module.apply({"params": p}, carry, x)[1]), params
  )
  assert {path.split("/")[0] for path in owned} == set(params)
  for path, used in owned.items():
    assert np.array_equal(used, np.eye(4, dtype=bool)), path


def test_linen_embedding_rows_are_tokens():
  module, tokens = nn.Embed(7, 3), jnp.arange(7)
  params = init(module, tokens)["params"]
  rows = neuron_matrices(params)["embedding"]
  assert np.array_equal(rows, module.apply({"params": params}, tokens))


@pytest.mark.parametrize(
  "cell", [nnx.LSTMCell, nnx.OptimizedLSTMCell, nnx.GRUCell], ids=lambda c: c.__name__
)
def test_nnx_recurrent_cell(cell):
  # Fused gates: kernel columns u, u + 4, u + 8, ... all belong to hidden unit u.
  x, h = normal32(1, 3), normal32(1, 4, seed=1)
  carry = h if cell is nnx.GRUCell else (normal32(1, 4, seed=2), h)
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
  x = normal32(*input_shape, seed=9)
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
  x = normal32(*input_shape, seed=9)
  params, static = eqx.partition(make(key), eqx.is_array)
  owned = rows_of_units(
    lambda p: units(eqx.combine(p, static)(x), (0,)),
    params,
    [LayerRule("weight", NeuronAxes(0))],
  )
  assert np.array_equal(owned["weight"], np.eye(len(owned["weight"]), dtype=bool))


def test_equinox_gru_gates(key):
  params, static = eqx.partition(eqx.nn.GRUCell(3, 4, dtype=F32, key=key), eqx.is_array)
  x, h = normal32(3), normal32(4, seed=1)
  rules = [LayerRule("weight_[ih]h", NeuronAxes(0))]
  owned = rows_of_units(lambda p: eqx.combine(p, static)(x, h), params, rules)
  assert set(owned) == {"weight_ih", "weight_hh"}
  for used in owned.values():
    assert np.array_equal(used, np.tile(np.eye(4, dtype=bool), 3))


# --- copies in another library ----------------------------------------------------


def test_linen_and_nnx_copies_of_a_network_have_equal_energies():
  linen = nn.Sequential(
    [
      nn.Conv(4, (3, 3)),
      nn.ConvTranspose(6, (2, 2), transpose_kernel=True),
      nn.MultiHeadDotProductAttention(2),
      nn.Dense(5),
    ]
  )
  x = normal32(1, 4, 4, 3)
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


@pytest.mark.parametrize("name", ["OptimizedLSTMCell", "GRUCell"])
def test_linen_and_nnx_cells_have_equal_energies(name):
  linen, x = nn.RNN(getattr(nn, name)(4)), normal32(1, 5, 3)
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
