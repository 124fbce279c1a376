"""A language model of bytes: what `spread` gains, at which rate, for how long."""
