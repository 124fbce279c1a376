"""Experiments, each runnable as ``python -m experiments.NAME``."""
