"""What may be minimized: a number for a set of neurons. One idea a file."""
