"""The tables of docs/benchmarks.md, from the JSON of the benchmarks alone."""

import numpy as np

from experiments.benchmarks.timing import ratio
from experiments.report.markdown import markdown


def tables(result: dict) -> list[str]:
  """Large set, tile sizes, layers, and sets without a matrix, in Markdown."""
  return [
    _large(result["large"]),
    _blocks(result["blocks"]),
    _layers(result["layers"]),
    _huge(result["huge"]),
  ]


def claims(result: dict) -> list[str]:
  """Sentences of the page."""
  lazy, compilation = result["lazy"], result["compilation"]
  sentences = []
  if "KeOps" in lazy["seconds"]:
    times = ratio(lazy["seconds"], "KeOps", "default")
    shape = _shape(lazy)
    sentences.append(f"KeOps takes {times:.0f} times as long ({shape}, CPU).")
  seconds = {name: np.median(s) for name, s in compilation["seconds"].items()}
  own = seconds.pop("network_energy")
  rivals = ", ".join(f"{name}: {s:.1f} s" for name, s in seconds.items())
  sentences.append(
    f"The gradient of `network_energy` of a ResNet-{compilation['num_layers']} is "
    f"traced and compiled in {own:.1f} s ({rivals})."
  )
  return sentences


def _large(result):
  n, d = result["shape"]
  header = [f"{n} x {d}", "ms", "against the two products", "against the same s"]
  rows = []
  for name, times in result["seconds"].items():
    # Half-space and geodesic beside chordal full space; rivals beside s = 2.
    base = name.split(",")[0] if name.startswith("s = ") else "s = 2"
    own = "" if name in (base, "two products") else _ratio(result, name, base)
    milliseconds = f"{1e3 * np.median(times):.0f}"
    rows.append([name, milliseconds, _ratio(result, name, "two products"), own])
  return markdown(header, *rows)


def _blocks(result):
  sizes = [name for name in result["seconds"] if name != "two products"]
  ratios = [_ratio(result, name, "two products") for name in sizes]
  return markdown(["rows of a tile", *sizes], ["against the two products", *ratios])


def _layers(results):
  _, *rivals = results[0]["seconds"]
  rows = []
  for result in results:
    milliseconds = f"{1e3 * np.median(result['seconds']['default']):.2f}"
    ratios = [_ratio(result, name, "default") for name in rivals]
    rows.append([_shape(result), milliseconds, *ratios])
  return markdown(["layer", "default, ms", *rivals], *rows)


def _huge(results):
  header = [
    "set", "seconds", "input, MiB", "temporary, MiB", "peak of the process, MiB",
    "one dense matrix, MiB",
  ]  # fmt: skip
  rows = []
  for result in results:
    n, d = result["shape"]
    mib = [
      4 * n * d / 2**20,
      result["temporary_mib"],
      result["peak_mib"],
      n * n / 2**18,
    ]
    seconds = f"{np.median(result['seconds']):.1f}"
    rows.append([_shape(result), seconds, *(f"{x:.0f}" for x in mib)])
  return markdown(header, *rows)


def _ratio(result, name, base):
  return f"{ratio(result['seconds'], name, base):.2f}"


def _shape(result):
  return "{} x {}".format(*result["shape"])
