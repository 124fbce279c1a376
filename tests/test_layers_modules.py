"""Modules of linen, Equinox and Haiku as programs: what is no kind of layer."""

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import pytest
from by_hand import (
  OFF,
  K,
  check,
  first,
  heads_first,
  in_groups,
  last,
  second_last,
)
from kinds import called, from_rest
from programs import outputs
from sets import normal32
from trees import F32, init

from mhe_jax import layer_rules, neuron_matrices

# --- linen ------------------------------------------------------------------------


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


# --- Equinox ----------------------------------------------------------------------


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


# --- Haiku ------------------------------------------------------------------------


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


@pytest.mark.usefixtures("as_users")
def test_haiku_with_state():
  def forward(x):
    return hk.BatchNorm(True, True, 0.9)(hk.Linear(5)(x), is_training=True)

  model, x = hk.transform_with_state(forward), normal32(2, 3)
  params, _ = model.init(jax.random.key(0), x)
  check(params, layer_rules(model, x), {"linear/w": last})


def test_a_projection_in_a_subclass_of_an_lstm_has_no_gates():
  class Projected(hk.LSTM):
    def __call__(self, x, state):
      y, state = super().__call__(x, state)
      return hk.Linear(8, name="proj")(y), state

  model = hk.transform(called(lambda: from_rest(Projected, 4, name="cell")))
  x = normal32(2, 3)
  with jax.numpy_dtype_promotion("standard"):
    params, rules = init(model, x), layer_rules(model, x)
  check(params, rules, {"cell/linear/w": in_groups(4), "cell/proj/w": last})


def test_multi_transform():
  def forward():
    linear = hk.Linear(5)
    return linear, (linear,)

  model, x = hk.multi_transform(forward), normal32(2, 3)
  params = model.init(jax.random.key(0), x)
  (apply,) = model.apply
  check(params, layer_rules(apply, params, None, x), {"linear/w": last})
  with pytest.raises(TypeError, match=r"model must be .* got MultiTransformed"):
    layer_rules(model, x)


def test_transform_without_a_key():
  model = hk.without_apply_rng(hk.transform(called(lambda: hk.nets.MLP([5, 4]))))
  x = normal32(2, 3)
  layers = {f"mlp/~/linear_{i}/w": last for i in (0, 1)}
  rules = layer_rules(model, x)
  check(init(model, x), rules, layers)
  assert [rule.role for rule in rules if rule.axes] == [None, "output"]
