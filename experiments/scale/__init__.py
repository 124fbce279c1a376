"""Very many neurons: a classifier sharded over devices, and a vocabulary."""
