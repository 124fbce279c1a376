"""One battery over all engines: shapes, sizes, memory, platforms, devices and errors.

What they compute is tested with each by itself.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from engines import ENGINES, NUM_DEVICES, assert_close, mesh_of
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from sets import normal

every_engine = pytest.mark.parametrize("name", ENGINES)


def without(*names):
  return pytest.mark.parametrize(
    "name", [name for name in ENGINES if name not in names]
  )


def value_and_gradient(function, w):
  value, pullback = jax.vjp(function, w)
  return value, *pullback(jnp.ones_like(value))


# --- Shapes.


@every_engine
def test_each_set_of_a_batch_is_computed_by_itself(name):
  function = jax.jit(functools.partial(value_and_gradient, ENGINES[name]))
  w = normal(2, 2, 24, 4)
  each = [[function(one) for one in sets] for sets in w]
  stack = lambda *x: np.stack(x)  # noqa: E731
  expected = jax.tree.map(stack, *(jax.tree.map(stack, *sets) for sets in each))
  assert_close(function(w), expected)
  assert_close(jax.jit(jax.vmap(function))(w), expected)


@without("ring")  # Of which each device has rows.
def test_sizes_without_pairs_sets_or_dimensions(name):
  function = ENGINES[name]
  shapes = [(0, 3), (1, 3), (4, 1), (4, 0), (0, 24, 4), (2, 0, 4), (2, 3, 0)]
  if name == "some rows":  # There must be the rows, and directions of them.
    shapes = [(4, 1), (0, 24, 4)]
  elif "nearest" in name:  # There must be as many others, or the rows.
    shapes = [(4, 1), (4, 0), (0, 24, 4)]
  sets = [np.ones(shape, np.float32) for shape in shapes]
  results = jax.jit(lambda sets: [value_and_gradient(function, w) for w in sets])(sets)
  for w, (value, gradient) in zip(sets, results):
    assert value.shape[: w.ndim - 2] == w.shape[:-2]
    assert np.isfinite(value).all() and np.isfinite(gradient).all(), w.shape


@every_engine
@pytest.mark.parametrize("dtype", ("float32", "bfloat16", "float16", "float64"))
def test_dtypes(name, dtype):
  w = jax.ShapeDtypeStruct((24, 4), dtype)
  value, gradient = jax.eval_shape(
    functools.partial(value_and_gradient, ENGINES[name]), w
  )
  assert value.dtype == ("float64" if dtype == "float64" else "float32")
  assert gradient.dtype == dtype


@without("ring")  # A program for several devices is no symbolic one's.
def test_symbolic_sizes(name):
  """A batch, and dimensions; of neurons only the definition takes any number."""
  function = jax.jit(functools.partial(value_and_gradient, ENGINES[name]))

  def export(shape):
    spec = jax.ShapeDtypeStruct(jax.export.symbolic_shape(shape), float)
    return jax.jit(jax.export.export(function)(spec).call)

  w = normal(3, 24, 4)
  expected = function(w)
  assert_close(export("b, c, 24, d")(w[None]), tuple(x[None] for x in expected))
  if name == "dense":
    assert_close(export("b, n, 4")(w), expected)
  else:
    with pytest.raises(ValueError, match=r"static number of (neurons|rows)"):
      export("n, 4")


# --- Memory.


def temporary_mib(function, *shape):
  w = jax.ShapeDtypeStruct(shape, jnp.float32)
  memory = jax.jit(function).lower(w).compile().memory_analysis()
  return memory.temp_size_in_bytes / 2**20


DERIVATIVES = {
  "gradient": lambda f: lambda w: value_and_gradient(f, w),
  "forward over reverse": lambda f: (
    lambda w: jax.jvp(jax.grad(lambda w: f(w).sum()), (w,), (jnp.ones_like(w),))
  ),
}


@without("dense", "tiled", "some rows", "nearest of some")
@pytest.mark.parametrize("derivative", DERIVATIVES)
def test_memory_is_linear(name, derivative):
  """A few arrays of the size of the neurons; the matrix of cosines has 4 GiB."""
  n, d = 32768, 64
  few = {"nearest": 10, "rows": 16}.get(name, 4) if derivative == "gradient" else 16
  temporary = temporary_mib(DERIVATIVES[derivative](ENGINES[name]), n, d)
  assert temporary <= few * n * d * 4 / 2**20 + 40


def test_memory_of_the_definition_is_not():
  n = 4096
  temporary = temporary_mib(DERIVATIVES["gradient"](ENGINES["dense"]), n, 8)
  assert temporary > n**2 * 4 / 2**20


@pytest.mark.parametrize("name", ("default", "rows", "nearest"))
def test_memory_of_a_batch_is_that_of_its_sets_one_by_one(name):
  shape = (16, 2048, 64)
  size = np.prod(shape) * 4 / 2**20
  temporary = temporary_mib(
    functools.partial(value_and_gradient, ENGINES[name]), *shape
  )
  assert temporary <= 4 * size + 64  # 256 MiB of cosines at once.


# --- Everywhere.


def is_accurate(product):
  """Of full precision, or made of six products of parts."""
  return "HIGHEST, HIGHEST" in product or "num_primitive_operations = 6" in product


@without("ring")
def test_lowers_for_every_platform(name):
  w = jax.ShapeDtypeStruct((2000, 32), jnp.float32)
  function = jax.jit(functools.partial(value_and_gradient, ENGINES[name]))
  for platform in ("cpu", "cuda", "rocm", "tpu"):
    program = jax.export.export(function, platforms=[platform])(w)
    lines = program.mlir_module().splitlines()
    products = [line for line in lines if "stablehlo.dot_general" in line]
    # No product of cosines may be left to TF32 or a single pass of bfloat16.
    assert products and all(map(is_accurate, products))


@without("ring")
def test_inside_shard_map(name):
  """A set on each device."""
  w, function = normal(NUM_DEVICES, 24, 4), ENGINES[name]
  spec = P("x")
  sharded = jax.shard_map(
    lambda w: value_and_gradient(function, w),
    mesh=mesh_of(),
    in_specs=spec,
    out_specs=(spec, spec),
  )
  expected = jax.jit(lambda w: value_and_gradient(function, w))(w)
  assert_close(jax.jit(sharded)(w), expected)


@without("ring")  # To which neurons are sharded anyway: test_sharded.py.
@pytest.mark.parametrize("spec", (P("x"), P(None, "x")), ids=("rows", "columns"))
@pytest.mark.parametrize("axis_type", ("Auto", "Explicit"))
def test_sharded_neurons(name, axis_type, spec):
  function = jax.jit(functools.partial(value_and_gradient, ENGINES[name]))
  w = normal(24, 16)
  expected = function(w)
  mesh = mesh_of(getattr(jax.sharding.AxisType, axis_type))
  with jax.set_mesh(mesh):
    actual = function(jax.device_put(w, NamedSharding(mesh, spec)))
  assert_close(jax.device_get(actual), expected)


# --- Errors, before anything is compiled.


@without("ring")  # Without rows there are none to be divided.
@pytest.mark.parametrize(
  "shape, dtype, error, match",
  [
    ((24, 3), "int32", TypeError, "neurons must be a real floating.* int32"),
    ((24, 3), "complex64", TypeError, "neurons must be .* complex64"),
    ((24, 3), "bool", TypeError, "neurons must be .* bool"),
    ((24,), "float32", ValueError, r"neurons must have shape .* \(24,\)"),
    ((), "float32", ValueError, r"neurons must have shape .* \(\)"),
  ],
)
def test_neurons_that_are_none(name, shape, dtype, error, match):
  with pytest.raises(error, match=match):
    jax.eval_shape(ENGINES[name], jax.ShapeDtypeStruct(shape, dtype))
