r"""MHE-GAN: a generator and a discriminator with and without energy: one run.

  python -m experiments.gan --preset smoke
  python -m experiments.gan --preset cpu --dataset digits --seed 1 --spectral-norm \
      --regularizer.kind mhe --regularizer.relative --regularizer.weight 0.1
  python -m experiments.gan --preset paper --regularizer.kind mhe
  python -m experiments.gan --repeat NAME.json

The presets: smoke (handwritten digits, seconds), cpu (an eighth of the width, minutes
on a core), paper (the paper's schedule, for an accelerator). Every setting of a preset,
or of the result whose run is to be repeated, can be changed. What is repeated needs an
output of its own.

Samples are scored by a classifier that is trained here on the same data set, once, and
kept in XDG_CACHE_HOME or ~/.cache: its scores compare runs with each other and with
real images, not with what is published. Scores are docs/gan.md's.

A run that is stopped, at any moment and in any way, goes on from what was saved last
when the same command is given again, and ends with the same numbers, if the device and
its number of cores are the same. It writes OUTPUT/NAME.json, NAME being made of its
settings.
"""

from experiments.gan.task import TASK
from experiments.runs.commands import run_command


def main() -> None:
  """Trains one GAN."""
  run_command(TASK, __doc__)


if __name__ == "__main__":
  main()
