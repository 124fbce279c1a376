r"""Image classification with and without hyperspherical energy: one run.

  python -m experiments.classification --preset smoke
  python -m experiments.classification --preset cpu --dataset cifar10 --seed 1 \
      --regularizer.kind mhe --regularizer.no-half-space --regularizer.weight 10
  python -m experiments.classification --preset paper --regularizer.kind mhe
  python -m experiments.classification --repeat NAME.json

The presets: smoke (handwritten digits, seconds), cpu (a narrow CNN-9 on a small part of
CIFAR, minutes on two cores), paper (the paper's schedule, for an accelerator). Every
setting of a preset, or of the result whose run is to be repeated, can be changed. The
second command is one of the runs of the cell "MHE, s = 2", CIFAR-10, in
docs/classification.md. What is repeated needs an output of its own.

A run that is stopped, at any moment and in any way, goes on from what was saved last
when the same command is given again, and ends with the same numbers, if the device and
its number of cores are the same. It writes OUTPUT/NAME.json, NAME being made of its
settings.
"""

from experiments.classification.task import TASK
from experiments.runs.commands import run_command


def main() -> None:
  """Trains one network."""
  run_command(TASK, __doc__)


if __name__ == "__main__":
  main()
