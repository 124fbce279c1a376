"""How a program can be called: derivatives, devices, static arguments, trees."""

import collections
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from by_hand import last
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from programs import arrays, check_program, cross_entropy
from sets import normal32
from trees import F32

from mhe_jax import layer_rules, neuron_matrices

X = normal32(8, 16, seed=9)
LABELS = jnp.arange(8) % 5
PARAMS = arrays(w1=(16, 24), b=(24,), w2=(24, 8), head=(8, 5))
LAYERS = dict.fromkeys(("w1", "w2", "head"), last)


def forward(params, x):
  x = jax.nn.relu(x @ params["w1"] + params["b"][None])
  return jnp.tanh(x @ params["w2"]) @ params["head"]


def loss(params, x, labels):
  return cross_entropy(forward(params, x), labels)


def reads(function, inputs=(X, LABELS), output=("head",), **options):
  check_program(function, PARAMS, inputs, LAYERS, output=output, **options)


# --- derivatives --------------------------------------------------------------------


def with_aux(params, x, labels):
  logits = forward(params, x)
  return cross_entropy(logits, labels), {"right": logits.argmax(-1) == labels}


def penalized(params, x, labels):
  squares = sum(jnp.sum(w**2) for w in jax.tree.leaves(params))
  return loss(params, x, labels) + 1e-4 * squares


def step(params, x, labels):
  """A step of an optimizer: its outputs are parameters, and gradients of them."""
  tx = optax.adam(1e-3)
  value, gradients = jax.value_and_grad(loss)(params, x, labels)
  updates, state = tx.update(gradients, tx.init(params), params)
  return optax.apply_updates(params, updates), state, value


def per_example(params, x, labels):
  one = lambda x, y: jax.grad(loss)(params, x[None], y[None])  # noqa: E731
  return jax.vmap(one)(x, labels)


def hessian_product(params, x, labels):
  return jax.jvp(jax.grad(lambda p: loss(p, x, labels)), (params,), (params,))


def accumulated(params, x, labels):
  """Over micro-batches."""

  def turn(total, batch):
    gradients = jax.grad(loss)(params, *batch)
    return jax.tree.map(jnp.add, total, gradients), None

  zeros = jax.tree.map(jnp.zeros_like, params)
  return lax.scan(turn, zeros, (x.reshape(4, 2, 16), labels.reshape(4, 2)))[0]


VALUES = [
  loss, with_aux, penalized, jax.value_and_grad(loss), step,
  jax.value_and_grad(with_aux, has_aux=True), jax.checkpoint(loss),
  jax.jit(jax.value_and_grad(jax.checkpoint(loss))),
]  # fmt: skip
GRADIENTS = [jax.grad(loss), per_example, accumulated, hessian_product]


@pytest.mark.parametrize("function", VALUES)
def test_losses_and_their_derivatives(function):
  reads(function)


@pytest.mark.parametrize("function", GRADIENTS)
def test_gradients_alone_come_through_all_layers(function):
  reads(function, output=())


def test_gradients_of_inputs():
  """A force field: its outputs are derivatives of a number."""

  def forces(params, x):
    return -jax.grad(lambda x: forward(params, x)[:, 0].sum())(x)

  params = {**PARAMS, "head": normal32(8, 2)}
  check_program(forces, params, (X,), LAYERS)


# --- arguments ----------------------------------------------------------------------


def test_static_arguments():
  @functools.partial(jax.jit, static_argnames=("train", "depth"))
  def function(params, x, *, train, depth=1):
    x = jax.nn.relu(x @ params["w1"] + params["b"])
    for _ in range(depth):
      x = x * 0.5 if train else x
    return x @ params["w2"] @ params["head"]

  reads(function, (X,), train=True)
  reads(function, (X,), train=False, depth=2)
  by_position = jax.jit(lambda p, kind, x: {"f": forward}[kind](p, x), static_argnums=1)
  reads(by_position, ("f", X))


@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey])
def test_dropout(make):
  def function(params, x, key):
    keys = jax.random.split(key)
    x = jax.nn.relu(x @ params["w1"] + params["b"])
    x = jnp.where(jax.random.bernoulli(keys[0], 0.5, x.shape), x / 0.5, 0.0)
    x = jnp.tanh(x @ params["w2"]) + jax.random.normal(keys[1], (8, 8), F32)
    return x @ params["head"]

  reads(function, (X, make(0)))
  reads(function, (X, jax.eval_shape(make, 0)))


def test_abstract_inputs_and_parameters():
  shapes = lambda tree: jax.eval_shape(lambda: tree)  # noqa: E731
  rules = layer_rules(loss, shapes(PARAMS), *shapes((X, LABELS)))
  assert rules == layer_rules(loss, PARAMS, X, LABELS)
  reads(loss, shapes((X, LABELS)))


def test_inputs_of_numpy_and_of_python():
  def function(params, x, scale, flag, name):
    assert name == "name" and flag is True
    return scale * forward(params, x)

  reads(function, (np.asarray(X), 2.0, True, "name"))
  reads(function, (np.asarray(X), np.float32(2.0), True, "name"))


def test_nested_calls():
  inner = jax.jit(forward, inline=False)
  outer = jax.jit(jax.named_call(inner, name="model"))
  reads(outer, (X,))
  reads(functools.partial(outer, x=X), ())


def test_custom_derivatives_with_parameters():
  @jax.custom_vjp
  def dense(x, w):
    return x @ w

  dense.defvjp(lambda x, w: (x @ w, (x, w)), lambda r, g: (g @ r[1].T, r[0].T @ g))

  @jax.custom_jvp
  def act(x, b):
    return jax.nn.relu(x + b)

  act.defjvp(lambda p, t: (act(*p), t[0]))

  def function(params, x):
    x = act(dense(x, params["w1"]), params["b"])
    return jnp.tanh(dense(x, params["w2"])) @ params["head"]

  reads(function, (X,))
  reads(lambda p, x: jax.grad(lambda p: function(p, x).sum())(p), (X,), output=())


def test_printing_and_checks_inside():
  def function(params, x):
    jax.debug.print("{}", params["w1"].sum())
    y = forward(params, x)
    jax.debug.callback(lambda y: None, y)
    return y

  reads(function, (X,))


# --- trees --------------------------------------------------------------------------


Net = collections.namedtuple("Net", "w1 b w2 head")


@functools.partial(jax.tree_util.register_dataclass, meta_fields=["kind"],
                   data_fields=["w1", "b", "w2", "head"])  # fmt: skip
@dataclasses.dataclass
class Registered:
  w1: jax.Array
  b: jax.Array
  w2: jax.Array
  head: jax.Array
  kind: str = "net"


@pytest.mark.parametrize("tree", [Net, Registered])
def test_trees_of_any_kind(tree):
  function = lambda net, x: forward({k: getattr(net, k) for k in PARAMS}, x)  # noqa: E731
  params = tree(**PARAMS)
  check_program(function, params, (X,), LAYERS, output=["head"])


def test_lists():
  function = lambda p, x: jnp.tanh(x @ p[0]) @ p[1]  # noqa: E731
  params = [normal32(16, 6), normal32(6, 5)]
  layers = {"0": last, "1": last}
  check_program(function, params, (X,), layers, output=["1"])


def test_a_tree_with_what_is_no_parameter():
  """A train state: counters, moments and names beside the parameters."""
  tx = optax.adam(1e-3)
  state = {"params": PARAMS, "opt": tx.init(PARAMS), "step": 3, "name": "a", "no": None}
  rules = layer_rules(lambda s, x: forward(s["params"], x), state, X)
  read = {rule.pattern for rule in rules if rule.role not in ("skip", "unread")}
  assert len(read) == 3
  assert {k: w.shape for k, w in neuron_matrices(PARAMS, rules).items()} == {
    "head": (5, 8),
    "w1": (24, 16),
    "w2": (8, 24),
  }


def test_what_the_function_does_not_use_is_said():
  params = {**PARAMS, "idle": normal32(3, 4)}
  check_program(forward, params, (X,), LAYERS, output=["head"], unread=["idle"])


# --- devices ------------------------------------------------------------------------


def test_explicit_mesh():
  mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
  with jax.set_mesh(mesh):
    specs = {"w1": P(None, "model"), "b": P("model"), "w2": P("model", None)}
    put = lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec))  # noqa: E731
    params = {k: put(w, specs.get(k, P())) for k, w in PARAMS.items()}
    x = put(X, P("data", None))

    def sharded(params, x):
      h = jnp.einsum("bi,ij->bj", x, params["w1"], out_sharding=P("data", "model"))
      h = jax.nn.relu(h + jnp.reshape(params["b"], (1, -1)))
      h = jnp.einsum("bj,jk->bk", h, params["w2"], out_sharding=P("data", None))
      return jax.sharding.reshard(jnp.tanh(h), P("data", None)) @ params["head"]

    check_program(sharded, params, (x,), LAYERS, output=["head"])


@pytest.mark.parametrize("check", [True, False])
def test_shard_map(check):
  """Tensor parallel: inside, every device has a part of the neurons."""
  mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
  specs = {"w1": P(None, "model"), "b": P("model"), "w2": P("model", None), "head": P()}

  @functools.partial(
    jax.shard_map, mesh=mesh, in_specs=(specs, P("data")), out_specs=P("data"),
    check_vma=check,
  )  # fmt: skip
  def sharded(params, x):
    h = jax.nn.relu(x @ params["w1"] + params["b"])
    h = lax.psum(h @ params["w2"], "model")
    return jnp.tanh(h) @ params["head"]

  reads(sharded, (X,))
  reads(jax.jit(lambda p, x: sharded(p, x).sum(), inline=True), (X,))


def test_shard_map_that_gathers_its_parameters():
  """Fully sharded data parallel, and a mean of the losses."""
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  rows = {"w1": P("data"), "b": P("data"), "w2": P(None, "data"), "head": P()}

  @functools.partial(
    jax.shard_map, mesh=mesh, in_specs=(rows, P("data"), P("data")), out_specs=P()
  )
  def sharded(params, x, labels):
    gather = functools.partial(lax.all_gather, axis_name="data", tiled=True)
    whole = {
      "w1": gather(params["w1"], axis=0),
      "b": gather(params["b"], axis=0),
      "w2": gather(params["w2"], axis=1),
      "head": params["head"],
    }
    return lax.pmean(loss(whole, x, labels), "data")

  reads(sharded)


def test_parts_of_a_projection_in_shard_map():
  """Equal parts of a device's neurons are no parts of all."""
  mesh = jax.make_mesh((2,), ("model",), axis_types=(AxisType.Auto,))

  @functools.partial(
    jax.shard_map, mesh=mesh, out_specs=P(),
    in_specs=({"up": P(None, "model"), "down": P("model")}, P()),
  )  # fmt: skip
  def sharded(params, x):
    gate, up = jnp.split(x @ params["up"], 2, axis=-1)
    return lax.psum((jax.nn.silu(gate) * up) @ params["down"], "model")

  params = arrays(up=(16, 8), down=(4, 5))

  def turns(kernel):  # Device by device: gate, up.
    rows = np.asarray(kernel).T.reshape(2, 2, 2, 16)
    return rows.swapaxes(0, 1).reshape(2, 4, 16)

  layers = {"up": turns, "down": last}
  check_program(sharded, params, (X,), layers, output=["down"])


def test_a_vmap_with_names():
  def one(params, x):
    x = jax.nn.relu(x @ params["w1"] + params["b"])
    x = x - lax.pmean(x, "batch")
    return jnp.tanh(x @ params["w2"]) @ params["head"]

  reads(jax.vmap(one, in_axes=(None, 0), axis_name="batch"), (X,))
