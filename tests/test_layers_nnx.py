"""Modules of nnx as programs: a call changes them, and they hold those of linen."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from by_hand import OFF, check, last
from flax import nnx
from programs import outputs
from sets import normal32
from trees import F32, nnx_init

from mhe_jax import (
  layer_rules,
  network_energy,
  neuron_matrices,
  with_hyperspherical_energy,
)


class Net(nnx.Module):
  """Batch normalization and dropout, whose states a call changes."""

  def __init__(self, rngs):
    self.conv = nnx.Conv(3, 6, (3, 3), **OFF, rngs=rngs)
    self.norm = nnx.BatchNorm(6, rngs=rngs)
    self.dropout = nnx.Dropout(0.5, rngs=rngs)
    self.blocks = nnx.List([nnx.Linear(6, 6, rngs=rngs) for _ in range(2)])
    self.head = nnx.Linear(6, 4, rngs=rngs)

  def __call__(self, x):
    x = self.dropout(nnx.relu(self.norm(self.conv(x)))).mean((1, 2))
    for block in self.blocks:
      x = x + nnx.relu(block(x))
    return self.head(x)


NET = {
  "conv/kernel": last,
  "blocks/0/kernel": last,
  "blocks/1/kernel": last,
  "head/kernel": last,
}


@pytest.mark.usefixtures("as_users")
@pytest.mark.parametrize(
  "function",
  [
    lambda model, x: model(x),
    lambda model, x: jnp.mean(model(x) ** 2),
    nnx.jit(lambda model, x: model(x)),
    nnx.value_and_grad(lambda model, x: jnp.mean(model(x) ** 2)),
    nnx.remat(lambda model, x: model(x)),
  ],
  ids=["call", "loss", "jit", "value and gradient", "remat"],
)
def test_nnx_modules_that_a_call_changes(function):
  model, x = nnx_init(Net), normal32(2, 6, 6, 3)
  before = jax.tree.map(jnp.copy, nnx.state(model, nnx.BatchStat))
  rules = layer_rules(function, model, x)
  check(nnx.to_pure_dict(nnx.state(model, nnx.Param)), rules, NET)
  assert outputs(model, rules) == {"head/kernel"}
  # Nothing was computed, and nothing changed.
  after = nnx.state(model, nnx.BatchStat)
  jax.tree.map(np.testing.assert_array_equal, before, after)
  assert neuron_matrices(model, rules).keys() == NET.keys()


def test_two_nnx_modules_and_one_that_is_an_input():
  g = nnx_init(lambda r: nnx.Linear(3, 4, **OFF, rngs=r))
  d = nnx_init(lambda r: nnx.Linear(4, 2, **OFF, rngs=r))
  both = {"g": g, "d": d}
  rules = layer_rules(lambda m, z: m["d"](m["g"](z)), both, normal32(2, 3))
  assert {k: w.shape for k, w in neuron_matrices(both, rules).items()} == {
    "d/kernel": (2, 4),
    "g/kernel": (4, 3),
  }
  rules = layer_rules(lambda g, d, z: d(g(z)).sum(), g, d, normal32(2, 3))
  assert [rule.axes is not None for rule in rules] == [True]
  check(nnx.to_pure_dict(nnx.state(g)), rules, {"kernel": last})


def test_nnx_states():
  """The functional way: a graph, and a state as the tree."""
  graph, params, rest = nnx.split(nnx_init(Net), nnx.Param, ...)

  def loss(params, rest, x):
    model = nnx.merge(graph, params, rest)
    return jnp.mean(model(x) ** 2)

  with jax.numpy_dtype_promotion("standard"):
    rules = layer_rules(loss, params, rest, normal32(2, 6, 6, 3))
  check(nnx.to_pure_dict(params), rules, NET)


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


# --- bridges between libraries ----------------------------------------------------


def test_linen_modules_in_nnx():
  class Mixed(nnx.Module):
    def __init__(self, rngs):
      self.inner = nnx.bridge.ToNNX(nn.Dense(6, **OFF), rngs=rngs)
      nnx.bridge.lazy_init(self.inner, jnp.ones((2, 3), F32))
      self.head = nnx.Linear(6, 4, **OFF, rngs=rngs)

    def __call__(self, x):
      return self.head(nnx.relu(self.inner(x)))

  model = Mixed(nnx.Rngs(0))
  rules = layer_rules(model, normal32(2, 3))
  params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
  paths = [p for p in neuron_matrices(params, rules) if "inner" in p]
  assert len(paths) == 1
  check(params, rules, {paths[0]: last, "head/kernel": last})
  assert outputs(params, rules) == {"head/kernel"}


def test_nnx_modules_in_linen():
  class Mixed(nn.Module):
    @nn.compact
    def __call__(self, x):
      inner = nnx.bridge.to_linen(nnx.Linear, 3, 6, use_bias=False, name="inner")
      return nn.Dense(4, name="head", **OFF)(nn.relu(inner(x)))

  model, x = Mixed(), normal32(2, 3)
  params = nn.meta.unbox(model.init(jax.random.key(0), x))["params"]
  rules = layer_rules(model, x)
  check(params, rules, {"inner/kernel": last, "head/kernel": last})
  assert outputs(params, rules) == {"head/kernel"}
