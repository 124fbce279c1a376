"""Measurements of speed and memory; every claim is a ratio from one run."""
