"""The rules of a model, read from the classes of its modules."""

import dataclasses
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax

from mhe_jax.layers.axes import NeuronAxes
from mhe_jax.layers.classes import Path, Reading, readings_of
from mhe_jax.layers.names import UnreadableError
from mhe_jax.layers.rules import LayerRule, check_matches, check_rules, winner
from mhe_jax.layers.select import raise_unreadable
from mhe_jax.layers.trees import flatten, is_array, is_nnx_module


def layer_rules(
  model: Any, *example_inputs: Any, rules: Sequence[LayerRule] = ()
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
  readings, shapes, library = _read(model, example_inputs)
  # Every parameter under the name that a rule of the user's knows it by.
  names = {
    path: next((n for n in library.names(path) if winner(rules, n)), "/".join(path))
    for path in shapes
  }
  won = {path: winner(rules, name) for path, name in names.items()}
  left_out = {
    path: why
    for path, rule in won.items()
    if (why := _why_not(path, shapes[path], readings, rule))
  }
  check_matches(rules, list(names.values()), {names[p]: left_out[p] for p in left_out})
  written, unreadable, left = [], [], []
  for path, rule in won.items():
    reading = readings.get(path)
    if rule is not None and (rule.role == "skip" or rule.axes is not None):
      left.append(rule)  # It says all itself.
    elif isinstance(reading, UnreadableError):
      unreadable.append(("/".join(path), shapes[path], reading))
    elif isinstance(reading, NeuronAxes):
      role, weight = (rule.role, rule.weight) if rule else ("hidden", 1.0)
      pattern = library.pattern(path)
      written.append(LayerRule(pattern, reading, role, weight, optional=True))
    elif isinstance(reading, str) and path[-1] not in _NOT_NEURONS:
      pattern = library.pattern(path)
      written.append(LayerRule(pattern, role="skip", optional=True, reason=reading))
    elif rule is not None and path not in left_out:
      left.append(rule)  # Of a parameter whose class is not known.
  raise_unreadable(unreadable)
  # Those written are of one parameter each, of which no rule left says anything.
  return (*written, *(rule for rule in rules if rule in left))


_NOT_NEURONS = ("bias", "scale")


def _why_not(path, shape, readings, rule) -> str:
  """Why a parameter has no neurons, unless a rule gives it axes; or nothing."""
  if len(shape) < 2:
    return "fewer than two axes"
  if rule is not None and rule.axes is not None:
    return ""
  if isinstance(readings.get(path), str):
    return readings[path]
  return f"a {path[-1]}, not neurons" if path[-1] in _NOT_NEURONS else ""


@dataclasses.dataclass(frozen=True)
class _Library:
  """How the paths of a model differ between the trees of its parameters."""

  prefix: str = ""
  suffix: str = ""

  def pattern(self, path: Path) -> str:
    optional = [f"({re.escape(x)})?" if x else "" for x in (self.prefix, self.suffix)]
    return optional[0] + re.escape("/".join(path)) + optional[1]

  def names(self, path: Path) -> list[str]:
    name = "/".join(path)
    return list(dict.fromkeys([name, f"{self.prefix}{name}"]))


def _read(
  model, inputs
) -> tuple[dict[Path, Reading], dict[Path, tuple[int, ...]], _Library]:
  """Readings by class, the shapes of all parameters, and how paths are written."""
  reader, library = _reader_of(model)
  if reader is None:
    raise TypeError(
      "model must be an nnx, linen or Equinox module, or the result of hk.transform, "
      f"got {type(model).__name__}; for a tree of parameters write LayerRules."
    )
  known, params = reader(model, *inputs)
  paths, leaves, _ = flatten(params)
  shapes = {p: tuple(x.shape) for p, x in zip(paths, leaves) if is_array(x)}
  return readings_of(known, shapes), shapes, library


def _reader_of(model) -> tuple[Callable | None, _Library]:
  # Only what the user has imported can have made the model.
  linen, hk = sys.modules.get("flax.linen"), sys.modules.get("haiku")
  if is_nnx_module(model):
    from mhe_jax.layers import nnx  # noqa: PLC0415

    # Checkpoints of a state have the arrays below the attribute ``value``.
    return _without_inputs(nnx.known_parameters), _Library(suffix="/value")
  if linen is not None and isinstance(model, linen.Module):
    from mhe_jax.layers import linen as reader  # noqa: PLC0415

    return reader.known_parameters, _Library(prefix="params/")
  if hk is not None and isinstance(model, (hk.Transformed, hk.TransformedWithState)):
    from mhe_jax.layers import haiku as reader  # noqa: PLC0415

    return reader.known_parameters, _Library()
  eqx = sys.modules.get("equinox")
  is_module = lambda x: eqx is not None and isinstance(x, eqx.Module)  # noqa: E731
  if any(map(is_module, jax.tree.leaves(model, is_leaf=is_module))):
    from mhe_jax.layers import equinox as reader  # noqa: PLC0415

    return _without_inputs(reader.known_parameters), _Library()
  return None, _Library()


def _without_inputs(known_parameters):
  def read(model, *inputs):
    if inputs:
      raise TypeError(
        "example_inputs are for linen and Haiku; an nnx or Equinox module has its "
        f"parameters already, got {len(inputs)} inputs."
      )
    return known_parameters(model), model

  return read
