"""Devices among which rows are divided; without an accelerator, parts of the CPU."""

import os

import jax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.errors import InputError

AXIS = "devices"


def divide_cpu(count: int) -> None:
  """Makes the CPU that many devices, if it is not divided already.

  Called before JAX starts its backends. Accelerators are what they are.
  """
  if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    jax.config.update("jax_num_cpu_devices", count)


def mesh_of(count: int) -> jax.sharding.Mesh:
  """The first devices, along one axis.

  Raises:
    InputError: there are fewer.
  """
  devices = jax.devices()
  if len(devices) < count:
    raise InputError(
      f"devices must be at most {len(devices)}, the devices of {jax.default_backend()} "
      f"that there are, got {count}."
    )
  return jax.make_mesh((count,), (AXIS,), (AxisType.Auto,), devices=devices[:count])


def by_rows(mesh: jax.sharding.Mesh) -> NamedSharding:
  """The first axis of an array divided among the devices."""
  return NamedSharding(mesh, P(AXIS))
