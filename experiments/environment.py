"""What a result was made with."""

import importlib.metadata
import os
import platform
from typing import Any

import jax

import mhe_jax

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def environment() -> dict[str, Any]:
  """Versions and device, for the JSON of a result."""
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
  return {
    "versions": {
      "mhe_jax": mhe_jax.__version__,
      **{name: importlib.metadata.version(name) for name in _PACKAGES},
      "python": platform.python_version(),
    },
    "device": f"{jax.devices()[0].device_kind}, {cores or os.cpu_count()} cores",
  }
