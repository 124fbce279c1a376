"""A jaxpr from its first equation to its last, through calls, branches and loops."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from jax.extend import core

from mhe_jax.layers.program import primitives
from mhe_jax.layers.program.digits import Axis, reshape
from mhe_jax.layers.program.products import move
from mhe_jax.layers.program.uses import Uses
from mhe_jax.layers.program.values import Value, join, shape_of

# Turns of a loop until what comes round is known: each adds what one use tells.
_TURNS = 6


def interpret(uses: Uses, jaxpr: Any, args: Sequence[Value]) -> list[Value]:
  """What is known of the outputs of a jaxpr, whose constants may be in front."""
  jaxpr = _open(jaxpr)
  env: dict[Any, Value] = {}

  def read(atom):
    if isinstance(atom, core.Literal):
      return Value()
    return env.get(atom, Value())

  env.update(zip([*jaxpr.constvars, *jaxpr.invars][-len(args) :] if args else (), args))
  for eqn in jaxpr.eqns:
    values = [read(atom) for atom in eqn.invars]
    env.update(zip(eqn.outvars, _evaluate(uses, eqn, values), strict=True))
  return [read(atom) for atom in jaxpr.outvars]


def _open(jaxpr: Any) -> Any:
  """A jaxpr without its constants, which one kind of jaxpr has in later versions."""
  return getattr(jaxpr, "jaxpr", jaxpr)


def _evaluate(uses, eqn, values) -> list[Value]:
  rule = _CONTROL.get(eqn.primitive.name)
  if rule is not None:
    return rule(uses, eqn.params, values, eqn)
  body = _body_of(eqn)
  if body is not None:
    return interpret(uses, body, values)
  return primitives.apply(uses, eqn, values)


def _body_of(eqn) -> Any:
  """The jaxpr that a call stands for: jit, remat, custom derivatives and their kin."""
  shapes = [getattr(x.aval, "shape", None) for x in eqn.invars]
  for param in eqn.params.values():
    if isinstance(param, core.ClosedJaxpr | core.Jaxpr):
      inner = _open(param)
      same = [getattr(x.aval, "shape", None) for x in inner.invars] == shapes
      if same and len(inner.outvars) == len(eqn.outvars):
        return param
  return None


def _scan(uses, params, values, eqn):
  body = _open(params["jaxpr"])
  # By their axes, since versions of JAX differ in how they count them: what is run
  # along has one more outside.
  num_carry = sum(map(_is_whole, body.outvars, eqn.outvars))
  num_layers = len(values) - sum(map(_is_whole, body.invars, eqn.invars))
  first = len(values) - num_layers
  consts, carry = values[: first - num_carry], values[first - num_carry : first]
  layers = [
    _slice_of_scan(value, shape_of(var))
    for value, var in zip(values[first:], body.invars[first:])
  ]
  carry, outs = _loop(
    lambda carry: interpret(uses, body, [*consts, *carry, *layers]), carry
  )
  ys = [
    _stacked(value, shape_of(var))
    for value, var in zip(outs[num_carry:], eqn.outvars[num_carry:])
  ]
  return [*carry, *ys]


def _is_whole(inside, outside) -> bool:
  return len(shape_of(inside)) == len(shape_of(outside))


def _slice_of_scan(value: Value, shape) -> Value:
  """One of those that a scan runs along: the first axis of a parameter is a stack."""
  places = {a + 1: a for a in range(len(shape))}
  views = tuple(
    dataclasses.replace(move(v, places, shape), stack=v.stack + v.digits([0]))
    for v in value.views
  )
  constant = frozenset(a - 1 for a in value.constant if a > 0)
  return value.replace(views=views, constant=constant, one_hot=None)


def _stacked(value: Value, shape) -> Value:
  places = {a: a + 1 for a in range(len(shape) - 1)}
  views = tuple(move(view, places, shape) for view in value.views)
  constant = frozenset(a + 1 for a in value.constant)
  return value.replace(views=views, constant=constant, one_hot=None)


def _loop(body, carry):
  outs = []
  for _ in range(_TURNS):
    outs = body(carry)
    joined = [join(pair) for pair in zip(carry, outs)]
    if joined == carry:
      break
    carry = joined
  return carry, outs


def _while(uses, params, values, eqn):
  del eqn
  in_cond, in_body = params["cond_nconsts"], params["body_nconsts"]
  consts = values[in_cond : in_cond + in_body]
  carry, _ = _loop(
    lambda carry: interpret(uses, params["body_jaxpr"], [*consts, *carry]),
    values[in_cond + in_body :],
  )
  interpret(uses, params["cond_jaxpr"], [*values[:in_cond], *carry])
  return carry


def _cond(uses, params, values, eqn):
  del eqn
  _, *args = values
  branches = [interpret(uses, branch, args) for branch in params["branches"]]
  return [join(outs) for outs in zip(*branches)]


def _linear_solve(uses, params, values, eqn):
  """The operator meets what its solver is made for: it may call it by itself."""
  del eqn
  consts, start = {}, 0
  for name, length in params["const_lengths"]._asdict().items():
    consts[name] = values[start : start + length]
    start += length
  jaxprs, b = params["jaxprs"], values[start:]
  interpret(uses, jaxprs.matvec, [*consts["matvec"], *b])
  return interpret(uses, jaxprs.solve, [*consts["solve"], *b])


def _shard_map(uses, params, values, eqn):
  """Inside, sizes are those of one device."""
  jaxpr = params["jaxpr"]
  inner = _open(jaxpr)
  args = [
    _resized(value, outside.aval.shape, inside.aval.shape)
    for value, outside, inside in zip(values, eqn.invars, inner.invars)
  ]
  outs = interpret(uses, jaxpr, args)
  return [
    _resized(value, inside.aval.shape, outside.aval.shape)
    for value, inside, outside in zip(outs, inner.outvars, eqn.outvars)
  ]


def _resized(value: Value, old, new) -> Value:
  if tuple(old) == tuple(new) or len(old) != len(new):
    return value
  views = tuple(
    dataclasses.replace(view, axes=tuple(map(_divide, view.axes, old, new)))
    for view in value.views
  )
  return value.replace(views=views)


def _divide(axis: Axis, old: int, new: int) -> Axis:
  """Parts of what a device holds are parts in turns, device by device."""
  if old == new:
    return axis
  if axis.exact and new > 1 and old % new == 0:
    parts = reshape([axis], [old], [old // new, new])
    if parts is not None:
      return parts[1]
  return axis._replace(exact=False)


_CONTROL = {
  "scan": _scan,
  "while": _while,
  "cond": _cond,
  "custom_linear_solve": _linear_solve,
  "shard_map": _shard_map,
}
