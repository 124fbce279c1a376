"""Tables of docs/directions.md, from the JSON of what was computed."""

from typing import Any

import numpy as np

from experiments.directions.sets import ENERGY, RIVALS
from experiments.report.cells import difference, mean_and_spread
from experiments.report.markdown import markdown
from experiments.report.pages import wrapped


def blocks(results: dict[str, Any]) -> dict[str, str]:
  """What is generated, by name.

  Args:
    results: of the tasks ``"wasserstein"``, ``"harmonics"`` and ``"bits"``.
  """
  return {
    "wasserstein": _wasserstein(results["wasserstein"]),
    "harmonics": _harmonics(results["harmonics"]),
    "bits": _bits(results["bits"]),
  }


def best_rival(values: dict[str, list[float]], *, largest: bool = False) -> str:
  """That of the best mean, on the seeds that are reported: no favor to the energy."""
  rivals = [form for form in RIVALS if form in values]
  return (max if largest else min)(rivals, key=lambda form: np.mean(values[form]))


def _against(values, digits, *, largest=False):
  rival = best_rival(values, largest=largest)
  return f"{difference(values[rival], values[ENERGY], digits)}, {rival}"


def _table(head, lines, digits):
  """Rows of a first cell and the values of the forms."""
  forms = [form for form in (ENERGY, *RIVALS) if any(form in row for _, row in lines)]
  rows = [
    [
      title,
      *(mean_and_spread(values.get(form, []), digits) for form in forms),
      _against(values, digits),
    ]
    for title, values in lines
  ]
  return markdown([head, *forms, "energy against the best rival"], *rows)


def _wasserstein(result):
  settings = result["settings"]
  cases = [
    (f"{data}, d = {d}, n = {n}", values)
    for (data, d, n), values in zip(settings["cases"], result["errors"])
  ]
  precision = {d: p for (_, d, _), p in zip(settings["cases"], result["precision"])}
  changes = ", ".join(f"{p:.1g}% (d = {d})" for d, p in precision.items())
  told = wrapped(
    f"{len(settings['seeds'])} seeds; clouds of {settings['points']} points, all pairs "
    "of clouds. With half as many directions what is taken for the truth changes by "
    f"{changes}."
  )
  return f"{_table('error, %', cases, 3)}\n\n{told}"


def _harmonics(result):
  settings = result["settings"]
  degree = settings["degree"]
  cases = [
    (f"n = {n}", values) for n, values in zip(settings["counts"], result["conditions"])
  ]
  count = (degree + 1) * (degree + 2) // 2
  return (
    f"{_table('condition number', cases, 2)}\n\n{count} even harmonics of degree "
    f"{degree} and less; {len(settings['seeds'])} seeds."
  )


def _bits(result):
  settings, recalls, errors = result["settings"], result["recall"], result["angle"]
  rows = [
    [form, mean_and_spread(recalls[form]), mean_and_spread(errors[form], 3)]
    for form in (ENERGY, *RIVALS)
    if form in recalls
  ]
  against = [
    "energy against the best rival",
    _against(recalls, 2, largest=True),
    _against(errors, 3),
  ]
  k = settings["neighbors"]
  table = markdown(["directions", f"recall@{k}, %", "error, degrees"], *rows, against)
  return (
    f"{table}\n\nDigits in {settings['d']} principal components, {settings['bits']} "
    f"bits, {settings['queries']} queries, {len(settings['seeds'])} seeds."
  )
