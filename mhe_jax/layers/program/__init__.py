"""Where the neurons are, read from what a program does with its parameters."""
