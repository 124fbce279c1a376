"""The tables and claims of docs/numerics.md, from the JSON of the measurements."""

import functools
import math

from experiments.report.markdown import markdown


def tables(result: dict) -> list[str]:
  """The tables of docs/numerics.md, in Markdown, from the JSON alone."""
  n, names = result["config"]["n"], result["config"]["potentials"]

  def by_angle(corner, cases):
    rows = [[corner, *names, "s = 2, TF32"]]
    for case in cases:
      errors = [*(case["float32"][name] for name in names), case["tf32"]["s = 2"]]
      rows.append([angle_of(case), *map(worst, errors)])
    return rows

  bfloat16 = [["bfloat16, s = 2", "computation", "computation and storage"]]
  for case in result["bfloat16_pair"] + result["bfloat16_set"]:
    errors = [case[kind]["s = 2"] for kind in ("computation", "storage")]
    bfloat16.append([angle_of(case), *map(worst, errors)])
  norms = [["norms", *names]]
  for case in result["norms"]:
    label = "mixed" if case["norm"] is None else short(case["norm"])
    norms.append([label, *(worst(case["float32"][name]) for name in names)])
  layers = [["n", "d", "random", "lower bound", "range", "error in float32"]]
  for c in result["layers"]:
    energies = [f"{c['random']:.5f}", f"{c['bound']:.5f}", range_of(c)]
    layers.append([str(c["n"]), str(c["d"]), *energies, short(c["excess_error"])])
  pairs = by_angle("a pair at", result["pair"])
  sets = by_angle(f"in {n}, a pair at", result["set"])
  return [markdown(*rows) for rows in (pairs, sets, bfloat16, norms, layers)]


def claims(result: dict) -> list[str]:
  """What docs/numerics.md says beside the tables, from the JSON alone."""
  config, ranges = result["config"], [range_of(c) for c in result["layers"]]
  reach = functools.partial(smallest_angle, result)
  return [
    f"worst of {config['draws']} random draws in {config['d']} dimensions",
    f"within 1% down to an angle of {reach('float32', 0.01)} radians, within 25% down "
    f"to {reach('float32', 0.25)}",
    f"with the cosines of TF32, within 10% only down to {reach('tf32', 0.1)}",
    f"from {ranges[0]} to {ranges[-1]} of the energy",
  ]


def smallest_angle(result: dict, kind: str, tolerance: float) -> str:
  """The smallest angle from which on, up to pi/2, all gradients are that good."""
  acute = [c for c in result["pair"] + result["set"] if 0 < (c["angle"] or 0) < 2]
  bad = [
    case["angle"]
    for case in acute
    if any(error["gradient"]["worst"] > tolerance for error in case[kind].values())
  ]
  return short(min(case["angle"] for case in acute if case["angle"] > max(bad)))


def range_of(layer: dict) -> str:
  """How much more energy random directions have than the lower bound."""
  return f"{100 * (layer['random'] / layer['bound'] - 1):.2g}%"


def worst(error: dict) -> str:
  """The worst errors of value and gradient."""
  return " / ".join(short(error[what]["worst"]) for what in ("value", "gradient"))


def short(x: float) -> str:
  """One significant digit: 3e-7, 0.2, 1, 40."""
  mantissa, exponent = f"{x:.0e}".split("e")
  is_plain = -2 < int(exponent) < 4
  return f"{float(f'{x:.0e}'):g}" if is_plain else f"{mantissa}e{int(exponent)}"


def angle_of(case: dict) -> str:
  """The angle of a case's pair, in words."""
  x = case["angle"]
  if x is None or x == math.pi / 2:
    return "random set" if x is None else "pi/2"
  return f"pi - {short(math.pi - x)}" if x > 3.0 else short(x)
