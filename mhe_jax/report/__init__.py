"""See inside any checkpoint: how redundant its layers are, and how they changed.

``python -m mhe_jax.report CHECKPOINT [--against BASE]``, or as functions:
"""

from mhe_jax.report.errors import InputError
from mhe_jax.report.make import compare, redundancy
from mhe_jax.report.reports import ComparisonReport, RedundancyReport
from mhe_jax.report.rows import ComparisonRow, RedundancyRow

__all__ = [
  "ComparisonReport",
  "ComparisonRow",
  "InputError",
  "RedundancyReport",
  "RedundancyRow",
  "compare",
  "redundancy",
]
