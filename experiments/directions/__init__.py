"""Sets of directions, where there are more of them than dimensions."""
