"""Where :mod:`experiments.weights` finds its tables."""

from experiments.report.markdown import markdown

__all__ = ["markdown"]
