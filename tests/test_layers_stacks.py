"""The rows of a neuron matrix are the units of the layer, in all forms of nnx."""

import flax.linen as nn
import numpy as np
import pytest
from flax import nnx
from sets import normal32
from trees import init, last, last_two, nnx_init, rows_of_units, units

from mhe_jax import (
  LayerRule,
  NeuronAxes,
  Riesz,
  layer_energies,
  layer_rules,
  network_energy,
  neuron_matrices,
)

FORMS = {
  "module": lambda module: module,
  "params": lambda module: nnx.state(module, nnx.Param),
  "split": lambda module: nnx.split(module)[1],
  "dict": lambda module: nnx.to_pure_dict(nnx.split(module)[1]),
}
forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def nnx_arrays(module):
  flat = nnx.to_flat_state(nnx.state(module, nnx.Param))
  return {"/".join(map(str, path)): np.asarray(v[...]) for path, v in flat}


def second_last(kernel):
  return np.moveaxis(kernel, -2, 0).reshape(kernel.shape[-2], -1)


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
  "gru/dense_h/kernel": lambda kernel: last(kernel).reshape(3, 4, 4),
  "gru/dense_i/kernel": lambda kernel: last(kernel).reshape(3, 4, 3),
  "layers/0/kernel": last,
  "linear/kernel": last,
  "linear/lora/lora_a": last,
  "linear/lora/lora_b": last,
  "up/kernel": last,
  "up_transposed/kernel": second_last,
}


@pytest.fixture(scope="module")
def zoo():
  return nnx_init(Zoo)


@pytest.mark.parametrize("by_class", [False, True])
@forms
def test_nnx_layers(zoo, form, by_class):
  rules = layer_rules(zoo) if by_class else None
  arrays, matrices = nnx_arrays(zoo), neuron_matrices(form(zoo), rules)
  assert list(matrices) == list(ZOO_READINGS)
  for path, reading in ZOO_READINGS.items():
    assert np.array_equal(matrices[path], reading(arrays[path])), path


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
