"""The paper's experiments: works through lists of runs.

  python -m experiments.classification.sweep --preset smoke
  python -m experiments.classification.sweep variants width --preset cpu --jobs 2
  python -m experiments.classification.sweep variants --preset paper

The sweeps: rate, headline, variants, width, depth, layers, weight, resnet, imbalance,
start and (not on a CPU) imagenet, which are the paper's; and deep, rates, confirm,
shallow, warm, few, claims, whole, plateau and noise, which ask where the energy helps.
The presets: smoke (handwritten digits, seconds), cpu (hours on two cores), paper (the
paper's schedule, for accelerators).

Finished runs are skipped and unfinished ones go on, so that a sweep can be stopped, in
any way, and continued at any time, or in parts: seed by seed, sweep by sweep. All arms
of a seed come before those of the next. On CPU, as many jobs as there are cores, each
on a core of its own, are faster than one job on all of them. Several processes of the
same command share the runs among them, if they share the folder: one for each GPU,
say, told apart by ``CUDA_VISIBLE_DEVICES``.
"""

from experiments.classification.plan import sweeps_of
from experiments.classification.task import TASK
from experiments.runs.commands import sweep_command


def main() -> None:
  """Works through the paper's experiments."""
  sweep_command(TASK, sweeps_of, __doc__)


if __name__ == "__main__":
  main()
