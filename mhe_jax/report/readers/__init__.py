"""Formats of checkpoints, a reader each: names and shapes first, then arrays."""
