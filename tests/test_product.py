"""Precision of products, by the platform they are lowered for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objectives import normal

from mhe_jax import Riesz, hyperspherical_energy
from mhe_jax.pair_sum import product as products

X3 = jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3  # No CPU takes it.
X6 = jax.lax.DotAlgorithmPreset.BF16_BF16_F32_X6


@pytest.fixture
def presets(monkeypatch):
  """A function that makes other presets those of a test."""

  def choose(**presets):
    monkeypatch.setattr(products, "PRESETS", presets)
    jax.clear_caches()
    products.compiles.cache_clear()

  yield choose
  jax.clear_caches()
  products.compiles.cache_clear()


def lowered(dtype, *platforms):
  """Of each product in the program of an energy and its gradient, how it is done."""
  energy = jax.value_and_grad(lambda w: hyperspherical_energy(w, Riesz(2.0)))
  w = jax.ShapeDtypeStruct((64, 32), dtype)
  text = jax.export.export(jax.jit(energy), platforms=platforms)(w).mlir_module()
  return [line for line in text.splitlines() if "stablehlo.dot_general" in line]


def is_six_products(line):
  return "bf16" in line and "num_primitive_operations = 6" in line


def is_highest(line):
  return "precision = [HIGHEST, HIGHEST]" in line and "algorithm" not in line


@pytest.mark.parametrize("platform", ("cpu", "cuda", "rocm", "tpu"))
def test_precision_by_platform(platform):
  kind = is_six_products if platform == "cuda" else is_highest
  lines = lowered("float32", platform)
  assert lines and all(map(kind, lines))
  doubles = lowered("float64", platform)
  assert doubles and all(map(is_highest, doubles))


def test_a_program_for_several_platforms():
  lines = lowered("float32", "cpu", "cuda")
  assert any(map(is_six_products, lines)) and any(map(is_highest, lines))
  assert all(is_six_products(line) or is_highest(line) for line in lines)


def test_what_the_compiler_refuses_is_done_at_the_highest_precision(presets):
  x = normal(64, 32, dtype=np.float32)
  expected = x.astype(float) @ x.astype(float).T
  presets(cpu=X3)
  for multiply in (products.product, jax.jit(products.product)):
    np.testing.assert_allclose(multiply(x, x.T), expected, atol=1e-5)
  assert not products.compiles("cpu", X3)
  assert all(map(is_highest, lowered("float32", "cpu")))


def test_what_the_compiler_takes_is_taken_where_a_mesh_is_set(presets):
  x = jnp.asarray(normal(64, 32, dtype=np.float32))
  presets(cpu=X6)
  with jax.set_mesh(jax.make_mesh((8,), ("x",))):
    value, gradient = jax.jit(jax.value_and_grad(hyperspherical_energy))(x)
  assert products.compiles("cpu", X6)
  assert all(map(is_six_products, lowered("float32", "cpu")))
  expected = jax.value_and_grad(hyperspherical_energy)(x.astype(float))
  np.testing.assert_allclose(value, expected[0], rtol=1e-6)
  np.testing.assert_allclose(gradient, expected[1], atol=1e-7)
