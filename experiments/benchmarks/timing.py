"""Timing of rival functions in turns, so that all meet the same disturbances."""

import os
import platform
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import rich.progress

import mhe_jax


def time_in_turns(
  functions: Mapping[str, Callable[[], Any]],
  rounds: int,
  progress: rich.progress.Progress,
  title: str,
) -> dict[str, list[float]]:
  """Seconds of every call, ``{name: [rounds]}``, after one call that is not counted."""
  seconds = {name: [] for name in functions}
  task = progress.add_task(title, total=(rounds + 1) * len(functions))
  for turn in range(rounds + 1):
    for name, function in functions.items():
      start = time.perf_counter()
      jax.block_until_ready(function())
      if turn:
        seconds[name].append(round(time.perf_counter() - start, 7))
      progress.advance(task)
  return seconds


def ratio(seconds: Mapping[str, list[float]], name: str, baseline: str) -> float:
  """Median over the rounds of the ratio of two times of one round."""
  return float(np.median(np.divide(seconds[name], seconds[baseline])))


def environment() -> dict[str, Any]:
  """What a measurement depends on."""
  return {
    "versions": {
      "mhe_jax": mhe_jax.__version__,
      "jax": jax.__version__,
      "python": platform.python_version(),
    },
    "device": f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores",
  }
