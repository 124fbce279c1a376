"""One measurement of :mod:`experiments.benchmarks.energy` in a process of its own."""

import json
import resource
import sys

import rich.progress

from experiments.benchmarks.energy import neurons, ours
from experiments.benchmarks.timing import time_in_turns


def main(n: int, d: int, rounds: int) -> None:
  """Prints a JSON line: times, temporary memory, and the peak of the process."""
  function, temporary = ours(neurons(n, d))
  with rich.progress.Progress(disable=True) as progress:
    seconds = time_in_turns({"default": function}, rounds, progress, "")["default"]
  # Kibibytes on Linux. It includes Python and JAX, some 300 MiB.
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  result = {"temporary_mib": temporary, "peak_mib": round(peak, 1)}
  print(json.dumps({"shape": [n, d], "seconds": seconds, **result}))


if __name__ == "__main__":
  main(*map(int, sys.argv[1:]))
