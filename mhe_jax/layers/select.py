"""From a tree of parameters to matrices of neurons."""

import collections
import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mhe_jax.layers.axes import NeuronAxes
from mhe_jax.layers.names import layout_from_names
from mhe_jax.layers.nnx import is_nnx_module, layouts_of_module
from mhe_jax.layers.rules import LayerRule, check_matches, check_rules
from mhe_jax.layers.trees import flatten, is_array
from mhe_jax.sphere import compute_dtype, replicate_explicit


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


def select(params: Any, rules: Sequence[LayerRule] | None) -> Selection:
  """Decides for every leaf, from its path, shape and dtype, what it is.

  Runs on concrete, traced and abstract leaves alike, and keeps nothing between
  calls: optimizers hand over the same parameters in trees of differing form.
  """
  rules = check_rules(rules)
  paths, leaves, _ = flatten(params)
  layouts = layouts_of_module(params) if is_nnx_module(params) else {}
  shapes = {p: tuple(x.shape) for p, x in zip(paths, leaves) if is_array(x)}
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
    check_matches(rule, names, skipped)
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
  if not is_array(leaf):
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
