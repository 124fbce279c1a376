"""Tables and sentences of docs/alternatives.md, from the JSON of what was computed."""

from typing import Any

import numpy as np

from experiments.alternatives.minima import OBJECTIVES
from experiments.alternatives.training import ARMS
from experiments.report.cells import difference, mean_and_spread
from experiments.report.markdown import markdown
from experiments.report.statistics import holm, paired_difference

NAMES = {
  "without": "nothing (SGD)",
  "energy": "energy, s = 2",
  "orthonormal": "orthonormality",
  "koleo": "KoLeo",
  "spectral": "spectral norm",
  "muon": "Muon",
  "muon_energy": "Muon and energy",
}
_COLUMNS = {
  ("full", "random"): "full space",
  ("full", "copies"): "full space, from copies",
  ("half", "random"): "half-space",
  ("half", "copies"): "half-space, from copies",
}


def blocks(results: dict[str, Any]) -> dict[str, str]:
  """What is generated, by name.

  Args:
    results: ``"minima"``, ``"muon_rates"``, ``"runs"`` by arm, and ``"cost"``.
  """
  minima = results["minima"]
  sizes = minima["settings"]["sizes"]
  tables = [f"{_title(minima, n, d)}\n\n{_minima(minima, n, d)}" for n, d in sizes]
  return {
    "minimized": "\n\n".join(tables),
    "kept copies": _kept_copies(minima),
    "conditions": _conditions(minima),
    "trained": trained(results["runs"], results["cost"]),
    "settings": _settings(results),
  }


def case_of(minima: dict[str, Any], n: int, d: int, space: str, start: str) -> dict:
  """The measures of one size, space and start."""
  (case,) = (
    c for c in minima["cases"]
    if (c["n"], c["d"], c["space"], c["start"]) == (n, d, space, start)
  )  # fmt: skip
  return case


def _title(minima, n, d):
  seeds = len(minima["settings"]["seeds"])
  return f"**{n} neurons in {d} dimensions**, means of {seeds} starts:"


def _minima(minima, n, d):
  """Excess and closest pair, by what was minimized."""
  cases = [case_of(minima, n, d, *key) for key in _COLUMNS]
  lines = [["nothing: the start", *(_cell(case["before"]) for case in cases)]]
  for name in OBJECTIVES:
    if name in cases[0]["ends"]:
      lines.append([name, *(_cell(case["ends"][name]) for case in cases)])
  return markdown(["minimized", *_COLUMNS.values()], *lines)


def _cell(measures):
  excess, angle = np.mean(measures["excess"]), np.mean(measures["angle"])
  return f"{_short(excess)}; {angle:.1f}°"


def _short(x):
  x = 0.0 if abs(x) < 5e-5 else x  # No minus zero.
  return f"{x:.0f}" if abs(x) >= 100 else f"{x:.3g}" if x else "0"


def _kept_copies(minima):
  """What becomes of copies where there are more neurons than dimensions."""
  sentences = []
  for n, d in minima["settings"]["sizes"]:
    if n > d:
      case = case_of(minima, n, d, "half", "copies")
      ends = case["ends"]["orthonormality"]
      bound = (n - d) / (d * (n - 1))
      above = np.mean(ends["orthonormality"]) / bound - 1.0
      sentences.append(
        f"{n} neurons in {d} dimensions, half-space, from pairs of copies: "
        "orthonormality comes within "
        f"{_up(100 * above)}% of the bound of the mean squared cosine, the closest "
        f"pair {np.mean(ends['angle']):.1f}° apart; the energy ends with "
        f"{np.mean(case['ends']['energy, s = 2']['angle']):.1f}°."
      )
  return " ".join(sentences)


def _conditions(minima):
  """How far from tight frames the sets are, of the middle size."""
  sizes = minima["settings"]["sizes"]
  n, d = sizes[len(sizes) // 2]
  ends = case_of(minima, n, d, "half", "random")["ends"]
  found = ", ".join(f"{name} {np.mean(m['condition']):.2f}" for name, m in ends.items())
  return (
    f"Condition numbers of {n} neurons in {d} dimensions (half-space, from random "
    f"directions; 1 for a tight frame), by what was minimized: {found}."
  )


def _up(x):
  """Rounded up to one digit; at least a hundredth, which the JSON's digits tell."""
  x = max(x, 1e-2)
  step = 10.0 ** np.floor(np.log10(x))
  return f"{np.ceil(x / step - 1e-9) * step:.3g}"


def trained(runs: dict[str, Any], cost: dict[str, Any]) -> str:
  """The table of test errors, seed by seed against training without anything."""
  without = runs["without"]["test_error"]
  rivals = [arm for arm in ARMS if arm != "without"]
  pairs = [paired_difference(without, runs[arm]["test_error"]) for arm in rivals]
  p_values = dict(zip(rivals, holm([pair.p_value for pair in pairs])))
  lines = []
  for arm in ARMS:
    errors = runs[arm]["test_error"]
    against = "" if arm == "without" else difference(without, errors)
    p = "" if arm == "without" else f"{p_values[arm]:.1g}"
    excess = mean_and_spread(runs[arm]["excess"], 3)
    time = f"{cost['ratio'][arm]:.2f}"
    lines.append([NAMES[arm], mean_and_spread(errors), against, p, excess, time])
  header = [
    "method", "test error, %", "against nothing", "P, corrected", "excess at the end",
    "time of a step",
  ]  # fmt: skip
  muon = difference(runs["muon"]["test_error"], runs["muon_energy"]["test_error"])
  table = markdown(header, *lines)
  sure = [NAMES[arm] for arm in rivals if p_values[arm] < 0.05]
  told = (
    f"After the correction these differ significantly from nothing: {', '.join(sure)}."
    if sure
    else "After the correction no method differs significantly from nothing."
  )
  return f"{table}\n\n{told} Muon and energy against Muon alone: {muon}."


def _settings(results):
  settings = results["runs"]["without"]["settings"]
  muon, tried = results["muon_rates"], results["muon_rates"]["settings"]
  return (
    f"A CNN of {settings['depth']} convolutions with {settings['width']} channels and "
    f"batch norm, {settings['images_per_class']} images per class, "
    f"{settings['steps']} steps, {len(settings['seeds'])} seeds; learning rate "
    f"{settings['rate']:g}, weight {settings['weight']:g}. Muon: learning rate "
    f"{muon['rate']:g} (of {_listed(tried['rates'])}), and of Adam beside it "
    f"{muon['adam_rate']:g} (of {_listed(tried['adam_rates'])}), the pair with the "
    f"fewest errors on {len(tried['seeds'])} other seeds and other images."
  )


def _listed(numbers):
  *most, last = (f"{x:g}" for x in numbers)
  return f"{', '.join(most)} and {last}" if most else last
