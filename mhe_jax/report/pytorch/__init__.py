"""Tables of names: where modules of PyTorch, and architectures, keep neurons."""
