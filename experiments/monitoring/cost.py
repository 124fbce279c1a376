"""What a log costs: steps with metrics and without, and a look at all layers."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import rich.progress
import scipy.stats

from experiments.benchmarks.timing import ratio, time_in_turns
from experiments.monitoring.training import (
  ARMS,
  config_of,
  make_train_step,
  new_state,
)
from experiments.quickstart.training import RULES
from mhe_jax import Riesz, describe, nearest_neurons, neuron_matrices

SETTINGS: dict[str, dict[str, Any]] = {
  "full": {"depth": 15, "width": 8, "steps": 200, "rounds": 241},
  "smoke": {"depth": 3, "width": 4, "steps": 5, "rounds": 8},
}


def compute(depth: int, width: int, steps: int, rounds: int) -> dict[str, Any]:
  """Times training steps and looks at the network, in turns.

  Args:
    depth: convolutions of the network.
    width: their channels.
    steps: of the schedule.
    rounds: of the turns.

  Returns:
    ``{"seconds": {name: [rounds]}, "batch_size": images}``. Of a name "ARM, logged" a
    step puts metrics out; "energy, read" also takes them to the host.
  """
  config = config_of(depth, width, steps)
  rng = np.random.default_rng(0)
  images = rng.normal(size=(config.batch_size, 14, 14, 1)).astype(np.float32)
  batch = images, rng.integers(10, size=config.batch_size).astype(np.int32)
  state = new_state(config, 0)

  def step_of(arm, logged):
    train_step = make_train_step(config, arm, logged=logged)
    return lambda: train_step(state, *batch)

  @jax.jit
  def angles(params):
    return {k: nearest_neurons(w)[0] for k, w in neuron_matrices(params).items()}

  functions: dict[str, Callable[[], Any]] = {arm: step_of(arm, False) for arm in ARMS}
  functions |= {f"{arm}, logged": step_of(arm, True) for arm in ARMS}
  functions["energy, read"] = lambda: jax.device_get(functions["energy, logged"]()[1])
  functions["describe"] = lambda: describe(state.params, Riesz(2.0), rules=RULES).rows
  functions["angles"] = lambda: jax.device_get(angles(state.params))
  with rich.progress.Progress() as progress:
    seconds = time_in_turns(functions, rounds, progress, "steps")
  return {"seconds": seconds, "batch_size": config.batch_size}


def in_words(result: dict[str, Any]) -> str:
  """The costs, from their JSON."""
  settings, seconds = result["settings"], result["seconds"]

  def percent(name, baseline):
    """Median of the ratios, and its 95% interval from their order alone."""
    ratios = np.divide(seconds[name], seconds[baseline])
    found = scipy.stats.quantile_test(ratios, p=0.5).confidence_interval(0.95)
    low, middle, high = (
      f"{100 * (x - 1):+.1f}" for x in (found.low, np.median(ratios), found.high)
    )
    return f"{middle}% ({low} to {high})"

  step = 1e3 * float(np.median(seconds["energy"]))
  looks = ", ".join(
    f"{what} as long as {ratio(seconds, name, 'energy'):.2f} steps"
    for what, name in (
      ("`describe` of all layers takes", "describe"),
      ("the angles to the nearest neurons of all layers", "angles"),
    )
  )
  return (
    f"A step of the network above ({settings['depth']} convolutions of "
    f"{settings['width']} channels, {result['batch_size']} images of 14 x 14 pixels) "
    f"takes {step:.1f} ms with the energy in its loss. Metrics of all layers change "
    f"that by {percent('energy, logged', 'energy')}, and by "
    f"{percent('energy, read', 'energy')} if they are taken to the host after every "
    f"step. Without the energy, metrics in every step add "
    f"{percent('without, logged', 'without')}. {looks[0].upper()}{looks[1:]}. Medians "
    f"of {settings['rounds']} rounds in which all took turns, with their 95% "
    f"intervals; {result['device']}."
  )
