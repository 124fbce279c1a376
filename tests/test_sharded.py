"""Rows that are sharded over devices: the ring, and who asks for it."""

import dataclasses
import functools
import json
import math
import pathlib
import socket
import subprocess
import sys

import engines
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from processes import environment
from sets import changed, normal

from experiments.benchmarks.products import products_of
from mhe_jax import (
  Gaussian,
  LayerRule,
  NeuronAxes,
  Potential,
  RelativeExcess,
  Riesz,
  hyperspherical_energy,
  network_energy,
)

TYPES = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}
every_type = pytest.mark.parametrize("axis_type", TYPES.values(), ids=TYPES)


def mesh_of(*sizes, axis_type=AxisType.Auto):
  devices = jax.devices()[: math.prod(sizes)]
  axis_types = (axis_type,) * len(sizes)
  return jax.make_mesh(sizes, tuple("xyz")[: len(sizes)], axis_types, devices=devices)


def put(x, mesh, spec):
  return jax.device_put(x, NamedSharding(mesh, spec))


assert_close = functools.partial(engines.assert_close, rtol=1e-9)


# --- inside shard_map ---------------------------------------------------------------


def on_devices(mesh, function, *operands, axis_name="x"):
  """Value and gradient of a function of rows, ``[n, ...]`` each, that are sharded."""

  def value_and_grad(*operands):
    return jax.value_and_grad(function)(*operands, axis_name=axis_name)

  rows = P(axis_name)
  sharded = jax.shard_map(
    value_and_grad, mesh=mesh, in_specs=rows, out_specs=(P(), rows)
  )
  return jax.jit(sharded)(*(put(x, mesh, rows) for x in operands))


# Odd and even numbers of devices, and of rows, of one tile and of several.
@pytest.mark.parametrize(
  "num_devices, num_rows, block_size",
  [
    *((1, 5, None), (2, 1, None), (2, 6, 2), (3, 5, None), (3, 6, 2)),
    *((4, 5, None), (5, 1, None), (8, 5, None), (8, 6, 2)),
  ],
)
def test_the_ring_is_equal_to_one_device(num_devices, num_rows, block_size):
  w = normal(num_devices * num_rows, 3)
  energy = functools.partial(
    hyperspherical_energy, potential=Riesz(2.0), block_size=block_size
  )
  expected = jax.jit(jax.value_and_grad(energy))(w)
  assert_close(on_devices(mesh_of(num_devices), energy, w), expected)


@pytest.mark.parametrize(
  "masked, reduction, half_space",
  [
    *(("", "sum", True), ("where", "mean", False), ("labels", "sum", True)),
    *(("where labels", "mean", True), ("where labels", "sum", False)),
  ],
)
def test_masks_on_a_ring(masked, reduction, half_space):
  rng = np.random.default_rng(1)
  masks = {"where": rng.random(20) < 0.7, "labels": rng.integers(0, 9, 20)}
  names = masked.split()

  def energy(w, *masks, **options):
    options |= dict(zip(names, masks))
    potential = Riesz(1.0, metric="geodesic")
    return hyperspherical_energy(
      w, potential, half_space=half_space, reduction=reduction, **options
    )

  operands = [normal(20, 3), *(jnp.asarray(masks[name]) for name in names)]
  expected = jax.jit(jax.value_and_grad(energy))(*operands)
  assert_close(on_devices(mesh_of(4), energy, *operands), expected)


@pytest.mark.parametrize("axis_name", (("x", "y"), ("y", "x")), ids="-".join)
def test_rows_over_two_axes_of_the_mesh(axis_name):
  energy = functools.partial(hyperspherical_energy, potential=Gaussian(1.0))
  w = normal(24, 3)
  actual = on_devices(mesh_of(4, 2), energy, w, axis_name=axis_name)
  assert_close(actual, jax.value_and_grad(energy)(w))


def test_gradient_from_outside():
  """The loss is a sharded function, and its gradient that of the whole."""
  mesh, w = mesh_of(8), normal(2, 24, 3)
  spec = P(None, "x")

  def energy(w, **options):
    return jnp.sum(hyperspherical_energy(w, Riesz(0.0), half_space=True, **options))

  sharded = jax.shard_map(
    functools.partial(energy, axis_name="x"), mesh=mesh, in_specs=spec, out_specs=P()
  )
  turn = jnp.asarray(normal(*w.shape, seed=1))  # A constant of programs.
  for transform in (
    jax.grad,
    lambda f: lambda w: jax.jvp(jax.grad(f), (w,), (turn,))[1],
    lambda f: jax.grad(lambda w: jnp.sum(turn * jax.grad(f)(w))),
  ):
    actual = jax.jit(transform(sharded))(put(w, mesh, spec))
    assert_close(actual, jax.jit(transform(energy))(w))


def test_rows_of_zeros_and_of_nan():
  energy = functools.partial(hyperspherical_energy, potential=Riesz(2.0))
  w = changed(normal(16, 3), 5, 0.0)
  value, gradient = on_devices(mesh_of(8), energy, w)
  assert_close((value, gradient), jax.value_and_grad(energy)(w))
  value, _ = on_devices(mesh_of(8), energy, changed(w, 3, np.nan))
  assert np.isnan(value)


def test_equal_rows_on_different_devices_have_a_finite_pull():
  w = jnp.ones((8, 3), jnp.float16) * 1e-7
  energy = functools.partial(hyperspherical_energy, potential=Riesz(2.0))
  value, gradient = on_devices(mesh_of(8), energy, w)
  assert np.isfinite(value) and np.isfinite(jax.device_get(gradient)).all()


def test_an_axis_name_that_is_none_here():
  with pytest.raises(ValueError, match="axis_name must be a mesh axis of the"):
    hyperspherical_energy(normal(8, 3), axis_name="x")

  for name, message in (
    (("x", "rows"), r"axis_name must be .*got \('x', 'rows'\)"),
    (3, "axis_name must be .*got 3"),
    (("x", "x"), "axis_name must name each axis once"),
  ):
    energy = functools.partial(hyperspherical_energy, axis_name=name)
    sharded = jax.shard_map(energy, mesh=mesh_of(8), in_specs=P("x"), out_specs=P())
    with pytest.raises(ValueError, match=message):
      sharded(normal(8, 3))
  with pytest.raises(ValueError, match="axis_name must be None for 'dense'"):
    hyperspherical_energy(normal(8, 3), axis_name="x", implementation="dense")


def test_rows_that_are_the_same_on_all_devices():
  energy = functools.partial(hyperspherical_energy, axis_name="x")

  def masked(w, where):
    return energy(w, where=where)

  for check_vma in (True, False):
    replicated = jax.shard_map(
      energy, mesh=mesh_of(8), in_specs=P(), out_specs=P(), check_vma=check_vma
    )
    with pytest.raises(ValueError, match="neurons must be those of the rows of one"):
      replicated(normal(8, 3))
  specs = (P("x"), P())
  sharded = jax.shard_map(masked, mesh=mesh_of(8), in_specs=specs, out_specs=P())
  with pytest.raises(ValueError, match="where must be those of the rows of one"):
    sharded(normal(8, 3), jnp.ones(1, bool))


# --- by itself ----------------------------------------------------------------------

# Of a mesh of 4 x 2: of [n, d], and of [2, n, d].
SPECS = [
  P("x"), P(None, "x"), P("x", "y"), P("y", "x"), P(("x", "y")),
  P("y", "x", None), P(None, None, "x"), P("y"),
]  # fmt: skip
OF_MATRICES = 5


@every_type
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: str(tuple(spec)))
def test_sharded_arrays_are_not_gathered(axis_type, spec):
  mesh = mesh_of(4, 2, axis_type=axis_type)
  batch = () if SPECS.index(spec) < OF_MATRICES else (2,)
  w = normal(*batch, 512, 8, dtype=jnp.float32)

  def energy(w):
    return jnp.sum(hyperspherical_energy(w, Riesz(2.0), half_space=True))

  expected = jax.value_and_grad(energy)(w)
  with jax.set_mesh(mesh):
    sharded = put(w, mesh, spec)
    program = jax.jit(jax.value_and_grad(energy)).lower(sharded).compile()
    actual = program(sharded)
  assert_close(actual, expected, rtol=2e-5)
  assert actual[1].sharding.is_equivalent_to(sharded.sharding, w.ndim)
  text = program.as_text()
  assert " all-gather(" not in text
  only_sets = batch and spec == P("y")
  assert (" collective-permute(" in text) != only_sets


@every_type
def test_outside_of_jit(axis_type):
  mesh = mesh_of(8, axis_type=axis_type)
  w = normal(1024, 4, dtype=jnp.float32)
  where = np.random.default_rng(0).random(1024) < 0.5
  actual = hyperspherical_energy(put(w, mesh, P("x")), where=where)
  assert_close(actual, hyperspherical_energy(w, where=where), rtol=1e-6)


@every_type
def test_whole_arrays_where_a_mesh_is_set(axis_type):
  w = normal(512, 4)
  expected = jax.value_and_grad(hyperspherical_energy)(w)
  with jax.set_mesh(mesh_of(8, axis_type=axis_type)):
    assert_close(jax.jit(jax.value_and_grad(hyperspherical_energy))(w), expected)


def test_layers_of_one_shape_that_are_sharded_differently():
  mesh = mesh_of(8, axis_type=AxisType.Explicit)
  params = {name: {"kernel": normal(16, 512, seed=ord(name))} for name in "abc"}
  specs = {"a": P(None, "x"), "b": P("x"), "c": P()}
  sharded = {
    name: {"kernel": put(layer["kernel"], mesh, specs[name])}
    for name, layer in params.items()
  }
  actual = jax.jit(network_energy)(sharded)
  assert_close(actual, network_energy(params))


@every_type
def test_few_rows_are_gathered(axis_type):
  mesh, w = mesh_of(8, axis_type=axis_type), normal(64, 4)
  program = jax.jit(hyperspherical_energy).lower(put(w, mesh, P("x"))).compile()
  assert " collective-permute(" not in program.as_text()
  assert_close(program(put(w, mesh, P("x"))), hyperspherical_energy(w))


@every_type
@pytest.mark.parametrize("objective", (Riesz(1.0), RelativeExcess(Riesz(1.0))), ids=str)
def test_layers_of_a_network_are_not_gathered(axis_type, objective):
  mesh = mesh_of(4, 2, axis_type=axis_type)
  params = {
    "Conv_0": {"kernel": normal(3, 3, 2, 512, dtype=jnp.float32)},
    "Dense_0": {"kernel": normal(16, 512, dtype=jnp.float32)},
  }
  specs = {"Conv_0": P(None, None, None, "x"), "Dense_0": P("x", "y")}
  sharded = {
    name: {"kernel": put(layer["kernel"], mesh, specs[name])}
    for name, layer in params.items()
  }

  def energy(params):
    return network_energy(params, objective)

  program = jax.jit(jax.value_and_grad(energy)).lower(sharded).compile()
  assert " all-gather(" not in program.as_text()
  actual = program(sharded)
  assert_close(actual, jax.value_and_grad(energy)(params), rtol=1e-5)
  same = jax.tree.map(
    lambda x, y: x.sharding.is_equivalent_to(y.sharding, x.ndim), actual[1], sharded
  )
  assert all(jax.tree.leaves(same))


def test_derivatives_and_batches_of_what_the_compiler_divides():
  mesh = mesh_of(4, 2)
  w, turn = normal(3, 256, 4), normal(256, 4, seed=1)
  sharded = put(w, mesh, P(None, "x"))

  def energy(w):
    return hyperspherical_energy(w, Riesz(2.0))

  def hessian_vector(w):
    return jax.jvp(jax.grad(energy), (w,), (turn,))[1]

  for function in (energy, jax.value_and_grad(energy), hessian_vector):
    batched = jax.jit(jax.vmap(function))
    assert_close(batched(sharded), batched(w), rtol=1e-10)
  twice = jax.jit(jax.vmap(jax.vmap(energy)))
  assert_close(twice(sharded[None]), energy(w)[None])


def test_a_reshape_that_divides_a_sharded_axis():
  """Devices then have parts of several sets, which no name of the mesh says."""
  mesh = mesh_of(8)
  kernel = normal(8, 1024)
  rules = [LayerRule("kernel", NeuronAxes(-1, groups=4))]
  function = jax.jit(functools.partial(network_energy, rules=rules))
  actual = function({"kernel": put(kernel, mesh, P(None, "x"))})
  assert_close(actual, network_energy({"kernel": kernel}, rules=rules))


def test_batches_that_are_sharded_under_vmap():
  w = normal(8, 128, 4)
  energy = jax.vmap(jax.value_and_grad(hyperspherical_energy))
  for axis_type in TYPES.values():
    sharded = put(w, mesh_of(8, axis_type=axis_type), P("x"))
    assert_close(jax.jit(energy)(sharded), energy(w))


@dataclasses.dataclass(frozen=True)
class Polynomial(Potential):
  """A potential of the user's own, with coefficients that are an array."""

  def value(self, r2):
    return jnp.polyval(COEFFICIENTS, r2)

  def slope(self, r2):
    return jnp.polyval(jnp.polyder(COEFFICIENTS), r2)


COEFFICIENTS = jnp.asarray([0.1, -1.0, 3.0])


def test_a_potential_with_constants():
  w = normal(512, 4)
  energy = jax.value_and_grad(lambda w: hyperspherical_energy(w, Polynomial()))
  actual = jax.jit(energy)(put(w, mesh_of(8), P("x")))
  assert_close(actual, energy(w))


# --- what it costs ------------------------------------------------------------------


@pytest.mark.parametrize("num_devices", (3, 4, 8))
def test_no_pair_is_computed_twice(num_devices):
  n, d = 96, 16
  shard = n // num_devices

  def value_and_grad(w):
    return jax.value_and_grad(functools.partial(hyperspherical_energy, axis_name="x"))(
      w
    )

  mesh = mesh_of(num_devices)
  specs = {"in_specs": P("x"), "out_specs": (P(), P("x"))}
  sharded = jax.shard_map(value_and_grad, mesh=mesh, **specs)
  # Cosines once and pulls both ways of N^2 / 2 pairs, but the tile on the diagonal,
  # which is whole, once each; and sums of tiles, as products with ones.
  pairs = num_devices * (num_devices - 1) // 2 * shard**2
  most = (3 * pairs + 2 * num_devices * shard**2) * (d + 1) / num_devices
  least = 3 * pairs * d / num_devices
  assert least < products_of(sharded, jnp.ones((n, d))) <= most


def test_memory_of_a_device():
  mesh, n, d = mesh_of(8), 8192, 64
  energy = jax.value_and_grad(hyperspherical_energy)
  whole = jax.jit(energy).lower(jnp.ones((n, d), jnp.float32)).compile()
  sharded = put(jnp.ones((n, d), jnp.float32), mesh, P("x"))
  divided = jax.jit(energy).lower(sharded).compile()

  def size(program):
    memory = program.memory_analysis()
    return (
      memory.temp_size_in_bytes
      + memory.argument_size_in_bytes
      + memory.output_size_in_bytes
    )

  tile = 4 * 1024**2 * 4  # Few of them, whatever the number of rows.
  assert size(divided) < size(whole) / 8 + tile


# --- several hosts ------------------------------------------------------------------


def test_two_processes():
  """Two hosts on the loopback, with two devices each."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  script = pathlib.Path(__file__).with_name("one_of_two_hosts.py")
  hosts = [
    subprocess.Popen(
      [sys.executable, script, str(rank), str(port)],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      env=environment(),
    )
    for rank in range(2)
  ]
  printed = [host.communicate(timeout=300) for host in hosts]
  for (text, errors), host in zip(printed, hosts):
    assert host.returncode == 0, errors
    result = json.loads(text.splitlines()[-1])
    assert result["processes"] == 2 and result["shards"] == [[128, 8]] * 2
    for name in ("by the compiler", "by name"):
      assert result[name] == pytest.approx(result["exact"], rel=1e-6)
    assert result["sampled"] == pytest.approx(result["exact"], rel=1e-2)
    assert result["gradient's error"] < 2e-5
