"""From a tree of parameters, or a model, to matrices of neurons."""
