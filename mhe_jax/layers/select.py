"""From a tree of parameters to matrices of neurons."""

import collections
import dataclasses
import math
import re
import sys
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mhe_jax.arrays import compute_dtype, replicate_explicit
from mhe_jax.layers.axes import NeuronAxes
from mhe_jax.layers.classes import Path, Reading, readings_of
from mhe_jax.layers.names import (
  NOT_NEURONS,
  WEIGHTS,
  UnreadableError,
  layout_from_names,
)
from mhe_jax.layers.rules import LayerRule, Match, check_matches, check_rules, match
from mhe_jax.layers.trees import flatten, is_array


@dataclasses.dataclass(frozen=True)
class Layer:
  """A parameter that holds neurons, and how to read them."""

  path: str
  index: int  # Of its leaf, in the order of `flatten`.
  leaf: Any  # Array of any kind: concrete, traced, or abstract.
  axes: NeuronAxes
  role: str
  weight: float

  @property
  def compute_dtype(self) -> jnp.dtype:
    """The dtype in which its energy is computed."""
    return compute_dtype(self.leaf.dtype)

  def in_half_space(self, half_space: bool) -> bool:
    """Whether antipodes repel: of hidden layers alone, where that is asked for.

    A neuron and its negative are one feature; two opposite classes are none the worse
    (the paper, section 3.2).
    """
    return half_space and self.role == "hidden"

  def matrix(self) -> jax.Array:
    """Its neurons ``[*batch, n, d]``."""
    leaf = jnp.asarray(self.leaf)
    _, neurons, features = self.axes.split(leaf.shape)
    is_split = len(neurons) > 1 or self.axes.groups > 1
    # Axes that are sharded by their type cannot be merged with others, or divided.
    merged = neurons * is_split + features * (len(features) > 1)
    return self.axes.to_matrix(replicate_explicit(leaf, merged))


@dataclasses.dataclass(frozen=True)
class Selection:
  """What the rules make of a tree."""

  layers: tuple[Layer, ...]
  skipped: dict[str, str]  # path -> reason
  unread: tuple[str, ...]  # Of these those that may hold neurons, for all we know.
  paths: list[tuple[str, ...]]  # Of all leaves, in the order of `flatten`.


def neuron_matrices(
  params: Any, rules: Sequence[LayerRule] | None = None
) -> dict[str, jax.Array]:
  """The neurons of every layer, one per row.

  Args:
    params: any tree of arrays: dicts, nested or of ``flatten_dict``,
      ``FrozenDict``, ``nnx.State``, an nnx or Equinox module, boxed parameters.
      ``None``, ``optax.MaskedNode`` and leaves that are not arrays are passed over.
    rules: how to read paths that neither the class of their module nor their name
      tells, or read otherwise; see :class:`LayerRule`, and
      :func:`mhe_jax.layer_rules`, which writes them. Norm scales, biases and layers
      of one neuron are skipped; :func:`mhe_jax.describe` lists them with the reason.

  Returns:
    ``{path: [*batch, n, d]}`` in the order of the tree, of the parameters' dtype
    and not normalized.

  Raises:
    TypeError: a rule gives axes for a parameter that is not a real float array.
    ValueError: nothing in the tree holds neurons; layers whose axes are a choice,
      all in one message, with the rules that would say which; a rule matches no
      path, or never wins, or only matches parameters without neurons; an axis is out
      of range. The message names the path.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> import flax.linen as nn
    >>> from mhe_jax import neuron_matrices
    >>> model = nn.Sequential([nn.Conv(16, (3, 3)), nn.relu, nn.Dense(10)])
    >>> variables = model.init(jax.random.key(0), jnp.ones((1, 8, 8, 3)))
    >>> for path, w in neuron_matrices(variables["params"]).items():
    ...   print(path, w.shape)
    layers_0/kernel (16, 27)
    layers_2/kernel (10, 16)
  """
  return {layer.path: layer.matrix() for layer in select(params, rules).layers}


def select(params: Any, rules: Sequence[LayerRule] | None) -> Selection:
  """Decides for every leaf, from its path, shape and dtype, what it is.

  Runs on concrete, traced and abstract leaves alike, and keeps nothing between
  calls: optimizers hand over the same parameters in trees of differing form.
  """
  rules = check_rules(rules)
  paths, leaves, _ = flatten(params)
  bare = [_strip_value(path) for path in paths]
  shapes = {p: tuple(x.shape) for p, x in zip(bare, leaves) if is_array(x)}
  masked = {p for p, x in zip(bare, leaves) if isinstance(x, optax.MaskedNode)}
  reader = _Reader(shapes, masked, _readings_by_class(params, shapes))
  names = ["/".join(path) for path in paths]
  matches = {name: match(rules, name) for name in names}
  layers, skipped, unread, unreadable = [], {}, [], []
  for index, (path, leaf) in enumerate(zip(bare, leaves)):
    name = names[index]
    found = matches[name]
    try:
      axes = reader.read(path, leaf, found)
    except UnreadableError as error:
      unreadable.append((name, shapes[path], error))
      continue
    except (TypeError, ValueError) as error:
      raise type(error)(f"parameter {name!r}: {error}.") from None
    if isinstance(axes, str):
      skipped[name] = axes
      if reader.is_unread(path, leaf, found):
        unread.append(name)
    else:
      weight = found.winner.weight if found.winner else 1.0
      role = found.role or "hidden"
      layers.append(Layer(name, index, leaf, axes, role, weight))
  for name, count in collections.Counter(layer.path for layer in layers).items():
    if count > 1:
      raise ValueError(f"params has {count} parameters with the path {name!r}.")
  check_matches(rules, matches, skipped)
  raise_unreadable(unreadable)
  if not layers:
    listing = "; ".join(f"{k!r}: {v}" for k, v in list(skipped.items())[:8])
    raise ValueError(
      "params holds no neurons; give rules=[LayerRule(pattern, NeuronAxes(...))]"
      f" that match your layers. Parameters: {listing or 'none'}."
    )
  return Selection(tuple(layers), skipped, tuple(unread), paths)


def raise_unreadable(
  params: Sequence[tuple[str, tuple[int, ...], UnreadableError]],
) -> None:
  """One ValueError for all parameters that cannot be read, with rules to paste.

  Args:
    params: path, shape, and what was found, of each.
  """
  if not params:
    return
  lines = []
  for path, shape, error in params:
    rules = []
    for axes in error.candidates:
      try:
        *batch, n, d = axes.matrix_shape(shape)
      except ValueError:
        continue
      sets = f"{math.prod(batch)} x " if batch else ""
      rules.append(f"{LayerRule(re.escape(path), axes)} ({sets}{n} neurons of {d})")
    lines.append(f"  {path!r}, shape {shape}, {error}: {' or '.join(rules)}")
  raise ValueError(
    f"params has {len(params)} parameter{'s' * (len(params) > 1)} whose neurons could "
    "be on several axes, and the wrong ones would be pushed apart. Pass "
    "rules=layer_rules(function, params, *inputs), which reads what your function does "
    "with them, or one of these rules for each, or LayerRule(..., role='skip'):\n"
    + "\n".join(lines)
  )


def warn_of_unread(selection: Selection) -> None:
  """Tells once of parameters that may hold neurons and get no energy.

  A regularizer of 2 of 18 matrices must not look like one of all.
  """
  if not selection.unread or selection.unread in _told:
    return
  _told.add(selection.unread)
  shown = ", ".join(map(repr, selection.unread[:6]))
  more = ", ..." if len(selection.unread) > 6 else ""
  total = len(selection.layers) + len(selection.unread)
  warnings.warn(
    f"{len(selection.unread)} of {total} parameters that may hold neurons have no "
    "hyperspherical energy, because neither the program, a class, a name nor a rule "
    f"says what they are: {shown}{more}. Pass rules=layer_rules(function, params, "
    "*inputs), or a LayerRule with axes, or with role='skip', which silences this.",
    stacklevel=4,
  )


_told: set[tuple[str, ...]] = set()


def _readings_by_class(params, shapes) -> dict[Path, Reading]:
  """Of the modules of nnx and Equinox, which keep their classes in a tree."""
  known = []
  if "flax.nnx" in sys.modules:
    from mhe_jax.layers import nnx  # noqa: PLC0415

    known += nnx.known_parameters(params)
  if "equinox" in sys.modules:
    from mhe_jax.layers import equinox  # noqa: PLC0415

    known += equinox.known_parameters(params)
  return readings_of(known, shapes)


def _strip_value(path: Path) -> Path:
  """A path without the ``value`` that checkpoints of an ``nnx.State`` put below it."""
  below = path[-1:] == ("value",) and path[-2:-1] != ()
  return path[:-1] if below and path[-2] in (*NOT_NEURONS, *WEIGHTS) else path


@dataclasses.dataclass(frozen=True)
class _Reader:
  """Reads the parameters of one tree."""

  shapes: Mapping[Path, tuple[int, ...]]
  masked: Collection[Path]
  by_class: Mapping[Path, Reading]

  def read(self, path, leaf, found: Match) -> NeuronAxes | str:
    """The axes of one leaf, or the reason why it is skipped."""
    rule = found.reader
    if rule is not None and found.is_skipped:
      return rule.reason or f"by rule {rule.pattern!r}"
    if isinstance(leaf, optax.MaskedNode):
      return "masked"
    if leaf is None:
      return "None"
    if not is_array(leaf):
      return f"not an array but {type(leaf).__name__}"
    explicit = rule.axes if rule is not None else None
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
      if explicit is not None:
        raise TypeError(f"must be a real floating-point array, got {leaf.dtype}")
      return f"dtype {leaf.dtype}"
    shape = self.shapes[path]
    if explicit is not None:
      axes = explicit if len(shape) >= 2 else "fewer than two axes"
    else:
      axes = self._read_name(path, rule)
    if isinstance(axes, str):
      return axes
    try:
      n, num_weights = axes.matrix_shape(shape)[-2:]
    except ValueError as error:
      raise ValueError(f"{error} for shape {shape}") from None
    if num_weights == 0:
      return "no weights"
    return axes if n >= 2 else f"{n} neuron{'s' * (n != 1)}: no pairs"

  def _read_name(self, path, rule):
    if path in self.by_class:
      reading = self.by_class[path]
      if isinstance(reading, UnreadableError):
        raise reading
      return reading
    if path and path[-1] in NOT_NEURONS:
      return f"a {path[-1]}, not neurons"
    if path[-2:-1] == ("scales",):  # As nnx.WeightNorm has them, by what they scale.
      return "a scale, not neurons"
    if rule is not None and (not path or path[-1] not in WEIGHTS):
      return NeuronAxes() if len(self.shapes[path]) >= 2 else "fewer than two axes"
    return layout_from_names(path, self.shapes, self.masked)

  def is_unread(self, path, leaf, found: Match) -> bool:
    """Whether a leaf that is skipped could be neurons, and nobody said otherwise."""
    if found.role == "unread":
      return is_array(leaf)
    if found.winner is not None or path in self.by_class or path not in self.shapes:
      return False
    shape = self.shapes[path]
    if len(shape) < 2 or max(shape) == math.prod(shape):  # A vector, or one number.
      return False
    is_known = bool(path) and path[-1] in (*NOT_NEURONS, *WEIGHTS)
    return not is_known and jnp.issubdtype(leaf.dtype, jnp.floating)
