"""A color for every regularizer, the same in all pictures; whatever its weight."""

from experiments.classification.arms import (
  BASELINE,
  HALF_MHE,
  MHE,
  ORTHONORMAL,
  RELATIVE,
  RELATIVE_ORTHONORMAL,
)

COLORS = {
  BASELINE: "#333333",
  ORTHONORMAL: "#e0a100",
  MHE: "#2a6fbb",
  HALF_MHE: "#c8102e",
  RELATIVE.unweighted: "#6a3d9a",
  RELATIVE_ORTHONORMAL.unweighted: "#8c6d1f",
}
OTHER = "#aaaaaa"
