"""Trees of parameters full of numbers, and readings of them to compare with.

Where a layer can be run, its own forward function is the judge: the derivative of
output unit u with respect to the weights must fill row u and no other row.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from sets import normal, normal32

from mhe_jax import neuron_matrices

F32 = jnp.float32
KERNEL = normal(5, 4)
PARAMS = {
  "body": {"kernel": KERNEL, "bias": normal(4)},
  "head": {"kernel": normal(4, 3), "bias": normal(3)},
}


def tree(path, shape, bias=None):
  """A tree with one kernel, and its bias if it has one."""
  leaf = {"kernel": normal32(*shape)}
  if bias is not None:
    leaf["bias"] = normal32(*bias)
  for name in reversed(path.split("/")):
    leaf = {name: leaf}
  return leaf


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


VmapDense = nn.vmap(
  nn.Dense, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=None,
  axis_size=3,
)  # fmt: skip

# What nnx has of a module, each with its parameters.
FORMS = {
  "module": lambda module: module,
  "params": lambda module: nnx.state(module, nnx.Param),
  "split": lambda module: nnx.split(module)[1],
  "dict": lambda module: nnx.to_pure_dict(nnx.split(module)[1]),
}
forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def nnx_arrays(module):
  flat = nnx.to_flat_state(nnx.state(module, nnx.Param))
  return {"/".join(map(str, path)): np.asarray(v[...]) for path, v in flat}


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
