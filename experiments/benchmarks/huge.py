"""One measurement of :mod:`experiments.benchmarks.energy` in a process of its own."""

import json
import math
import pathlib
import re
import sys

import rich.progress

from experiments.benchmarks.energy import neurons, ours
from experiments.benchmarks.timing import time_in_turns


def main(n: int, d: int, rounds: int) -> None:
  """Prints a JSON line: times, temporary memory, and the peak of the process."""
  function, temporary = ours(neurons(n, d))
  with rich.progress.Progress(disable=True) as progress:
    seconds = time_in_turns({"default": function}, rounds, progress, "")["default"]
  result = {"temporary_mib": temporary, "peak_mib": peak_mib()}
  print(json.dumps({"shape": [n, d], "seconds": seconds, **result}))


def peak_mib() -> float:
  """Most memory that this process had, Python and JAX included; NaN if not on Linux."""
  # Not getrusage, which would count the parent's memory at the time of the fork.
  status = pathlib.Path("/proc/self/status")
  found = status.exists() and re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
  return round(int(found[1]) / 1024, 1) if found else math.nan


if __name__ == "__main__":
  main(*map(int, sys.argv[1:]))
