"""How the double sum over pairs of neurons is evaluated.

Every engine has the signature of :func:`mhe_jax.pair_sum.dense.dense_sum` and
answers the same question; they differ in time and memory only.

Between a call and its tile lie these, from the outside in; each does one thing that
automatic differentiation and the compiler do not:

- ``sphere.evaluate``, a ``jax.jit``: a network traces each shape of layer once.
- ``sphere._saturating``, a ``custom_jvp``: gradients that the dtype of the neurons
  cannot hold are its largest number and not infinity. Without: infinities for twins of
  norm 1e-36 in float32, and of ordinary norms in float16.
- ``all_pairs._sum``, a ``custom_jvp``: the gradient comes out of the same pass over the
  tiles as the value. Without: reverse mode stores every tile.
- ``all_pairs._value_and_gradient``, a ``custom_jvp`` that is the automatic rule: keeps
  reverse mode over the gradient from looking inside. Without: reverse over reverse
  stores every tile.
- a ``custom_partitioning`` in ``partitioned.py``: tells the compiler to divide the
  pairs where a mesh has ``Auto`` axes. Without: every device gathers all neurons, and
  computes all pairs.
- in it a ``custom_vmap``, since JAX cannot batch a ``custom_partitioning``.

``field.py``, the sampled engine, has the same three in the same order.
"""
