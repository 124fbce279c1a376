"""The tiled engine: equal to the dense one."""

import functools

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from engines import assert_close
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


# --- sizes that are not known ---------------------------------------------------------


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
