"""From a tree of parameters to matrices of neurons."""

import collections
import dataclasses
import difflib
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from mhe_jax.checks import check_number, check_weight
from mhe_jax.flax_layouts import (
  NeuronAxes,
  is_nnx_module,
  layout_from_names,
  layouts_of_module,
)
from mhe_jax.sphere import compute_dtype, replicate_explicit


@dataclasses.dataclass(frozen=True)
class LayerRule:
  r"""Says how the parameters whose path matches a pattern are read.

  Rules are tried in order and the first that matches a path wins; a path that
  none matches is read by the built-in rules for Flax, as a hidden layer.

  Args:
    pattern: regular expression that must match the whole path (as
      :func:`re.fullmatch`), whose keys are joined by ``/``: for example
      ``r".*/Dense_\d+/kernel"``.
    axes: which axes are neurons. ``None`` keeps the built-in reading of Flax
      parameters and takes the last axis of all others.
    role: ``"hidden"`` (half-space energy by default), ``"output"`` (the
      classifier: full-space energy) or ``"skip"``.
    weight: factor of the layer in the network's energy, finite and >= 0.

  Raises:
    TypeError: ``axes`` is not a :class:`NeuronAxes`, or ``weight`` no number.
    ValueError: the pattern does not compile, the role is unknown, or the weight
      is negative or not finite.

  Example:
    >>> import jax.numpy as jnp
    >>> from mhe_jax import LayerRule, NeuronAxes, neuron_matrices
    >>> equinox_like = {"layers": [{"weight": jnp.ones((8, 3)), "bias": None}]}
    >>> rules = [LayerRule(r".*/weight", NeuronAxes(0))]
    >>> {k: v.shape for k, v in neuron_matrices(equinox_like, rules).items()}
    {'layers/0/weight': (8, 3)}
  """

  pattern: str
  axes: NeuronAxes | None = None
  role: Literal["hidden", "output", "skip"] = "hidden"
  weight: float = 1.0

  def __post_init__(self):
    try:
      re.compile(self.pattern)
    except (re.error, TypeError) as error:
      raise ValueError(
        f"pattern {self.pattern!r} is not a regular expression: {error}."
      ) from error
    if self.axes is not None and not isinstance(self.axes, NeuronAxes):
      raise TypeError(f"axes must be NeuronAxes or None, got {self.axes!r}.")
    if self.role not in ("hidden", "output", "skip"):
      raise ValueError(f"role must be 'hidden', 'output' or 'skip', got {self.role!r}.")
    # Through check_number, since a rule's weight may not be traced.
    check_weight("weight", check_number("weight", self.weight))


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

  def matrix(self) -> jax.Array:
    """Its neurons ``[*batch, n, d]``."""
    return self.axes.to_matrix(replicate_explicit(jnp.asarray(self.leaf)))


@dataclasses.dataclass(frozen=True)
class Selection:
  """What the rules make of a tree."""

  layers: tuple[Layer, ...]
  skipped: dict[str, str]  # path -> reason
  paths: list[tuple[str, ...]]  # Of all leaves, in the order of `flatten`.


def neuron_matrices(
  params: Any, rules: Sequence[LayerRule] | None = None
) -> dict[str, jax.Array]:
  """The neurons of every layer, one per row.

  Args:
    params: any tree of arrays: dicts, ``FrozenDict``, ``nnx.State``, an nnx or
      Equinox module, boxed parameters. ``None``, ``optax.MaskedNode`` and leaves
      that are not arrays are passed over.
    rules: how to read paths that the built-in rules for Flax do not know, or
      read otherwise; see :class:`LayerRule`. Norm scales, biases and layers of
      one neuron are skipped; :func:`mhe_jax.describe` lists them with the reason.

  Returns:
    ``{path: [*batch, n, d]}`` in the order of the tree, of the parameters' dtype
    and not normalized.

  Raises:
    TypeError: a rule gives axes for a parameter that is not a real float array.
    ValueError: nothing in the tree holds neurons; a rule matches no path, or
      only parameters without neurons; an axis is out of range. The message
      names the path.

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


def flatten(params: Any) -> tuple[list[tuple[str, ...]], list, Any]:
  """Paths, leaves and structure of a tree; an nnx module stands for its Params.

  None and MaskedNode count as leaves: trees of updates have them where the
  parameters have arrays, and their paths are still known to the rules.
  """
  if is_nnx_module(params):
    from flax import nnx  # noqa: PLC0415

    params = nnx.state(params, nnx.Param)
  leaves, treedef = jax.tree.flatten(params, is_leaf=_is_hole)
  paths = []
  for path, node in jax.tree_util.tree_flatten_with_path(
    params, is_leaf=lambda x: _is_hole(x) or _is_box(x)
  )[0]:
    paths += [_keys(path)] * len(jax.tree.leaves(node, is_leaf=_is_hole))
  return paths, leaves, treedef


def _is_hole(x) -> bool:
  return x is None or isinstance(x, optax.MaskedNode)


def _is_box(x) -> bool:
  """Whether x is an nnx variable or a boxed linen parameter around an array.

  Their paths end at the box: some trees of the same parameters have an attribute
  ``value`` below it and others do not, and the same optimizer meets both.
  """
  nnx, meta = sys.modules.get("flax.nnx"), sys.modules.get("flax.core.meta")
  return (nnx is not None and isinstance(x, nnx.Variable)) or (
    meta is not None and isinstance(x, meta.AxisMetadata)
  )


def select(params: Any, rules: Sequence[LayerRule] | None) -> Selection:
  """Decides for every leaf, from its path, shape and dtype, what it is.

  Runs on concrete, traced and abstract leaves alike, and keeps nothing between
  calls: optimizers hand over the same parameters in trees of differing form.
  """
  rules = check_rules(rules)
  paths, leaves, _ = flatten(params)
  layouts = layouts_of_module(params) if is_nnx_module(params) else {}
  shapes = {p: tuple(x.shape) for p, x in zip(paths, leaves) if _is_array(x)}
  layers, skipped = [], {}
  for index, (path, leaf) in enumerate(zip(paths, leaves)):
    name = "/".join(path)
    rule = next((r for r in rules if re.fullmatch(r.pattern, name)), None)
    try:
      axes = _read(path, leaf, rule, shapes, layouts)
    except (TypeError, ValueError) as error:
      raise type(error)(f"parameter {name!r}: {error}.") from None
    if isinstance(axes, str):
      skipped[name] = axes
    else:
      role, weight = (rule.role, rule.weight) if rule else ("hidden", 1.0)
      layers.append(Layer(name, index, leaf, axes, role, float(weight)))
  names = ["/".join(path) for path in paths]
  for name, count in collections.Counter(layer.path for layer in layers).items():
    if count > 1:
      raise ValueError(f"params has {count} parameters with the path {name!r}.")
  for rule in rules:
    _check_matches(rule, names, skipped)
  if not layers:
    listing = "; ".join(f"{k!r}: {v}" for k, v in list(skipped.items())[:8])
    raise ValueError(
      "params holds no neurons; give rules=[LayerRule(pattern, NeuronAxes(...))]"
      f" that match your layers. Parameters: {listing or 'none'}."
    )
  return Selection(tuple(layers), skipped, paths)


def _read(path, leaf, rule, shapes, layouts) -> NeuronAxes | str:
  """The axes of one leaf, or the reason why it is skipped."""
  if rule is not None and rule.role == "skip":
    return f"by rule {rule.pattern!r}"
  if isinstance(leaf, optax.MaskedNode):
    return "masked"
  if leaf is None:
    return "None"
  if not _is_array(leaf):
    return f"not an array but {type(leaf).__name__}"
  explicit = rule.axes if rule is not None else None
  if not jnp.issubdtype(leaf.dtype, jnp.floating):
    if explicit is not None:
      raise TypeError(f"must be a real floating-point array, got {leaf.dtype}")
    return f"dtype {leaf.dtype}"
  shape = shapes[path]
  if explicit is not None:
    axes = explicit
  elif path in layouts:
    axes = layouts[path]
  elif path[-1:] in (("bias",), ("scale",)):
    axes = f"a {path[-1]}, not neurons"
  elif rule is not None and path[-1:] not in (("kernel",), ("embedding",)):
    axes = NeuronAxes() if len(shape) >= 2 else "fewer than two axes"
  else:
    axes = layout_from_names(path, shape, shapes.get((*path[:-1], "bias")))
  if isinstance(axes, str):
    return axes
  try:
    n, num_weights = axes.matrix_shape(shape)[-2:]
  except ValueError as error:
    raise ValueError(f"{error} for shape {shape}") from None
  if num_weights == 0:
    return "no weights"
  return axes if n >= 2 else f"{n} neuron{'s' * (n != 1)}: no pairs"


def check_rules(rules) -> tuple[LayerRule, ...]:
  """Rules as a tuple; a TypeError unless they are a sequence of LayerRule."""
  if rules is None:
    return ()
  checked = tuple(rules) if isinstance(rules, Iterable) else (rules,)
  if isinstance(rules, LayerRule) or not all(
    isinstance(rule, LayerRule) for rule in checked
  ):
    raise TypeError(f"rules must be a sequence of LayerRule, got {rules!r}.")
  return checked


def _check_matches(rule, names, skipped):
  matched = [name for name in names if re.fullmatch(rule.pattern, name)]
  masked = [name for name, reason in skipped.items() if reason == "masked"]
  if not matched and any(_may_match_below(rule.pattern, name) for name in masked):
    return  # A mask that is a prefix of the tree has one node for a whole branch.
  if not matched:
    close = difflib.get_close_matches(rule.pattern, names, n=5, cutoff=0.0)
    raise ValueError(
      f"LayerRule pattern {rule.pattern!r} matches no path (it must match the "
      f"whole path); closest: {close}."
    )
  reasons = {name: skipped.get(name) for name in matched}
  # Trees of a partition have holes where another part has the parameter.
  excused = rule.role == "skip" or {"masked", "None", None} & {*reasons.values()}
  if not excused:
    raise ValueError(
      f"LayerRule pattern {rule.pattern!r} matches no neurons: {reasons}."
    )


def _may_match_below(pattern, branch) -> bool:
  """Whether a beginning of the pattern matches up to the keys below a branch."""
  for end in range(1, len(pattern) + 1):
    try:
      if re.fullmatch(pattern[:end], branch + "/"):
        return True
    except re.error:  # Cut inside a group or an escape.
      continue
  return False


def _is_array(leaf) -> bool:
  return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def _keys(path) -> tuple[str, ...]:
  return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)
