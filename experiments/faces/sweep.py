"""Faces: works through lists of runs.

  python -m experiments.faces.sweep --preset smoke
  python -m experiments.faces.sweep best margins --preset cpu --data-root FOLDER
  python -m experiments.faces.sweep best --preset paper --data-root FOLDER

The sweeps: best (the question, on seeds of its own), margins, identification (which has
the runs of margins), weights, rivals. The presets: smoke (ORL, seconds), cpu (a part of
LFW, minutes a run), paper (CASIA-WebFace and LFW, for accelerators).

Finished runs are skipped and unfinished ones go on, so that a sweep can be stopped, in
any way, and continued at any time, or in parts. All arms of a seed come before those of
the next. Several processes of the same command share the runs among them, if they share
the folder.
"""

from experiments.faces.plan import sweeps_of
from experiments.faces.task import TASK
from experiments.runs.commands import sweep_command


def main() -> None:
  """Works through the experiments."""
  sweep_command(TASK, sweeps_of, __doc__)


if __name__ == "__main__":
  main()
