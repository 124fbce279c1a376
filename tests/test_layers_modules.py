"""Modules of linen, Equinox and Haiku read by what they compute."""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import OFF, K, check, first, last, second_last
from programs import inputs_of, outputs
from sets import normal32
from test_other_classes import EQUINOX
from trees import F32, init

from mhe_jax import layer_rules, neuron_matrices

# --- linen --------------------------------------------------------------------------


def test_variables_that_are_mapped():
  """A square kernel that is stored transposed: names and shapes are deceived."""

  class Transposed(nn.Module):
    @nn.compact
    def __call__(self, x):
      swap = lambda tree: jax.tree.map(jnp.transpose, tree)  # noqa: E731
      dense = nn.map_variables(
        nn.Dense, "params", trans_in_fn=swap, trans_out_fn=swap, init=True
      )
      return nn.Dense(3, name="head", **OFF)(dense(4, name="square", **OFF)(x))

  model, x = Transposed(), normal32(2, 4)
  params = init(model, x)["params"]
  layers = {"square/kernel": first, "head/kernel": last}
  check(params, layer_rules(model, x), layers)


def test_boxed_parameters():
  dense = nn.Dense(
    6, **OFF, kernel_init=nn.with_partitioning(nn.initializers.normal(), ("a", "b"))
  )
  model, x = nn.Sequential([dense, nn.relu, nn.Dense(4, **OFF)]), normal32(2, 3)
  boxed = model.init(jax.random.key(0), x)["params"]
  unboxed = nn.meta.unbox(boxed)
  rules = layer_rules(model, x)
  layers = {f"layers_{i}/kernel": last for i in (0, 2)}
  check(unboxed, rules, layers)
  assert outputs(unboxed, rules) == {"layers_2/kernel"}
  assert len(neuron_matrices(boxed, rules)) == 2
  by_function = layer_rules(lambda p, x: model.apply({"params": p}, x), boxed, x)
  assert len(neuron_matrices(boxed, by_function)) == 2


def test_tied_transposed_kernels_of_linen():
  class Tied(nn.Module):
    @nn.compact
    def __call__(self, x):
      w = self.param("w", nn.initializers.normal(), (8, 4), F32)
      return nn.relu(x @ w) @ w.T

  model, x = Tied(), normal32(2, 8)
  check(init(model, x)["params"], layer_rules(model, x), {"w": last})


def test_methods_and_collections_of_linen():
  class Auto(nn.Module):
    def setup(self):
      self.encoder = nn.Dense(3, **OFF)
      self.decoder = nn.Dense(8, **OFF)
      self.norm = nn.BatchNorm(use_running_average=False)
      self.drop = nn.Dropout(0.5, deterministic=False)

    def __call__(self, x):
      return self.decode(self.encode(x))

    def encode(self, x):
      return self.drop(self.norm(self.encoder(x)))

    def decode(self, z):
      return self.decoder(z)

  model, x, rngs = Auto(), normal32(2, 8), {"dropout": jax.random.key(1)}
  params = model.init({"params": jax.random.key(0), **rngs}, x)["params"]
  keys = {"params": jax.random.key(0), **rngs}
  with jax.numpy_dtype_promotion("standard"):
    rules = layer_rules(model, x, rngs=keys, mutable=["batch_stats"])
    encode = layer_rules(model, x, rngs=keys, method="encode")
  layers = {f"{name}/kernel": last for name in ("encoder", "decoder")}
  check(params, rules, layers)
  assert outputs(params, rules) == {"decoder/kernel"}
  assert outputs({"encoder": params["encoder"]}, encode) == {"encoder/kernel"}


# --- Equinox ------------------------------------------------------------------------

EQUINOX_INPUTS = {
  "Linear": (3,),
  "Linear scalar": (),
  "subclass": (3,),
  "Conv1d": (3, 5),
  "Conv2d": (3, 5, 5),
  "Conv2d groups": (4, 5, 5),
  "ConvTranspose2d": (3, 5, 5),
  "Embedding": jnp.array(3),
  "MLP": (3,),
  "MultiheadAttention": [(5, 8)] * 3,
  "GRUCell": [(3,), (4,)],
  "LSTMCell": [(3,), (normal32(4), normal32(4))],
  "WeightNorm": (3,),
}


def test_every_kind_of_equinox_has_inputs():
  assert EQUINOX_INPUTS.keys() == EQUINOX.keys() - {"norms"}  # A list, no function.


@pytest.mark.parametrize("name", EQUINOX_INPUTS)
@pytest.mark.parametrize("form", ["module", "loss", "batch", "jit", "partitioned"])
def test_equinox(name, form):
  make, readings = EQUINOX[name]
  model, inputs = make(), inputs_of(EQUINOX_INPUTS[name])
  call = lambda m, *inputs: m(*inputs)  # noqa: E731
  batch = jax.tree.map(lambda x: jnp.stack([x, x]), inputs)
  if form == "module":
    rules = layer_rules(model, *inputs)
  elif form == "loss":
    loss = lambda m, *x: sum(jnp.sum(y) for y in jax.tree.leaves(m(*x)))  # noqa: E731
    rules = layer_rules(eqx.filter_value_and_grad(loss), model, *inputs)
  elif form == "batch":
    axes = (None, *[0] * len(inputs))
    rules = layer_rules(eqx.filter_vmap(call, in_axes=axes), model, *batch)
  elif form == "jit":
    rules = layer_rules(eqx.filter_jit(call), model, *inputs)
  else:
    arrays, static = eqx.partition(model, eqx.is_array)
    rules = layer_rules(lambda p, *x: eqx.combine(p, static)(*x), arrays, *inputs)
  check(eqx.filter(model, eqx.is_array), rules, readings)


def test_equinox_ensemble():
  @eqx.filter_vmap
  def make(key):
    return eqx.nn.MLP(3, 2, 5, depth=2, dtype=F32, key=key)

  model, x = make(jax.random.split(jax.random.key(0), 7)), normal32(3)
  call = eqx.filter_vmap(lambda m, x: m(x), in_axes=(eqx.if_array(0), None))
  rules = layer_rules(call, model, x)
  params = eqx.filter(model, eqx.is_array)
  check(params, rules, {f"layers/{i}/weight": np.asarray for i in range(3)})
  assert outputs(params, rules) == {"layers/2/weight"}


def test_equinox_modules_with_a_state():
  class Net(eqx.Module):
    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    head: eqx.nn.Linear

    def __init__(self):
      self.conv = eqx.nn.Conv2d(3, 6, 3, **K)
      self.norm = eqx.nn.BatchNorm(6, "batch", mode="batch", dtype=F32)
      self.dropout = eqx.nn.Dropout(0.5)
      self.head = eqx.nn.Linear(6, 4, **K)

    def __call__(self, x, state, key):
      x, state = self.norm(self.conv(x), state)
      x = self.dropout(jax.nn.relu(x).mean((1, 2)), key=key)
      return self.head(x), state

  model, state = eqx.nn.make_with_state(Net)()

  def loss(model, state, x, keys):
    call = jax.vmap(model, axis_name="batch", in_axes=(0, None, 0), out_axes=(0, None))
    y, state = call(x, state, keys)
    return jnp.mean(y**2), state

  keys = jax.random.split(jax.random.key(0), 2)
  with jax.numpy_dtype_promotion("standard"):
    rules = layer_rules(loss, model, state, normal32(2, 3, 6, 6), keys)
  params = eqx.filter(model, eqx.is_inexact_array)
  check(params, rules, {"conv/weight": first, "head/weight": first})
  assert outputs(params, rules) == {"head/weight"}


# --- Haiku --------------------------------------------------------------------------


def residual_network(bottleneck):
  widths = (8, 8, 16, 16)
  return hk.nets.ResNet((1, 2, 1, 1), 7, None, False, bottleneck, widths)


HAIKU_NETS = {
  "MLP": (lambda: hk.nets.MLP([5, 4]), (2, 3)),
  "ResNet": (lambda: residual_network(False), (1, 32, 32, 3)),
  "ResNet with bottlenecks": (lambda: residual_network(True), (1, 32, 32, 3)),
  "MobileNetV1": (lambda: hk.nets.MobileNetV1(num_classes=7), (1, 32, 32, 3)),
}


@pytest.mark.usefixtures("as_users")
@pytest.mark.parametrize("name", HAIKU_NETS)
def test_haiku_nets(name):
  """Public models: all kernels but those of depthwise convolutions, last axes."""
  make, shape = HAIKU_NETS[name]
  options = () if name == "MLP" else (True,)
  net = lambda x: make()(x, *options)  # noqa: E731
  model, x = hk.transform_with_state(net), normal32(*shape)
  params, _ = jax.eval_shape(model.init, jax.random.key(0), x)
  params = jax.tree.map(lambda s: normal32(*s.shape), params)
  kernels = {
    f"{module}/{name}": last
    for module, weights in params.items()
    for name, w in weights.items()
    if w.ndim >= 2 and w.size > w.shape[-1] and "depthwise" not in module
  }
  rules = layer_rules(model, x)
  check(params, rules, kernels)
  (output,) = outputs(params, rules)
  assert "logits" in output or output == "mlp/~/linear_1/w"


@pytest.mark.usefixtures("as_users")
def test_haiku_vector_quantizer():
  """Codes are columns, and a state: moving averages, which no gradient moves."""

  def forward(x):
    z = hk.Linear(4)(x)
    out = hk.nets.VectorQuantizer(4, 9, commitment_cost=0.25)(z, is_training=True)
    return hk.Linear(3)(out["quantize"]), out["loss"]

  model, x = hk.transform(forward), normal32(2, 6)
  params = init(model, x)
  layers = {"linear/w": last, "linear_1/w": last}
  layers["vector_quantizer/embeddings"] = last
  rules = layer_rules(model, x)
  check(params, rules, layers)


def test_a_transposed_convolution_of_haiku_in_a_loss():
  def loss(x):
    y = hk.Conv2DTranspose(3, 2, with_bias=False)(jax.nn.relu(hk.Linear(4)(x)))
    return jnp.mean(y**2)

  model, x = hk.transform(loss), normal32(1, 5, 5, 3)
  rules = layer_rules(model, x)
  params = init(model, x)
  check(params, rules, {"linear/w": last, "conv2_d_transpose/w": second_last})
  assert outputs(params, rules) == {"conv2_d_transpose/w"}
