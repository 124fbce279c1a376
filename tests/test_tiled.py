"""The tiled engine: equal to the dense one, in O(N d) memory, on every backend."""

import functools

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objectives import FEW_POTENTIALS
from sets import changed, every_space, normal

from mhe_jax import Gaussian, Riesz, hyperspherical_energy


def engines(potential=Riesz(2.0), half_space=False, block_size=16):
  """The energy by the definition, and by tiles."""
  energy = functools.partial(
    hyperspherical_energy, potential=potential, half_space=half_space
  )
  return (
    functools.partial(energy, implementation="dense"),
    functools.partial(energy, implementation="tiled", block_size=block_size),
  )


def assert_close(actual, expected, rtol):
  """Equal up to rtol of the largest number of each array."""

  def check(x, y):
    assert x.shape == y.shape and x.dtype == y.dtype
    np.testing.assert_allclose(x, y, rtol=0, atol=rtol * np.abs(y).max(initial=1e-300))

  jax.tree.map(check, actual, expected)


# --- equal to the definition ----------------------------------------------------


@every_space
@pytest.mark.parametrize("potential", FEW_POTENTIALS, ids=str)
def test_value_and_gradient_are_those_of_dense(potential, half_space):
  # One tile; several, even and uneven; more tiles than rows would fill.
  sizes = [(2, 2), (5, 2), (16, 16), (17, 16), (37, 8), (64, 16), (50, 37)]
  # What is done to the cosines of a tile does not depend on how many tiles there are.
  for n, block_size in sizes if potential == Riesz(2.0) else [(17, 16), (37, 8)]:
    dense, tiled = engines(potential, half_space, block_size)
    w = normal(n, 4, seed=n)
    expected = jax.jit(jax.value_and_grad(dense))(w)
    assert_close(jax.jit(jax.value_and_grad(tiled))(w), expected, rtol=1e-12)


@hypothesis.settings(max_examples=12, deadline=None)
@hypothesis.given(
  n=st.integers(0, 70),
  d=st.integers(1, 5),
  block_size=st.integers(2, 80),
  half_space=st.booleans(),
)
def test_any_shape_and_block_size(n, d, block_size, half_space):
  # Close pairs, which few dimensions have, do not amplify the rounding of its cosines.
  dense, tiled = engines(Gaussian(2.0), half_space, block_size)
  w = normal(n, d, seed=n)
  expected = jax.jit(jax.value_and_grad(dense))(w)
  assert_close(jax.jit(jax.value_and_grad(tiled))(w), expected, rtol=1e-12)


@every_space
def test_float32(half_space):
  for potential in FEW_POTENTIALS:
    dense, tiled = engines(potential, half_space, 256)
    w = normal(1000, 48, dtype=jnp.float32)
    value, gradient = jax.jit(jax.value_and_grad(tiled))(w)
    assert float(value) == pytest.approx(float(jax.jit(dense)(w)), rel=1e-6)
    # Sums relative to orthogonal pairs hardly round.
    exact, exact_gradient = jax.jit(jax.value_and_grad(dense))(w.astype(jnp.float64))
    assert float(value) == pytest.approx(float(exact), rel=2e-7)
    # Not of dense in float32, whose own gradient rounds by up to 1.3e-6.
    difference = np.linalg.norm(np.float64(gradient) - np.float64(exact_gradient))
    assert difference < 1e-6 * np.linalg.norm(exact_gradient)


def test_batches():
  dense, tiled = engines(half_space=True)
  for shape in ((3, 40, 4), (2, 3, 7, 4), (70, 2, 4), (0, 5, 4), (3, 0, 4), (2, 1, 4)):
    w = normal(*shape)
    weights = normal(*shape[:-2], seed=1)

    def value_and_gradient(energy, w, weights=weights):
      energies, pullback = jax.vjp(energy, w)
      return energies, pullback(weights)

    expected = jax.jit(functools.partial(value_and_gradient, dense))(w)
    actual = jax.jit(functools.partial(value_and_gradient, tiled))(w)
    assert_close(actual, expected, rtol=1e-12)


TRANSFORMATIONS = {
  "jvp": lambda f, w, v: jax.jvp(f, (w,), (v,)),
  "forward over reverse": lambda f, w, v: jax.jvp(jax.grad(f), (w,), (v,)),
  "reverse over forward": lambda f, w, v: jax.grad(lambda w: jax.jvp(f, (w,), (v,))[1])(
    w
  ),
  "reverse over reverse": lambda f, w, v: jax.grad(
    lambda w: jnp.vdot(jax.grad(f)(w), v)
  )(w),
  "Hessian": lambda f, w, v: jax.hessian(f)(w[:18]),
  "third derivative": lambda f, w, v: jax.jvp(
    lambda w: jax.jvp(jax.grad(f), (w,), (v,))[1], (w,), (v,)
  ),
  "vmap of grad": lambda f, w, v: jax.vmap(jax.grad(f))(jnp.stack([w, v])),
  "vmap of a Hessian product": lambda f, w, v: jax.vmap(
    lambda v: jax.jvp(jax.grad(f), (w,), (v,))[1]
  )(jnp.stack([w, v])),
  "scan of grad": lambda f, w, v: jax.lax.scan(
    lambda w, _: (w - 0.1 * jax.grad(f)(w), f(w)), w, None, length=3
  ),
  "checkpoint": lambda f, w, v: jax.grad(jax.checkpoint(f))(w),
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_transformations(name):
  w, v = normal(37, 3), normal(37, 3, seed=1)
  expected, actual = (
    jax.jit(functools.partial(TRANSFORMATIONS[name], f))(w, v)
    for f in engines(half_space=True)
  )
  assert_close(actual, expected, rtol=1e-11)


def test_a_potential_of_ones_own():
  class Linear(type(Riesz(1.0)).__mro__[1]):  # Potential
    def value(self, r):
      return 3.0 - r

  dense, tiled = engines(Linear())
  w = normal(37, 3)
  expected = jax.value_and_grad(dense)(w)
  assert_close(jax.value_and_grad(tiled)(w), expected, rtol=1e-12)


def test_a_damaged_row_makes_its_set_nan():
  w = changed(normal(2, 40, 3), (0, 39, 1), np.nan)
  energies, gradient = jax.jit(
    lambda w: (engines()[1](w), jax.grad(lambda w: engines()[1](w).sum())(w))
  )(w)
  assert np.isnan(energies[0]) and np.isfinite(energies[1])
  assert np.isnan(gradient[0]).any() and np.isfinite(gradient[1]).all()


# --- memory -----------------------------------------------------------------------


def temporary_mib(function, n, d):
  w = jax.ShapeDtypeStruct((n, d), jnp.float32)
  memory = jax.jit(function).lower(w).compile().memory_analysis()
  return memory.temp_size_in_bytes / 2**20


def mib(n, d):
  return n * d * 4 / 2**20


@pytest.mark.parametrize("half_space", (False, True), ids=("full", "half"))
def test_memory_of_value_and_gradient(half_space):
  def value_and_grad(w):
    return jax.value_and_grad(hyperspherical_energy)(w, half_space=half_space)

  assert temporary_mib(value_and_grad, 65536, 64) <= 3 * mib(65536, 64) + 32
  # The dense matrix would be 64 GiB.
  assert temporary_mib(value_and_grad, 131072, 64) <= 2048


@pytest.mark.parametrize(
  "name", ["forward over reverse", "reverse over forward", "reverse over reverse"]
)
def test_memory_of_hessian_products(name):
  def product(w):
    return TRANSFORMATIONS[name](hyperspherical_energy, w, jnp.ones_like(w))

  # A fixed number of arrays of the size of the input; a dense matrix has 16 GiB.
  assert temporary_mib(product, 65536, 64) <= 16 * mib(65536, 64)


def test_memory_of_a_batch_is_that_of_its_sets_one_by_one():
  def gradient(w):
    return jax.grad(lambda w: hyperspherical_energy(w.reshape(16, -1, 64)).sum())(w)

  # Dense keeps 16 matrices of 2048 x 2048 at once, 256 MiB, and their gradients.
  assert temporary_mib(gradient, 16 * 2048, 64) < 4 * mib(16 * 2048, 64) + 48


# --- everywhere --------------------------------------------------------------------


@pytest.mark.parametrize("platform", ("cpu", "cuda", "rocm", "tpu"))
@pytest.mark.parametrize("shape", ((64, 32), (3000, 32), (6, 64, 32)), ids=str)
def test_lowers_for_every_platform(shape, platform):
  @jax.jit
  def value_and_grad(w):
    return jax.value_and_grad(
      lambda w: hyperspherical_energy(w, Riesz(2.0), half_space=True).sum()
    )(w)

  w = jax.ShapeDtypeStruct(shape, jnp.float32)
  exported = jax.export.export(value_and_grad, platforms=[platform])(w)
  assert exported.out_avals[1].shape == shape
  text = exported.mlir_module()
  products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
  # No product of cosines may be left to TF32 or a single pass of bfloat16.
  assert products and all("precision = [HIGHEST, HIGHEST]" in p for p in products)


def exported(function, *shapes):
  """The function by way of its exported program, for shapes that may be symbolic."""
  scope = jax.export.SymbolicScope()
  specs = [
    jax.ShapeDtypeStruct(jax.export.symbolic_shape(shape, scope=scope), dtype)
    for shape, dtype in shapes
  ]
  return jax.export.export(jax.jit(function))(*specs).call


def value_and_gradient(energy, w, **mask):
  return energy(w, **mask), jax.grad(lambda w: energy(w, **mask).sum())(w)


@pytest.mark.parametrize(
  "shape, shapes",
  [
    ("b, 20, 4", [(1, 20, 4), (3, 20, 4)]),
    ("b, c, 9, d", [(1, 2, 9, 4), (3, 1, 9, 5)]),
    ("n, 4", [(20, 4), (1, 4)]),
    ("b, n, 4", [(2, 20, 4), (3, 40, 4)]),
  ],
)
def test_symbolic_shapes(shape, shapes):
  dense, tiled = engines(half_space=True)
  programs = [exported(functools.partial(value_and_gradient, dense), (shape, float))]
  if "n" in shape:
    with pytest.raises(ValueError, match=r"static number of neurons, got n = n.*dense"):
      exported(tiled, (shape, float))
  else:
    programs.append(
      exported(functools.partial(value_and_gradient, tiled), (shape, float))
    )
  for fixed in shapes:
    w = normal(*fixed)
    expected = jax.jit(functools.partial(value_and_gradient, dense))(w)
    for program in programs:
      assert_close(jax.jit(program)(w), expected, rtol=1e-12)


def test_symbolic_batch_of_masks():
  dense, tiled = (
    lambda w, where, labels, e=e: value_and_gradient(e, w, where=where, labels=labels)
    for e in engines(half_space=True)
  )
  program = exported(tiled, ("b, 20, 4", float), ("b, 20", bool), ("b, 20", int))
  for b in (1, 3):
    rng = np.random.default_rng(b)
    where, labels = rng.random((b, 20)) < 0.7, rng.integers(0, 9, (b, 20))
    w = normal(b, 20, 4)
    expected = jax.jit(dense)(w, where, labels)
    assert_close(jax.jit(program)(w, where, labels), expected, rtol=1e-12)


def test_inside_shard_map():
  mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
  dense, tiled = engines()
  w = normal(8, 37, 3)

  def value_and_grad(w):
    value, gradient = jax.value_and_grad(tiled)(w[0])
    return value[None], gradient[None]

  spec = jax.P("x")
  sharded = jax.shard_map(value_and_grad, mesh=mesh, in_specs=spec, out_specs=spec)
  expected = jax.vmap(jax.value_and_grad(dense))(w)
  assert_close(jax.jit(sharded)(w), expected, rtol=1e-12)


@pytest.mark.parametrize(
  "spec", (jax.P("x"), jax.P(None, "x")), ids=("rows", "columns")
)
@pytest.mark.parametrize("axis_type", ("Auto", "Explicit"))
def test_sharded_neurons(axis_type, spec):
  axis_types = (getattr(jax.sharding.AxisType, axis_type),)
  mesh = jax.make_mesh((8,), ("x",), axis_types=axis_types)
  dense, tiled = engines()
  w = normal(40, 16)
  with jax.set_mesh(mesh):
    sharded = jax.device_put(w, jax.sharding.NamedSharding(mesh, spec))
    actual = jax.jit(jax.value_and_grad(tiled))(sharded)
  assert_close(jax.device_get(actual), jax.value_and_grad(dense)(w), rtol=1e-12)


# --- choice ------------------------------------------------------------------------


def test_by_default_tiles_from_two_blocks_on():
  # A layer of a CNN is one tile, as dense as dense; a large one is never a matrix.
  def largest(n):
    jaxpr = jax.make_jaxpr(jax.grad(hyperspherical_energy))(jnp.ones((n, 4))).jaxpr
    return max(np.prod(shape) for shape in shapes_in(jaxpr))

  assert largest(512) == 512**2
  assert largest(4096) <= 1024**2


def shapes_in(jaxpr):
  for eqn in jaxpr.eqns:
    yield from (v.aval.shape for v in eqn.outvars)
    for param in eqn.params.values():
      inner = getattr(param, "jaxpr", param)
      if hasattr(inner, "eqns"):
        yield from shapes_in(inner)


def test_same_arguments_are_compiled_once():
  def energy(w):
    return hyperspherical_energy(w, Riesz(2.0), implementation="tiled", block_size=16)

  traced = chex.assert_max_traces(energy, n=1)
  for seed in range(3):
    jax.jit(traced)(normal(40, 3, seed=seed))
