"""Trees of parameters full of numbers, and readings of them to compare with.

Where a layer can be run, its own forward function is the judge: the derivative of
output unit u with respect to the weights must fill row u and no other row.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from sets import normal32

from mhe_jax import neuron_matrices

F32 = jnp.float32


def filled(abstract):
  """A tree of shapes, as an abstract init gives it for free, full of numbers."""
  leaves, treedef = jax.tree.flatten(abstract)
  return treedef.unflatten(
    jnp.asarray(normal32(*x.shape, seed=i))
    if jnp.issubdtype(x.dtype, jnp.floating)
    else x
    for i, x in enumerate(leaves)
  )


def init(module, *args):
  return filled(jax.eval_shape(module.init, jax.random.key(0), *args))


def nnx_init(make):
  graphdef, state = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
  return nnx.merge(graphdef, filled(state))


def rows_of_units(forward, params, rules=None):
  """``{path: bool[units, rows]}``: which rows each output unit depends on.

  Rows are counted through the batch axes of a matrix. Asserts that a unit depends
  on all weights of a row or on none.
  """

  @jax.jit
  def jacobian_by_row(params):
    jacobian = jax.jacrev(forward)(params)
    return jax.vmap(functools.partial(neuron_matrices, rules=rules))(jacobian)

  owned = {}
  for path, m in jacobian_by_row(params).items():
    used = np.asarray(m.reshape(len(m), -1, m.shape[-1]) != 0)
    assert np.array_equal(used.all(-1), used.any(-1)), path
    owned[path] = used.all(-1)
  return owned


def units(y, axes=(-1,)):
  """The outputs of a batch summed into ``[units]``; ``axes`` index units."""
  axes = [a % y.ndim for a in axes]
  return y.sum([a for a in range(y.ndim) if a not in axes]).reshape(-1)


def last(kernel):
  return kernel.reshape(-1, kernel.shape[-1]).T


def last_two(kernel):
  return kernel.reshape(-1, kernel.shape[-2] * kernel.shape[-1]).T
