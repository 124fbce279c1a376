"""Timing of rival functions in turns, so that all meet the same disturbances."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import rich.progress

_PAUSE = 0.02  # Seconds before a turn.
_TURN = 0.02  # Seconds of a turn of a short call, about.


def time_in_turns(
  functions: Mapping[str, Callable[[], Any]],
  rounds: int,
  progress: rich.progress.Progress,
  title: str,
) -> dict[str, list[float]]:
  """Seconds of a call, ``{name: [rounds]}``, after a round that is not counted.

  The order is drawn anew every round, and a pause precedes each turn: the threads of
  PyTorch spin for some milliseconds after their work, in the way of whoever is next.
  Short calls are made several times a turn, once uncounted, and averaged.
  """
  rng = np.random.default_rng(0)
  seconds = {name: [] for name in functions}
  repeats = dict.fromkeys(functions, 1)
  task = progress.add_task(title, total=(rounds + 1) * len(functions))
  for turn in range(rounds + 1):
    for name in rng.permutation(sorted(functions)).tolist():
      time.sleep(_PAUSE)
      if not turn:
        duration = min(_seconds(functions[name], 1) for _ in range(3))
        repeats[name] = int(np.clip(_TURN / duration, 1, 100))
      else:
        if repeats[name] > 1:
          _seconds(functions[name], 1)
        seconds[name].append(round(_seconds(functions[name], repeats[name]), 7))
      progress.advance(task)
  return seconds


def _seconds(function, repeats):
  """Mean of some calls."""
  start = time.perf_counter()
  for _ in range(repeats):
    jax.block_until_ready(function())
  return (time.perf_counter() - start) / repeats


def ratio(seconds: Mapping[str, list[float]], name: str, baseline: str) -> float:
  """Median over the rounds of the ratio of two times of one round."""
  return float(np.median(np.divide(seconds[name], seconds[baseline])))
