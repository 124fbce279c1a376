r"""A softmax classifier of 100,000 classes whose weights are divided among 8 devices.

  python -m experiments.scale.classifier                    # minutes on two cores
  python -m experiments.scale.classifier --preset smoke     # seconds, in the tests
  python -m experiments.scale.classifier --arms none sampled --classes 1000000

Arms are what is added to the loss: nothing (``none``), the energy of all class weights
estimated from 256 of them (``sampled``), the paper's energy of the classes of the batch
with all (``rows``), or, for fewer classes, that of all pairs (``exact``). No device
sees another's class weights. On a computer without accelerators the devices are parts
of the CPU: what is shown is what each would have to keep, and not a speed.

Class weights start as random directions. People come as often as Zipf's law says, so
that most classes never come in so few steps, as in large vocabularies and long-tailed
sets of faces. Softmax pushes all of these away from what features have in common, and
weight decay lets what they had of their own fade.
"""

import dataclasses

from experiments.scale.commands import Experiment, run_command
from experiments.scale.devices import divide_cpu
from experiments.scale.training import Config, train

MEBI = 2**20


def tell(result: dict) -> str:
  """A result in a line."""
  last, memory = result["history"][-1], result["memory"]
  never = result["nearest"]["never"]
  angle = f"{never['quantiles'][2]:.1f}" if never["classes"] else "no"
  return (
    f"excess {last['excess']:.2f} ± {last['excess_error']:.2f}, loss "
    f"{last['test_loss']:.2f}, error {last['test_error']:.1f}%; of {never['classes']} "
    f"classes that never came the median angle to the nearest is {angle} degrees; "
    f"{result['seconds_a_step']:.2f} s a step; {memory['device'] / MEBI:.1f} MiB a "
    f"device (all pairs: {memory['all_pairs'] / MEBI:.0f} MiB)"
  )


CPU = Config()
SMOKE = dataclasses.replace(
  CPU, classes=1200, d=16, batch=32, steps=6, measurements=2, num_samples=64,
  test_images=64,
)  # fmt: skip
EXPERIMENT = Experiment(
  "classifier",
  "energy",
  {
    "smoke": (SMOKE, ("none", "sampled", "exact")),
    "cpu": (CPU, ("none", "sampled", "rows")),
  },
  train,
  tell,
)


def main() -> None:
  """Trains the arms, one after the other."""
  divide_cpu(CPU.devices)
  run_command(EXPERIMENT, __doc__)


if __name__ == "__main__":
  main()
