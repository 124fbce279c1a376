"""Programs without modules: plain trees of arrays, and what is read of them."""

import jax
import jax.numpy as jnp
from by_hand import check
from sets import normals

from mhe_jax import layer_rules, neuron_matrices


def arrays(**shapes):
  """``{name: array}``, all different."""
  return normals(shapes)


def check_program(
  function, params, inputs, layers, *, output=(), unread=(), shown=None, **options
):
  """The layers as by hand, these roles, and no others.

  Args:
    function: ``function(params, *inputs, **options)``.
    params: a tree of arrays.
    inputs: a tuple.
    layers: matrices by hand, by path.
    output: paths of the output layers.
    unread: paths of what cannot be read.
    shown: the tree whose matrices are compared; ``params`` if None.
    **options: keyword arguments of the function.
  """
  with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
    rules = layer_rules(function, params, *inputs, **options)
  tree = params if shown is None else shown
  check(tree, rules, layers)
  assert outputs(tree, rules) == set(output)
  assert with_role("unread", paths_of(tree), rules) == set(unread)


def paths_of(tree):
  flat = jax.tree_util.tree_flatten_with_path(tree)[0]
  return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in flat]


def with_role(role, paths, rules):
  """Paths that a rule gives this role."""
  return {p for p in paths for rule in rules if rule.role == role and rule.matches(p)}


def outputs(tree, rules):
  """Paths of the output layers that have neurons."""
  return with_role("output", neuron_matrices(tree, rules), rules)


def norm(x, scale):
  return scale * x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)


def heads_of(x, num):
  return x.reshape(*x.shape[:-1], num, -1)


def attend(q, k, v):
  """Attention ``[batch, time, heads, size]``, to the past, with its heads joined."""
  scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
  if q.shape[1] == k.shape[1]:
    past = jnp.tril(jnp.ones(scores.shape[-2:], bool))
    scores = jnp.where(past, scores, -jnp.inf)
  out = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)
  return out.reshape(*out.shape[:2], -1)


def cross_entropy(logits, labels):
  logs = jax.nn.log_softmax(logits)
  return -jnp.take_along_axis(logs, labels[..., None], -1).mean()
