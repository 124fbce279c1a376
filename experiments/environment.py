"""What a result was made with."""

import functools
import importlib.metadata
import os
import pathlib
import platform
import subprocess
from typing import Any

import jax

import mhe_jax

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
_ROOT = pathlib.Path(__file__).resolve().parents[1]


def environment() -> dict[str, Any]:
  """Versions and device, for the JSON of a result."""
  cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
  return {
    "versions": {
      "mhe_jax": mhe_jax.__version__,
      **revision(_ROOT),
      **{name: importlib.metadata.version(name) for name in _PACKAGES},
      "python": platform.python_version(),
    },
    "device": f"{jax.devices()[0].device_kind}, {cores or os.cpu_count()} cores",
    "processor": processor(),
  }


@functools.cache
def processor() -> str:
  """Model and vector extensions: XLA compiles for them, and so rounds by them."""
  info = _first_of_cpuinfo(pathlib.Path("/proc/cpuinfo"))
  names = ("model name", "cpu family", "model", "CPU implementer", "CPU part")
  found = [f"{name} {info[name]}" for name in names if info.get(name)]
  flags = info.get("flags", info.get("Features", "")).split()
  vector = ("avx", "fma", "amx", "sve", "asimd")
  found += [" ".join(sorted(flag for flag in flags if flag.startswith(vector)))]
  return ", ".join(filter(None, found)) or platform.processor() or platform.machine()


def _first_of_cpuinfo(path):
  """What Linux says of its first core: ``{name: value}``; nothing elsewhere."""
  try:
    first, _, _ = path.read_text().partition("\n\n")
  except OSError:
    return {}
  lines = (line.partition(":") for line in first.splitlines())
  return {name.strip(): value.strip() for name, _, value in lines}


@functools.cache  # What runs is what was there when it started.
def revision(root: pathlib.Path) -> dict[str, str | bool | None]:
  """Git's revision of a checkout, and whether no tracked file differs from it.

  Args:
    root: of the checkout, with this module in its place.

  Returns:
    ``{"revision": 40 digits, "clean": bool}``; None for both where nothing is to be
    told: it is no checkout, or lies in another repository's, or git does not answer.
  """
  unknown: dict[str, str | bool | None] = {"revision": None, "clean": None}
  try:
    top, commit = _git(root, "rev-parse", "--show-toplevel", "HEAD").splitlines()
    if not os.path.samefile(top, root):
      return unknown
    # Sources that were unpacked at the top of another repository are not its own.
    _git(root, "ls-files", "--error-unmatch", "experiments/environment.py")
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
  except (OSError, ValueError, subprocess.SubprocessError):
    return unknown
  return {"revision": commit, "clean": not changes}


def _git(root, *arguments):
  """What git prints of the repository of a folder, whatever the environment names."""
  variables = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
  return subprocess.run(
    ["git", "--no-optional-locks", *arguments],
    cwd=root,
    env=variables,
    stdin=subprocess.DEVNULL,
    capture_output=True,
    check=True,
    text=True,
    timeout=10.0,
  ).stdout
