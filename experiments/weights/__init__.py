"""Whether one weight of the energy serves every network, width and layer."""
