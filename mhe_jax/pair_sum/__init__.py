"""How the double sum over pairs of neurons is evaluated.

Every engine has the signature of :func:`mhe_jax.pair_sum.dense.dense_sum` and
answers the same question; they differ in time and memory only.
"""
