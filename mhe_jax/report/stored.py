"""What is beside a tensor: all names and shapes of a checkpoint, in one notation.

Libraries store one layer differently: a dense one as (out, in) or as (in, out), a
convolution with its window in front or behind. Here all are as PyTorch has them, so
that a layer is read in one way, whoever wrote it.
"""

import collections
import dataclasses
import functools
import re
from typing import Any

from mhe_jax.layers.axes import NeuronAxes
from mhe_jax.layers.names import UnreadableError, layout_from_names

Shape = tuple[int, ...]
_FLAX = re.compile(r"(.*\.)?(kernel|embedding)(\.value)?")
EMBEDDING = re.compile(r"embed|(^|_)emb(_|s?$)|^w[tp]e$|^shared$")
EXPERTS = re.compile(r"experts|switch_(mlp|glu)")


def dotted(name: str) -> str:
  """A name with dots between its keys, as PyTorch has it; Keras adds ``:0``."""
  return name.replace("/", ".").removesuffix(":0")


def last_module(name: str) -> str:
  """The module of a parameter, without those that it is in."""
  return name.rsplit(".", 2)[-2] if name.count(".") else ""


@dataclasses.dataclass(frozen=True)
class Stored:
  """Names and shapes of a checkpoint, and what its files say of it.

  Attributes:
    shapes: of all tensors as PyTorch has them: ``weight`` is (out, in, window...).
    orders: of those that are stored otherwise, the axes in that order.
    names: the names in ``shapes`` of tensors that are stored under others.
    axes: of the weights of Flax, or why they have none, or why nobody can tell.
    as_stored: shapes as they are stored.
    config: of ``config.json``.
    writer: who wrote the file, as ``"pt"``, ``"pd"``, ``"mlx"``; empty if unsaid.
  """

  shapes: dict[str, Shape]
  orders: dict[str, Shape]
  names: dict[str, str]
  axes: dict[str, NeuronAxes | str | UnreadableError]
  as_stored: dict[str, Shape]
  config: dict[str, Any]
  writer: str = ""

  @classmethod
  def read(
    cls, shapes: dict[str, Shape], config: dict[str, Any], writer: str = ""
  ) -> "Stored":
    """Of shapes by name as stored, with slashes or else dots between its keys."""
    as_stored = {dotted(name): shape for name, shape in shapes.items()}
    axes = _axes_of_flax(shapes)
    in_out = _is_in_out(as_stored, writer)
    canonical, orders, names = dict(as_stored), {}, {}
    for name, shape in as_stored.items():
      found = axes.get(name)
      order = _order(name, shape, found, writer, in_out)
      if isinstance(found, NeuronAxes) and (order or found == NeuronAxes(-2)):
        key = re.sub(r"(kernel|embedding)(\.value)?$", "weight", name)
        if key in as_stored:
          continue
        del canonical[name]
        names[name] = key
      if order is not None:
        orders[name] = order
      alike = shape if order is None else tuple(shape[axis] for axis in order)
      canonical[names.get(name, name)] = alike
    return cls(canonical, orders, names, axes, as_stored, config, writer)

  def number(self, *names: str) -> int | None:
    """The first of these settings that is a whole number, of the part on attention too.

    Older files call the number of heads otherwise than newer ones.
    """
    attention = self.config.get("attn_config")
    for config in (self.config, attention if isinstance(attention, dict) else {}):
      for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
          return value
    return None

  @functools.cached_property
  def names_below(self) -> dict[str, list[str]]:
    """Names in ``shapes`` below every prefix that ends in a dot; below "", all."""
    below = collections.defaultdict(list)
    for name in self.shapes:
      keys = name.split(".")
      for end in range(len(keys)):
        below["".join(f"{key}." for key in keys[:end])].append(name)
    return below

  @property
  def model_type(self) -> str:
    """The family of the model, as ``"phi3"``; empty if nothing says it."""
    return str(self.config.get("model_type", ""))


def _axes_of_flax(shapes):
  paths = {}
  for name in shapes:
    if _FLAX.fullmatch(dotted(name)):
      path = tuple(name.removesuffix(":0").split("/" if "/" in name else "."))
      paths[dotted(name)] = _strip_value(path)
  if not paths:
    return {}
  by_path = {}
  for name, shape in shapes.items():
    path = tuple(name.removesuffix(":0").split("/" if "/" in name else "."))
    by_path[_strip_value(path)] = shape
  axes = {}
  for name, path in paths.items():
    try:
      axes[name] = layout_from_names(path, by_path)
    except UnreadableError as error:
      axes[name] = error
  return axes


def _strip_value(path):
  """Checkpoints of nnx have arrays below an attribute ``value``."""
  return path[:-1] if path[-1] == "value" and path[-2:-1] != () else path


def _is_in_out(shapes: dict[str, Shape], writer: str) -> dict[str, bool]:
  """Of dense layers, whether they are stored as (in, out): Paddle's, or by the biases.

  Those without a bias that tells are as all others are, if these agree.
  """
  tables = {
    shape for name, shape in shapes.items() if EMBEDDING.search(last_module(name))
  }
  dense = [
    name
    for name, shape in shapes.items()
    if len(shape) == 2
    and shape not in tables  # An output layer that is tied to one, and has its rows.
    and re.fullmatch(r"(.*\.)?weight", name)
    and not EMBEDDING.search(last_module(name))
    and not _OF_GPT2.fullmatch(last_module(name))
  ]
  told = {}
  for name in dense:
    rows, columns = shapes[name]
    bias = shapes.get(f"{name.removesuffix('weight')}bias", ())
    if rows != columns and bias in ((rows,), (columns,)):
      told[name] = bias == (columns,)
  all_ = writer == "pd" or (bool(told) and all(told.values()))
  return {name: told.get(name, all_) for name in dense}


# Which have their own votes, since models have both orders of these.
_OF_GPT2 = re.compile(r"c_(attn|fc|proj|enc_kv)|q_attn")


def _order(name, shape, axes, writer, in_out) -> Shape | None:
  """The axes of a tensor in PyTorch's order, if they are stored in another."""
  ndim = len(shape)
  if axes is not None:
    is_plain = axes == NeuronAxes(-1) and ndim >= 2
    return (ndim - 1, ndim - 2, *range(ndim - 2)) if is_plain else None
  if not re.fullmatch(r"(.*\.)?weight", name) or ndim < 2:
    return None
  if in_out.get(name):
    return (1, 0)
  if writer == "mlx" and ndim > 2 and not EXPERTS.search(name):
    return (0, ndim - 1, *range(1, ndim - 1))
  return None
