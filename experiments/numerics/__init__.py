"""How exact the energies are in floating point."""
