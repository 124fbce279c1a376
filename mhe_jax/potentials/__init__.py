"""The energy of a pair, and all that belongs to it: a potential is one file."""
