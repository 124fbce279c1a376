"""One run: see :mod:`experiments.classification.task`."""

from experiments.classification.task import main

main()
