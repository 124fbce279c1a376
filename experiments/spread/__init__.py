"""Whether `spread` hurts where other forms of the energy do, on eight networks."""
