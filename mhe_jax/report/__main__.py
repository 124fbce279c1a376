"""``python -m mhe_jax.report CHECKPOINT [--against BASE]``; ``--help`` has the rest."""

from mhe_jax.report.command import main

if __name__ == "__main__":
  main()
