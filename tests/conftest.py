"""A strict session: whatever JAX can be strict about, it is strict about here."""

import gc
import importlib.metadata
import os

# Eight fake devices, for the tests of sharding; before JAX starts its backend.
flags = ["--xla_force_host_platform_device_count=8"]
# Most of the time of the tests is compilation. "0" compiles everything as for users.
hurried = os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") != "0"
# Without these, which later versions always use, loops compile a third faster.
if hurried and importlib.metadata.version("jaxlib").startswith("0.10."):
  flags += ["--xla_cpu_use_fusion_emitters=false"]
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *flags])

import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


# Of the core, the objectives and the report.
NUMERICAL = {
  "test_closest_pair", "test_describe", "test_energy", "test_engines", "test_masks",
  "test_minimize", "test_neighbors", "test_network", "test_neuron_energies",
  "test_numerics", "test_objective_truths", "test_objectives",
  "test_objectives_in_use", "test_potentials", "test_relative_training",
  "test_report_changes", "test_report_formats", "test_report_numbers", "test_sampled",
  "test_sharded", "test_sharded_samples", "test_theory", "test_tiled",
}  # fmt: skip


def pytest_collection_modifyitems(items):
  for item in items:
    if item.path.stem in NUMERICAL:
      item.add_marker("numerical")


@pytest.fixture(scope="module", autouse=True)
def memory():
  """What a file has traced and compiled serves no other one, but fills gigabytes.

  Nor is garbage looked for in the midst of it, where nearly everything is still in use.
  """
  gc.disable()
  yield
  jax.clear_caches()
  gc.enable()
  gc.collect()


@pytest.fixture
def key():
  return jax.random.key(0)


@pytest.fixture
def as_users():
  """Flax's pooling and the schedules of optax promote dtypes."""
  with jax.numpy_dtype_promotion("standard"):
    yield


@pytest.fixture(scope="module")
def optimized():
  """Compiled as for users: how a sum is rounded depends on it."""
  before = jax.config.values["jax_disable_most_optimizations"]
  jax.config.update("jax_disable_most_optimizations", False)
  jax.clear_caches()  # Of what was compiled without.
  yield
  jax.config.update("jax_disable_most_optimizations", before)
  jax.clear_caches()


@pytest.fixture
def small_tiles(monkeypatch):
  """Many tiles for hundreds of rows, and one row at a time to compare."""
  from mhe_jax.pair_sum import nearest_rows

  monkeypatch.setattr(nearest_rows, "default_block_size", lambda: 32)
  jax.clear_caches()  # Of what was traced with others.
  yield
  jax.clear_caches()
