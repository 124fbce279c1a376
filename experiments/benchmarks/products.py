"""How many multiplications the matrix products of a program take, loops and all."""

import math
from collections.abc import Callable

import jax


def products_of(function: Callable, *operands: jax.Array) -> int:
  """Multiplications of matrix products of a function; inside shard_map, of a device.

  Those of products with ones, which sums are made of, among them.
  """
  return _count(jax.make_jaxpr(function)(*operands).jaxpr)


def _count(jaxpr, times=1):
  total = 0
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == "dot_general":
      ((contracted, _), _) = eqn.params["dimension_numbers"]
      depth = math.prod(eqn.invars[0].aval.shape[i] for i in contracted)
      total += times * depth * math.prod(eqn.outvars[0].aval.shape)
    inner = times * eqn.params.get("length", 1)
    for value in jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, "jaxpr")):
      program = getattr(value, "jaxpr", value)
      if hasattr(program, "eqns"):
        total += _count(program, inner)
  return total
