"""Faces: margins between people, with and without hyperspherical energy."""
