"""The rules of a model, read from what it computes."""

import re
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from mhe_jax.layers.classes import readings_of
from mhe_jax.layers.modules import is_equinox, is_nnx, program_of
from mhe_jax.layers.names import NOT_NEURONS, UnreadableError
from mhe_jax.layers.program.trace import Path, Reading
from mhe_jax.layers.program.uses import Unread
from mhe_jax.layers.rules import (
  LayerRule,
  Match,
  Role,
  check_matches,
  check_rules,
  match,
)
from mhe_jax.layers.select import raise_unreadable
from mhe_jax.layers.trees import flatten, is_array


def layer_rules(
  model: Any,
  *inputs: Any,
  rules: Sequence[LayerRule] = (),
  **options: Any,
) -> tuple[LayerRule, ...]:
  r"""Rules that say where the neurons of a program are, read from what it computes.

  Called as ``layer_rules(function, params, *inputs)`` for any JAX function whose first
  argument is a tree of parameters, such as ``apply`` or a loss; or as
  ``layer_rules(module, *inputs)`` for a linen, nnx or Equinox module, or the result of
  ``hk.transform``. The function is traced, and nothing is computed. In its jaxpr every
  product says which axes of a parameter it sums over (features), keeps (neurons) or
  runs along (independent sets); convolutions say their groups, lookups their rows.
  Equal parts of a product that are used by themselves are sets of their own: queries,
  keys and values, gates. The matrix that an output came through last is the output
  layer. docs/layers.md has the list of what is read.

  What is only added or multiplied (biases, scales, tables of positions) is skipped. A
  parameter that cannot be followed is neither guessed nor left out: it has the role
  ``"unread"``, :func:`mhe_jax.describe` lists it with the primitive that stopped the
  reading, and the first step of training warns of it. Give it a rule.

  The rules fit every tree of these parameters: the module, its state, the trees of an
  optimizer, a restored checkpoint, and any part of these.

  Args:
    model: a function of a tree of parameters, or a module.
    *inputs: what it is called with. Of a function the first is the tree: a dict, an nnx
      or Equinox module, any pytree. Arrays may be ``jax.ShapeDtypeStruct``; what is no
      array is passed on as it is. Of an nnx or Equinox module they may be left out: it
      is read by the classes of its parts then, without an output layer.
    rules: your own, which come first. What one does not say, axes or role, is as read.
    **options: keyword arguments, passed on: ``train=False``, ``rngs=``, ``method=``.

  Returns:
    A tuple of :class:`LayerRule`, for the ``rules`` of all functions here.

  Raises:
    TypeError: ``model`` is neither a function nor a module, or a function without
      parameters; or ``rules`` are no rules.
    ValueError: there is no array among the parameters; or a rule of yours is without
      effect.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from mhe_jax import layer_rules, neuron_matrices
    >>> def loss(params, tokens):
    ...   x = params["table"][tokens] + params["positions"]
    ...   q, k, v = jnp.split(x @ params["qkv"], 3, axis=-1)
    ...   x = x + jax.nn.softmax(q @ k.T) @ v
    ...   return -jax.nn.log_softmax(x @ params["head"])[0, 0]
    >>> shapes = {"table": (9, 4), "positions": (5, 4), "qkv": (4, 12), "head": (4, 9)}
    >>> params = {name: jnp.ones(shape) for name, shape in shapes.items()}
    >>> rules = layer_rules(loss, params, jnp.arange(5))
    >>> print(*rules[:1], *rules[2:], sep="\n")
    LayerRule('(params/)?head', NeuronAxes(-1), role='output', optional=True)
    LayerRule('(params/)?qkv', NeuronAxes(-1, groups=3), optional=True)
    LayerRule('(params/)?table', NeuronAxes(-2), optional=True)
    >>> {k: w.shape for k, w in neuron_matrices(params, rules).items()}
    {'head': (9, 4), 'qkv': (3, 4, 4), 'table': (9, 4)}
  """
  rules = check_rules(rules)
  readings, names = _read(model, inputs, options)
  # Every parameter under the name that the first rule of the user's knows it by.
  known = {path: names.find(path, rules) for path in readings}
  matches = {path: match(rules, name) for path, name in known.items()}
  left_out = {
    path: str(reading.axes)
    for path, reading in readings.items()
    if isinstance(reading.axes, str) and not _has_axes(matches[path].reader)
  }
  check_matches(
    rules,
    {known[path]: found for path, found in matches.items()},
    {known[path]: why for path, why in left_out.items()},
  )
  written, unreadable = [], []
  for path, reading in readings.items():
    rule = _rule(names.pattern(path), reading, matches[path])
    if isinstance(rule, UnreadableError):
      unreadable.append(("/".join(path), reading.shape, rule))
    elif rule is not None:
      written.append(rule)
  raise_unreadable(unreadable)
  return tuple(written)


def _has_axes(rule: LayerRule | None) -> bool:
  return rule is not None and rule.axes is not None


def _rule(pattern: str, reading: Reading, found: Match):
  """The rule of one parameter, None for vectors, or why it cannot be read."""
  winner, saying = found.winner, found.reader
  role = found.role
  weight = 1.0 if winner is None else winner.weight
  axes = reading.axes
  if saying is not None and found.is_skipped:
    reason = saying.reason or f"by rule {saying.pattern!r}"
    return LayerRule(pattern, None, saying.role, optional=True, reason=reason)
  if len(reading.shape) < 2:
    return None
  if saying is not None and saying.axes is not None:
    axes = saying.axes
  if isinstance(axes, UnreadableError):
    return axes
  if isinstance(axes, str):
    skips: Role = "unread" if isinstance(axes, Unread) else "skip"
    return LayerRule(pattern, None, skips, optional=True, reason=str(axes))
  if axes is None:
    # Its class is not known: axes stay those of its name, or the last.
    rule = LayerRule(pattern, None, role, weight, optional=True)
    return None if winner is None else rule
  if role is None and reading.is_output:
    role = "output"
  return LayerRule(pattern, axes, role, weight, optional=True)


class _Names(NamedTuple):
  """How the paths of a model differ between the trees of its parameters."""

  prefix: str
  suffix: str

  def pattern(self, path: Path) -> str:
    prefix, suffix = (f"({re.escape(x)})?" if x else "" for x in self)
    return prefix + re.escape("/".join(path)) + suffix

  def find(self, path: Path, rules: Sequence[LayerRule]) -> str:
    """The name by which the earliest rule knows a parameter; the plain one if none."""
    name = "/".join(path)
    names = (name, f"{self.prefix}{name}", f"{name}{self.suffix}")
    return next((n for rule in rules for n in names if rule.matches(n)), name)


def _read(model, inputs, options) -> tuple[dict[Path, Reading], _Names]:
  """Readings of all arrays among the parameters, and how their paths are written."""
  if not inputs and not options and (is_nnx(model) or is_equinox(model)):
    readings, names = _read_classes(model), _Names("", "/value" * is_nnx(model))
  else:
    program = program_of(model, inputs, options)
    readings, names = program.read(), _Names(program.prefix, program.suffix)
    if names.prefix and all(f"{path[0]}/" == names.prefix for path in readings if path):
      readings = {path[1:]: reading for path, reading in readings.items()}
  if not any(len(reading.shape) >= 2 for reading in readings.values()):
    raise ValueError(
      "params has no array of two or more axes, so that there is nothing to read: got "
      f"{['/'.join(path) for path in readings][:5]}."
    )
  if any(f"{path[0]}/" == names.prefix for path in readings if path):
    names = names._replace(prefix="")  # A module of that name: it could be the prefix.
  return readings, names


def _read_classes(model) -> dict[Path, Reading]:
  """Of modules that have their parameters, without an input: by class."""
  known = []
  if "flax.nnx" in sys.modules:
    from mhe_jax.layers import nnx  # noqa: PLC0415

    known += nnx.known_parameters(model)
  if "equinox" in sys.modules:
    from mhe_jax.layers import equinox  # noqa: PLC0415

    known += equinox.known_parameters(model)
  paths, leaves, _ = flatten(model)
  shapes = {p: tuple(x.shape) for p, x in zip(paths, leaves) if is_array(x)}
  by_class = readings_of(known, shapes)

  def axes(path):
    if path in by_class:
      return by_class[path]
    is_known = len(shapes[path]) < 2 or path[-1] in NOT_NEURONS
    return "not neurons" if is_known else None

  return {path: Reading(axes(path), shape) for path, shape in shapes.items()}
