"""One battery over all engines: shapes, sizes, memory, platforms, devices and errors.

What they compute is tested with each by itself.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from engines import ENGINES, NUM_DEVICES, mesh_of
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


def assert_close(actual, expected, rtol=1e-11):
  """Equal up to rtol of the largest number of each array."""

  def check(x, y):
    assert x.shape == y.shape and x.dtype == y.dtype
    scale = np.abs(y).max(initial=1e-300)
    np.testing.assert_allclose(jax.device_get(x), y, rtol=0, atol=rtol * scale)

  jax.tree.map(check, actual, expected)


# --- Shapes.


@every_engine
def test_each_set_of_a_batch_is_computed_by_itself(name):
  function = ENGINES[name]

  @jax.jit
  def in_turn(w):
    sets = w.reshape(-1, *w.shape[-2:])
    each = [value_and_gradient(function, one) for one in sets]
    back = lambda *x: jnp.stack(x).reshape(*w.shape[:-2], *x[0].shape)  # noqa: E731
    return jax.tree.map(back, *each)

  @jax.jit
  def at_once(w):
    mapped = jax.vmap(lambda w: value_and_gradient(function, w))
    return value_and_gradient(function, w), mapped(w)

  w = normal(2, 2, 24, 4)
  expected = in_turn(w)
  for actual in at_once(w):
    assert_close(actual, expected)


@every_engine
def test_sizes_without_pairs_sets_or_dimensions(name):
  function = ENGINES[name]
  few = {"nearest": 3, "some rows": 4}.get(name, 0)  # The rows that there must be.
  shapes = [(0, 3), (1, 3), (4, 0), (4, 1), (0, 24, 4), (2, 0, 4), (2, 3, 0)]
  if name == "ring":  # As many of each device.
    shapes = [
      (n * NUM_DEVICES if i == len(shape) - 2 else n for i, n in enumerate(shape))
      for shape in shapes
    ]
  shapes = [shape for shape in map(tuple, shapes) if shape[-2] >= few]
  sets = [np.ones(shape, np.float32) for shape in shapes]
  results = jax.jit(lambda sets: [value_and_gradient(function, w) for w in sets])(sets)
  for w, (value, gradient) in zip(sets, results):
    assert value.shape[: w.ndim - 2] == w.shape[:-2]
    assert np.isfinite(value).all() and np.isfinite(gradient).all(), w.shape


@every_engine
@pytest.mark.parametrize("dtype", ("float32", "bfloat16", "float16", "float64"))
def test_dtypes(name, dtype):
  w = jax.ShapeDtypeStruct((24, 4), dtype)
  value, gradient = jax.eval_shape(lambda w: value_and_gradient(ENGINES[name], w), w)
  assert value.dtype == ("float64" if dtype == "float64" else "float32")
  assert gradient.dtype == dtype


@every_engine
def test_symbolic_sizes(name):
  """A batch, and dimensions; of neurons only the definition takes any number."""
  function = jax.jit(lambda w: value_and_gradient(ENGINES[name], w))
  scope = jax.export.SymbolicScope()

  def export(shape):
    shape = jax.export.symbolic_shape(shape, scope=scope)
    spec = jax.ShapeDtypeStruct(shape, float)
    if name == "ring":
      return jax.export.export(function)(spec).call
    return jax.export.export(function)(spec).call

  w = normal(3, 24, 4)
  expected = function(w)
  assert_close(jax.jit(export("b, 24, 4"))(w), expected)
  assert_close(jax.jit(export("b, c, 24, d"))(w[None]), [x[None] for x in expected])
  if name == "dense":
    assert_close(jax.jit(export("b, n, 4"))(w), expected)
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
# Arrays of the size of the neurons: a few, and for the neighbors of each some more.
ARRAYS = {"nearest": 10, "rows": 16}


@without("dense", "some rows")
@pytest.mark.parametrize("derivative", DERIVATIVES)
def test_memory_is_linear(name, derivative):
  """The matrix of cosines would be 4 GiB."""
  n, d = 32768, 64
  size = n * d * 4 / 2**20
  temporary = temporary_mib(DERIVATIVES[derivative](ENGINES[name]), n, d)
  assert temporary <= 16 * size + 40


def test_memory_of_the_definition_is_not():
  n = 4096
  assert (
    temporary_mib(DERIVATIVES["gradient"](ENGINES["dense"]), n, 8) > n**2 * 4 / 2**20
  )


@without("dense", "ring", "some rows", "field", "minibatch")
def test_memory_of_a_batch_is_that_of_its_sets_one_by_one(name):
  shape = (16, 2048, 64)
  size = np.prod(shape) * 4 / 2**20
  temporary = temporary_mib(lambda w: value_and_gradient(ENGINES[name], w), *shape)
  assert temporary <= 4 * size + 64  # 256 MiB of cosines at once.


# --- Everywhere.


@without("ring")
def test_lowers_for_every_platform(name):
  w = jax.ShapeDtypeStruct((2000, 32), jnp.float32)
  function = jax.jit(lambda w: value_and_gradient(ENGINES[name], w))
  for platform in ("cpu", "cuda", "rocm", "tpu"):
    program = jax.export.export(function, platforms=[platform])(w)
    lines = program.mlir_module().splitlines()
    products = [line for line in lines if "stablehlo.dot_general" in line]
    # No product of cosines may be left to TF32 or a single pass of bfloat16.
    assert products
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)


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


@every_engine
@pytest.mark.parametrize("spec", (P("x"), P(None, "x")), ids=("rows", "columns"))
@pytest.mark.parametrize("axis_type", ("Auto", "Explicit"))
def test_sharded_neurons(name, axis_type, spec):
  function = jax.jit(lambda w: value_and_gradient(ENGINES[name], w))
  w = normal(24, 16)
  expected = function(w)
  mesh = mesh_of(getattr(jax.sharding.AxisType, axis_type))
  with jax.set_mesh(mesh):
    actual = function(jax.device_put(w, NamedSharding(mesh, spec)))
  assert_close(jax.device_get(actual), expected)


# --- Errors, before anything is compiled.


@every_engine
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
  if name == "ring" and len(shape) < 2:
    pytest.skip("There are no rows to be divided.")
  with pytest.raises(error, match=match):
    jax.eval_shape(ENGINES[name], jax.ShapeDtypeStruct(shape, dtype))
