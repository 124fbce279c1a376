"""The runner: settings, names, checkpoints, results and sweeps of runs of any task."""
