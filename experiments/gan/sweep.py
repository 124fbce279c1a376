"""MHE-GAN: works through lists of runs.

  python -m experiments.gan.sweep --preset smoke
  python -m experiments.gan.sweep weight four --preset cpu --jobs 2
  python -m experiments.gan.sweep four --preset paper

The sweeps: four (the paper's table: spectral normalization and MHE, each alone and
both), forms (of the energy) and weight. The presets: smoke (handwritten digits,
seconds), cpu (hours on two cores), paper (the paper's schedule, for accelerators).

Finished runs are skipped and unfinished ones go on, so that a sweep can be stopped, in
any way, and continued at any time, or in parts: seed by seed, sweep by sweep. On CPU,
as many jobs as there are cores, each on a core of its own, are faster than one job on
all of them. Several processes of the same command share the runs among them, if they
share the folder. Runs that collapse are counted by the report.
"""

from experiments.gan.plan import sweeps_of
from experiments.gan.task import TASK
from experiments.runs.commands import sweep_command


def main() -> None:
  """Works through the sweeps."""
  sweep_command(TASK, sweeps_of, __doc__)


if __name__ == "__main__":
  main()
