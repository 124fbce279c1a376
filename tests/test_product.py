"""Precision of products, by the backend they are traced for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from engines import ENGINES
from sets import normal

from mhe_jax import hyperspherical_energy
from mhe_jax.pair_sum import product as products

X3 = jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3  # No CPU takes it.
X6 = jax.lax.DotAlgorithmPreset.BF16_BF16_F32_X6


@pytest.fixture
def presets(monkeypatch):
  """A function that makes other presets those of a test, and this another backend."""

  def forget():
    jax.clear_caches()
    products.of_float32.cache_clear()

  def choose(backend="cpu", **presets):
    monkeypatch.setattr(products, "backend", lambda: backend)
    if presets:
      monkeypatch.setattr(products, "PRESETS", presets)
    forget()

  yield choose
  forget()


def lowered(name, dtype, platform):
  """Of each product in the program of an engine and its gradient, how it is done."""
  energy = jax.grad(lambda w: ENGINES[name](w).sum())
  w = jax.ShapeDtypeStruct((2000, 32), dtype)
  text = jax.export.export(jax.jit(energy), platforms=[platform])(w).mlir_module()
  return [line for line in text.splitlines() if "stablehlo.dot_general" in line]


def is_six_products(line):
  return "bf16" in line and "num_primitive_operations = 6" in line


def is_highest(line):
  return "precision = [HIGHEST, HIGHEST]" in line and "algorithm" not in line


@pytest.mark.parametrize("name", [name for name in ENGINES if name != "ring"])
def test_products_of_float32_are_those_of_the_preset(name, presets):
  """And those of float64 are not; on others: test_engines.py."""
  presets("cuda", cuda=X6)
  lines, doubles = (lowered(name, dtype, "cuda") for dtype in ("float32", "float64"))
  assert lines and all(map(is_six_products, lines))
  assert len(doubles) == len(lines) and all(map(is_highest, doubles))


@pytest.mark.parametrize("backend", ("cpu", "cuda", "rocm", "tpu"))
def test_products_elsewhere_are_of_the_highest_precision(backend, presets):
  presets(backend)
  lines = lowered("default", "float32", backend)
  assert lines and all(map(is_highest, lines))


def test_a_program_traced_for_cuda_can_be_placed_elsewhere(presets):
  presets("cuda", cuda=X6)
  x = jnp.asarray(normal(64, 32, dtype=np.float32))
  found = jax.jit(products.product)(x, x.T)
  for platform in ("rocm", "tpu"):
    assert all(map(is_six_products, lowered("default", "float32", platform)))
  presets("cpu")
  np.testing.assert_array_equal(found, jax.jit(products.product)(x, x.T))


def test_what_the_compiler_refuses_is_done_at_the_highest_precision(presets):
  x = normal(64, 32, dtype=np.float32)
  expected = x.astype(float) @ x.astype(float).T
  presets(cpu=X3)
  for multiply in (products.product, jax.jit(products.product)):
    np.testing.assert_allclose(multiply(x, x.T), expected, atol=1e-5)
  assert not products.compiles(X3)
  assert all(map(is_highest, lowered("default", "float32", "cpu")))


def test_what_the_compiler_takes_is_taken_where_a_mesh_is_set(presets):
  x = jnp.asarray(normal(64, 32, dtype=np.float32))
  presets(cpu=X6)
  with jax.set_mesh(jax.make_mesh((8,), ("x",))):
    value, gradient = jax.jit(jax.value_and_grad(hyperspherical_energy))(x)
  assert products.of_float32() == X6
  expected = jax.value_and_grad(hyperspherical_energy)(x.astype(float))
  np.testing.assert_allclose(value, expected[0], rtol=1e-6)
  np.testing.assert_allclose(gradient, expected[1], atol=1e-7)


def test_the_backend_of_the_tests():
  assert products.backend() == "cpu"
  assert products.of_float32() == jax.lax.Precision.HIGHEST
