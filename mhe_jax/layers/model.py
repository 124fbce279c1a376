"""The rules of a model, read from the classes of its modules."""

import dataclasses
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax

from mhe_jax.layers.axes import NeuronAxes
from mhe_jax.layers.classes import Path, Reading, readings_of
from mhe_jax.layers.names import NOT_NEURONS, UnreadableError
from mhe_jax.layers.rules import LayerRule, check_matches, check_rules, match
from mhe_jax.layers.select import raise_unreadable
from mhe_jax.layers.trees import flatten, is_array


def layer_rules(
  model: Any,
  *example_inputs: Any,
  rules: Sequence[LayerRule] = (),
  **options: Any,
) -> tuple[LayerRule, ...]:
  r"""Rules that say by class where the neurons of a model are.

  They fit every tree of its parameters: the module, its state, the trees of an
  optimizer, a restored checkpoint, and any part of these. Layers in stacks
  (``nn.scan``, ``nnx.vmap``, ``eqx.filter_vmap``) are found along whatever axis;
  gates of recurrent cells and groups of convolutions are sets of their own
  (``NeuronAxes.groups``), while the heads of attention are one set. Depthwise
  convolutions and tables of relative positions are skipped, unless a rule of yours
  gives axes for them. What is not in the list of docs/layers.md is left to its name;
  :func:`mhe_jax.describe` lists what that does not tell, and the first step of
  training warns of it.

  Args:
    model: an nnx module, a linen module, a tree with Equinox modules, or the result
      of ``hk.transform`` or ``hk.transform_with_state``.
    *example_inputs: for linen and Haiku the positional arguments of ``init`` after
      the key; arrays may be ``jax.ShapeDtypeStruct``. Nothing is computed.
    rules: your own, which come first. Where one has no ``axes``, role and weight are
      its, and the axes those of the class.
    **options: keyword arguments of ``init``, such as ``train=False``.

  Returns:
    A tuple of :class:`LayerRule`, for the ``rules`` of all functions here.

  Raises:
    TypeError: the model is of none of these libraries; inputs for nnx or Equinox; or
      ``rules`` are no rules.
    ValueError: repeated sizes leave a choice of the axis of a stack: the message has
      the rules to choose from; or a rule of yours is without effect.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> import flax.linen as nn
    >>> from mhe_jax import LayerRule, layer_rules, neuron_matrices
    >>> model = nn.Sequential([
    ...     nn.Conv(8, (3, 3), feature_group_count=2), nn.ConvTranspose(
    ...         16, (2, 2), transpose_kernel=True, use_bias=False), nn.Dense(10)])
    >>> x = jnp.ones((1, 8, 8, 4))
    >>> rules = layer_rules(
    ...     model, x, rules=[LayerRule("layers_2/kernel", role="output")])
    >>> print(*rules, sep="\n")
    LayerRule('(params/)?layers_0/kernel', NeuronAxes(-1, groups=2), optional=True)
    LayerRule('(params/)?layers_1/kernel', NeuronAxes(-2), optional=True)
    LayerRule('(params/)?layers_2/kernel', NeuronAxes(-1), role='output', optional=True)
    >>> params = model.init(jax.random.key(0), x)["params"]
    >>> {k: w.shape for k, w in neuron_matrices(params, rules).items()}
    {'layers_0/kernel': (2, 4, 18), 'layers_1/kernel': (16, 32), 'layers_2/kernel': (10, 16)}
  """  # noqa: E501
  rules = check_rules(rules)
  readings, shapes, library = _read(model, example_inputs, options)
  # Every parameter under the name that the first rule of the user's knows it by.
  names = {path: library.name(path, rules) for path in shapes}
  matches = {path: match(rules, name) for path, name in names.items()}
  left_out = {
    path: why
    for path in shapes
    if (why := _why_not(path, shapes[path], readings, matches[path].reader))
  }
  check_matches(
    rules,
    {names[path]: found for path, found in matches.items()},
    {names[path]: why for path, why in left_out.items()},
  )
  written, unreadable = [], []
  for path, (rule, saying) in matches.items():
    reading, role, weight = readings.get(path), "hidden", 1.0
    pattern = library.pattern(path)
    if rule is not None and saying is not None:
      role, weight, reading = rule.role, rule.weight, saying.axes or reading
    if saying is not None and saying.role == "skip":
      reason = saying.reason or f"by rule {saying.pattern!r}"
      written.append(LayerRule(pattern, role="skip", optional=True, reason=reason))
    elif len(shapes[path]) < 2:
      continue
    elif isinstance(reading, UnreadableError):
      unreadable.append(("/".join(path), shapes[path], reading))
    elif isinstance(reading, NeuronAxes):
      written.append(LayerRule(pattern, reading, role, weight, optional=True))
    elif isinstance(reading, str) and path[-1] not in NOT_NEURONS:
      written.append(LayerRule(pattern, role="skip", optional=True, reason=reading))
    elif rule is not None and path not in left_out:
      # Its class is not known: axes stay those of its name, or the last.
      written.append(LayerRule(pattern, None, role, weight, optional=True))
  raise_unreadable(unreadable)
  return tuple(written)


def _why_not(path, shape, readings, rule) -> str:
  """Why a parameter has no neurons, unless a rule gives it axes; or nothing."""
  if len(shape) < 2:
    return "fewer than two axes"
  if rule is not None and rule.axes is not None:
    return ""
  if isinstance(readings.get(path), str):
    return readings[path]
  return f"a {path[-1]}, not neurons" if path[-1] in NOT_NEURONS else ""


@dataclasses.dataclass(frozen=True)
class _Library:
  """How the paths of a model differ between the trees of its parameters."""

  prefix: str = ""
  suffix: str = ""

  def pattern(self, path: Path) -> str:
    optional = [f"({re.escape(x)})?" if x else "" for x in (self.prefix, self.suffix)]
    return optional[0] + re.escape("/".join(path)) + optional[1]

  def name(self, path: Path, rules: Sequence[LayerRule]) -> str:
    """The name by which the earliest rule knows a parameter; the plain one if none."""
    name = "/".join(path)
    names = (name, f"{self.prefix}{name}", f"{name}{self.suffix}")
    return next((n for rule in rules for n in names if rule.matches(n)), name)


def _read(
  model, inputs, options
) -> tuple[dict[Path, Reading], dict[Path, tuple[int, ...]], _Library]:
  """Readings by class, the shapes of all parameters, and how paths are written."""
  known_parameters, library = _reader_of(model)
  if known_parameters is None:
    raise TypeError(
      "model must be an nnx, linen or Equinox module, or the result of hk.transform, "
      f"got {type(model).__name__}; for a tree of parameters write LayerRules."
    )
  known, params = known_parameters(model, *inputs, **options)
  paths, leaves, _ = flatten(params)
  shapes = {p: tuple(x.shape) for p, x in zip(paths, leaves) if is_array(x)}
  if any(f"{path[0]}/" == library.prefix for path in shapes if path):
    library = _Library()  # A module of that name: the prefix could be it.
  return readings_of(known, shapes), shapes, library


def _reader_of(model) -> tuple[Callable | None, _Library]:
  # Only what the user has imported can have made the model.
  linen, hk = sys.modules.get("flax.linen"), sys.modules.get("haiku")
  nnx, eqx = sys.modules.get("flax.nnx"), sys.modules.get("equinox")
  if linen is not None and isinstance(model, linen.Module):
    from mhe_jax.layers import linen as reader  # noqa: PLC0415

    return reader.known_parameters, _Library(prefix="params/")
  if hk is not None and isinstance(
    model,
    hk.Transformed
    | hk.TransformedWithState
    | hk.MultiTransformed
    | hk.MultiTransformedWithState,
  ):
    from mhe_jax.layers import haiku as reader  # noqa: PLC0415

    return reader.known_parameters, _Library()
  if nnx is not None and _has(model, nnx.Module):
    from mhe_jax.layers import nnx as reader  # noqa: PLC0415

    # Checkpoints of a state have the arrays below the attribute ``value``.
    return _without_inputs(reader.known_parameters), _Library(suffix="/value")
  if eqx is not None and _has(model, eqx.Module):
    from mhe_jax.layers import equinox as reader  # noqa: PLC0415

    return _without_inputs(reader.known_parameters), _Library()
  return None, _Library()


def _has(tree, cls) -> bool:
  is_module = lambda x: isinstance(x, cls)  # noqa: E731
  return any(map(is_module, jax.tree.leaves(tree, is_leaf=is_module)))


def _without_inputs(known_parameters):
  def read(model, *inputs, **options):
    if inputs or options:
      raise TypeError(
        "example_inputs are for linen and Haiku; an nnx or Equinox module has its "
        f"parameters already, got {len(inputs) + len(options)} inputs."
      )
    return known_parameters(model), model

  return read
