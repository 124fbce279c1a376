"""Pictures of what hyperspherical energy is and does."""
