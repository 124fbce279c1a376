"""A color for every regularizer, the same in all pictures."""

from experiments.classification.arms import BASELINE, HALF_MHE, MHE, ORTHONORMAL

COLORS = {
  BASELINE: "#333333",
  ORTHONORMAL: "#e0a100",
  MHE: "#2a6fbb",
  HALF_MHE: "#c8102e",
}
