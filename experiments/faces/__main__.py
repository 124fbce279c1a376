r"""SphereFace, SphereFace+ (with the energy of the class weights) and rivals: one run.

  python -m experiments.faces --preset smoke
  python -m experiments.faces --preset cpu --data-root FOLDER --energy.kind all
  python -m experiments.faces --preset cpu --data-root FOLDER --head.kind cosface \
      --head.margin 0.35 --head.scale 30 --head.gamma 0.12
  python -m experiments.faces --preset paper --data-root FOLDER --energy.kind batch
  python -m experiments.faces --repeat NAME.json

The presets: smoke (the faces of ORL, seconds), cpu (a small network on a part of LFW,
minutes on one core), paper (SphereFace's schedule on CASIA-WebFace, tested on LFW, for
an accelerator). FOLDER has the data sets in folders of their names, lfw and casia: see
experiments/data/faces.py. Every setting of a preset, or of the result whose run is to
be repeated, can be changed. What is repeated needs an output of its own.

A run that is stopped, at any moment and in any way, goes on from what was saved last
when the same command is given again, and ends with the same numbers, if the device and
its number of cores are the same. It writes OUTPUT/NAME.json, NAME being made of its
settings. One that diverges ends there, with the last saved state beside its result.
"""

from experiments.faces.task import TASK
from experiments.runs.commands import run_command


def main() -> None:
  """Trains one network."""
  run_command(TASK, __doc__)


if __name__ == "__main__":
  main()
