"""Sampled energies of rows that are sharded over devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from sets import every_space

from mhe_jax import (
  Riesz,
  Sampled,
  batch_energy,
  hyperspherical_energy,
  neuron_energies,
  sampled_energy,
  sampled_energy_and_error,
)

every_method = pytest.mark.parametrize("method", ("field", "minibatch"))


def neurons(n=96, d=4):
  """With a cluster, on several devices."""
  w = np.random.default_rng(0).normal(size=(n, d))
  w[::5] = w[0] + 0.05 * w[::5]
  return jnp.asarray(w)


def on_ring(function, mesh):
  """Value and gradient of a function of rows and replicated operands."""

  def value_and_grad(w, *operands):
    return jax.value_and_grad(function)(w, *operands)

  def sharded(w, *operands):
    specs = (P("x"), *(P() for _ in operands))
    return jax.shard_map(
      value_and_grad, mesh=mesh, in_specs=specs, out_specs=(P(), P("x"))
    )(w, *operands)

  return sharded


@pytest.mark.parametrize(
  "method, num_devices, half_space",
  [("field", 2, True), ("field", 3, False), ("minibatch", 3, True)],
)
def test_right_on_average(method, num_devices, half_space):
  mesh = jax.make_mesh(
    (num_devices,), ("x",), (AxisType.Auto,), devices=jax.devices()[:num_devices]
  )
  w = neurons()

  def estimate(w, key):
    return sampled_energy(
      key, w, Riesz(2.0), num_samples=12, half_space=half_space, method=method,
      axis_name="x",
    )  # fmt: skip

  @jax.jit
  def many(keys):
    return jax.lax.map(functools.partial(on_ring(estimate, mesh), w), keys)

  values, gradients = jax.device_get(many(jax.random.split(jax.random.key(1), 800)))
  exact = jax.value_and_grad(
    functools.partial(
      hyperspherical_energy, potential=Riesz(2.0), half_space=half_space
    )
  )(w)
  for drawn, expected in zip((values, gradients), exact):
    error = drawn.std(0, ddof=1) / np.sqrt(len(drawn))
    off = np.abs(drawn.mean(0) - expected) / error
    # Of hundreds of numbers some are beyond 3 standard errors, none beyond 5.
    assert off.max() < 5 and np.mean(off > 2) < 0.1
    assert error.max() > 0


@every_space
def test_rows_against_all(half_space):
  mesh = jax.make_mesh((8,), ("x",), (AxisType.Auto,))
  rows, w = jnp.array([3, 90, 3, 40]), neurons()

  def energy(w, rows, **options):
    return batch_energy(w, rows, Riesz(1.0), half_space=half_space, **options)

  sharded = on_ring(functools.partial(energy, axis_name="x"), mesh)
  value, gradient = jax.jit(sharded)(w, rows)
  expected = jax.value_and_grad(energy)(w, rows)
  np.testing.assert_allclose(value, expected[0], rtol=1e-10)
  np.testing.assert_allclose(gradient, expected[1], atol=1e-10)
  of_all = neuron_energies(w, Riesz(1.0), half_space=half_space)
  np.testing.assert_allclose(value, of_all[rows].mean(), rtol=1e-10)
  value, _ = jax.jit(sharded)(w, jnp.array([3, 96]))
  assert np.isnan(value)


@every_method
@pytest.mark.parametrize("axis_type", ("Auto", "Explicit"))
def test_sharded_arrays_need_no_name(axis_type, method):
  mesh = jax.make_mesh((8,), ("x",), (getattr(AxisType, axis_type),))
  w = neurons(n=1024)
  sharded = jax.device_put(w, NamedSharding(mesh, P("x")))
  key = jax.random.key(2)
  sample = Sampled(Riesz(2.0), 64, method)
  program = jax.jit(jax.value_and_grad(lambda w, key: sample(w, key=key)))
  with jax.set_mesh(mesh):
    compiled = program.lower(sharded, key).compile()
    value, gradient = compiled(sharded, key)
    # A key that is made where the mesh is set.
    again = jax.jit(lambda w, i: sample(w, key=jax.random.key(i)))(sharded, 2)
    np.testing.assert_allclose(value, again, rtol=1e-9)
  assert f"[{','.join(map(str, w.shape))}]" not in compiled.as_text()
  assert gradient.sharding.is_equivalent_to(sharded.sharding, 2)
  options = {"num_samples": 64, "method": method}
  estimate, error = sampled_energy_and_error(key, sharded, Riesz(2.0), **options)
  np.testing.assert_allclose(value, estimate, rtol=1e-9)
  exact = hyperspherical_energy(w, Riesz(2.0))
  assert abs(value - exact) < 5 * error
  rows = jnp.array([1, 1023])
  np.testing.assert_allclose(batch_energy(sharded, rows), batch_energy(w, rows))


def test_many_keys_at_once():
  mesh = jax.make_mesh((8,), ("x",), (AxisType.Auto,))
  keys, sample = jax.random.split(jax.random.key(2), 3), Sampled(Riesz(2.0), 64)
  w = neurons(n=1024)
  sharded = jax.device_put(w, NamedSharding(mesh, P("x")))
  one_by_one = [sample(w, key=key) for key in keys]
  actual = jax.jit(jax.vmap(lambda key: sample(w, key=key)))(keys)
  np.testing.assert_allclose(actual, one_by_one, rtol=1e-9)
  assert jax.vmap(lambda key: sample(sharded, key=key))(keys).shape == (3,)


def test_few_rows_are_exact_and_rows_of_nan_are_not_hidden():
  mesh, key = jax.make_mesh((8,), ("x",), (AxisType.Auto,)), jax.random.key(0)

  def energy(w, key, num_samples):
    return sampled_energy(key, w, num_samples=num_samples, axis_name="x")

  w = neurons(n=16)
  value, _ = on_ring(functools.partial(energy, num_samples=16), mesh)(w, key)
  np.testing.assert_allclose(value, hyperspherical_energy(w), rtol=1e-10)
  value, _ = on_ring(functools.partial(energy, num_samples=3), mesh)(
    w.at[9].set(jnp.nan), key
  )
  assert np.isnan(value)


def test_an_axis_name_that_is_none_here():
  with pytest.raises(ValueError, match="axis_name must be a mesh axis of the"):
    sampled_energy(jax.random.key(0), neurons(), num_samples=3, axis_name="x")


@pytest.mark.parametrize("name", ("key", "rows"))
def test_what_must_be_the_same_on_all_devices(name):
  mesh, w = jax.make_mesh((8,), ("x",), (AxisType.Auto,)), neurons()

  def energy(w):
    own = jax.lax.axis_index("x")
    if name == "rows":
      return batch_energy(w, own[None], axis_name="x")
    key = jax.random.fold_in(jax.random.key(0), own)
    return sampled_energy(key, w, num_samples=20, method="minibatch", axis_name="x")

  sharded = jax.shard_map(energy, mesh=mesh, in_specs=P("x"), out_specs=P())
  with pytest.raises(ValueError, match=f"{name} must be the same on all devices"):
    sharded(w)
