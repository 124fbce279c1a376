"""Every kind of nnx module, in all its trees, against matrices made by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from by_hand import OFF, check, first, heads, in_groups, last, second_last, stacked
from flax import nnx
from sets import normal32
from trees import init, nnx_init

from mhe_jax import (
  LayerRule,
  layer_rules,
  network_energy,
  neuron_matrices,
  with_hyperspherical_energy,
)


class MyConv(nnx.Conv):
  """A subclass."""


NNX = {
  "Linear": (lambda r: nnx.Linear(3, 5, **OFF, rngs=r), {"kernel": last}),
  "LinearGeneral": (
    lambda r: nnx.LinearGeneral(3, (4, 5), **OFF, rngs=r),
    {"kernel": heads},
  ),
  "LinearGeneral batch": (
    lambda r: nnx.LinearGeneral(4, 5, batch_axis={0: 3}, **OFF, rngs=r),
    {"kernel": stacked(last)},
  ),
  "Einsum": (
    lambda r: nnx.Einsum("ntd,dhk->nthk", (3, 4, 5), rngs=r),
    {"kernel": heads},
  ),
  "Einsum experts": (
    lambda r: nnx.Einsum("bed,edf->bef", (3, 4, 5), rngs=r),
    {"kernel": stacked(last)},
  ),
  "Conv 1d": (lambda r: nnx.Conv(3, 4, 3, **OFF, rngs=r), {"kernel": last}),
  "Conv 2d": (lambda r: nnx.Conv(3, 4, (3, 2), **OFF, rngs=r), {"kernel": last}),
  "Conv groups": (
    lambda r: nnx.Conv(4, 6, (3, 3), feature_group_count=2, rngs=r),
    {"kernel": in_groups(2)},
  ),
  "subclass": (lambda r: MyConv(3, 4, (3, 2), **OFF, rngs=r), {"kernel": last}),
  "ConvTranspose": (
    lambda r: nnx.ConvTranspose(3, 3, 2, **OFF, rngs=r),
    {"kernel": last},
  ),
  "ConvTranspose transposed": (
    lambda r: nnx.ConvTranspose(3, 3, 2, transpose_kernel=True, **OFF, rngs=r),
    {"kernel": second_last},
  ),
  "Embed": (lambda r: nnx.Embed(7, 3, rngs=r), {"embedding": first}),
  "attention": (
    lambda r: nnx.MultiHeadAttention(4, 4, 16, decode=False, **OFF, rngs=r),
    {
      "query/kernel": heads,
      "key/kernel": heads,
      "value/kernel": heads,
      "out/kernel": last,
    },
  ),
  "SimpleCell": (
    lambda r: nnx.SimpleCell(3, 4, rngs=r),
    {f"dense_{x}/kernel": last for x in "ih"},
  ),
  "LSTMCell": (
    lambda r: nnx.LSTMCell(3, 4, rngs=r),
    {
      f"{x}{g}/kernel": last
      for x in "ih"
      for g in ("i", "f_" if x == "i" else "f", "g", "o")
    },
  ),
  "OptimizedLSTMCell": (
    lambda r: nnx.OptimizedLSTMCell(3, 4, rngs=r),
    {f"dense_{x}/kernel": in_groups(4) for x in "ih"},
  ),
  "GRUCell": (
    lambda r: nnx.GRUCell(3, 4, rngs=r),
    {f"dense_{x}/kernel": in_groups(3) for x in "ih"},
  ),
  "LoRA": (
    lambda r: nnx.LoRA(5, 2, 6, rngs=r),
    {"lora_a": last, "lora_b": last},
  ),
  "LoRALinear": (
    lambda r: nnx.LoRALinear(5, 6, lora_rank=2, rngs=r),
    {"kernel": last, "lora/lora_a": last, "lora/lora_b": last},
  ),
  "norms": (
    lambda r: nnx.Sequential(
      nnx.Linear(4, 6, rngs=r), nnx.BatchNorm(6, rngs=r), nnx.RMSNorm(6, rngs=r)
    ),
    {"layers/0/kernel": last},
  ),
  "WeightNorm": (
    lambda r: nnx.WeightNorm(nnx.Linear(4, 6, rngs=r), rngs=r),
    {"layer_instance/kernel": last},
  ),
}


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


def test_nnx_modules_in_a_dict():
  make = lambda r: nnx.Conv(4, 6, (3, 3), feature_group_count=2, rngs=r)  # noqa: E731
  models = {"gen": nnx_init(make), "disc": nnx_init(make)}
  for rules in (None, layer_rules(models)):
    matrices = neuron_matrices(models, rules)
    assert {k: w.shape for k, w in matrices.items()} == {
      "disc/kernel": (2, 3, 18),
      "gen/kernel": (2, 3, 18),
    }
