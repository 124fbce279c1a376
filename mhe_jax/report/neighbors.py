"""What the tensors beside a weight say of it: who takes what it gives.

That a matrix is one layer, and not several in one tensor, is excluded by no name. But
a layer that takes all of its outputs does: of two fused halves, it would take a half.
"""

import re
from collections.abc import Iterator

from mhe_jax.layers.axes import NeuronAxes
from mhe_jax.report.parts import ASSUMED, BY_CONFIG, BY_NEIGHBORS
from mhe_jax.report.stored import EMBEDDING, Stored, last_module

_NORM = re.compile(r"norm\w*$|^ln(_|\d|$)|^bn\d*$", re.IGNORECASE)
# Of the residual stream, which all blocks add to.
_WIDTHS = ("hidden_size", "d_model", "n_embd", "dim", "embed_dim", "hidden_dim")
_COUNTS = (
  *("vocab_size", "num_labels", "num_classes"),
  *("num_experts", "num_local_experts", "n_routed_experts"),
)
# Projections that stand beside each other are not in one tensor.
_PROJECTIONS = (
  ("q_proj", "k_proj", "v_proj"),
  ("query", "key", "value"),
  ("q", "k", "v"),
  ("wq", "wk", "wv"),
  ("to_q", "to_k", "to_v"),
  ("linear_q", "linear_k", "linear_v"),
  ("q_lin", "k_lin", "v_lin"),
)


def evidence(name: str, stored: Stored, out: int | None = None) -> str:
  """What says that a weight is one layer: the config, its neighbors, or nothing.

  Args:
    name: as in ``stored.shapes``.
    stored: what is beside it.
    out: how much it gives; the first axis by default.
  """
  out = stored.shapes[name][0] if out is None else out
  widths = {stored.number(key) for key in (*_WIDTHS, *_COUNTS)}
  if out in widths:
    return BY_CONFIG
  for scope in _scopes(name, stored):
    if out in _taken(scope, name, stored).values():
      return BY_NEIGHBORS
  if out in _widths_of_embeddings(stored) or _is_beside_its_like(name, stored):
    return BY_NEIGHBORS
  return ASSUMED


def fraction_taken(name: str, stored: Stored) -> tuple[int, str]:
  """How many times as much a weight gives as the layer takes that closes its branch.

  A branch maps a stream to something wider, and that back: what maps back takes all
  that is given, or a half of it if there is a gate, or a third.

  Returns:
    The number, 2, 3 or 4, and the module that takes the part; 1 and nothing if all is
    taken, or nobody is there.
  """
  out, size = stored.shapes[name][:2]
  for scope in _scopes(name, stored):
    taken = _taken(scope, name, stored)
    if out in taken.values():
      return 1, ""
    for module, inputs in taken.items():
      outputs = next(iter(stored.shapes.get(f"{module}.weight", ())), 0)
      if outputs == size and inputs in (out / 2, out / 3, out / 4):
        return out // inputs, module
  return 1, ""


def arrives(name: str, stored: Stored) -> bool:
  """Whether something gives exactly what a convolution takes: then it has no groups."""
  inputs = stored.shapes[name][1]
  if inputs in (3, 4) or inputs in {stored.number(key) for key in _WIDTHS}:
    return True  # Of images.
  *keys, _ = name.split(".")
  while keys:
    keys.pop()
    scope = "".join(f"{key}." for key in keys)
    for other in stored.names_below.get(scope, ()):
      shape = stored.shapes[other]
      module, _, last = other.rpartition(".")
      is_layer = len(shape) > 1 and last == "weight"
      is_norm_ = len(shape) == 1 and last in ("running_mean", "weight")
      if other == name or not (is_layer or is_norm_):
        continue
      if shape[:1] == (inputs,) and (is_layer or last != "weight" or is_norm(module)):
        return True
  return False


def _scopes(name: str, stored: Stored) -> Iterator[str]:
  """Prefixes of the modules around a parameter, up to the block of a stack."""
  *keys, _ = name.split(".")  # Of the module itself.
  while keys:
    keys.pop()
    scope = "".join(f"{key}." for key in keys)
    yield scope
    if keys and keys[-1].isdigit() and len(_taken(scope, name, stored)) > 0:
      return


def _taken(scope: str, name: str, stored: Stored) -> dict[str, int]:
  """Modules below a scope, and how many inputs each takes; not that of the name."""
  taken = {}
  for other in stored.names_below.get(scope, ()):
    module, _, last = other.rpartition(".")
    shape = stored.shapes[other]
    if other == name:
      continue
    if other in stored.axes:  # Flax's, of several axes.
      if isinstance(axes := stored.axes[other], NeuronAxes):
        taken[module] = axes.matrix_shape(shape)[-1]
    elif len(shape) == 1:
      if last == "running_mean" or (last in ("weight", "scale") and is_norm(module)):
        taken[module] = shape[0]
    elif (
      last in ("weight", "weight_ih_l0")
      and len(shape) > 1
      and shape[1] > 1
      and not EMBEDDING.search(last_module(other))
    ):
      taken[module] = shape[1]
  return taken


def is_norm(module: str) -> bool:
  """Whether a module is called a norm."""
  return _NORM.search(module.rpartition(".")[2]) is not None


def _widths_of_embeddings(stored: Stored) -> set[int]:
  return {
    shape[1]
    for name, shape in stored.shapes.items()
    if len(shape) == 2
    and name.endswith("weight")
    and EMBEDDING.search(last_module(name))
  }


def _is_beside_its_like(name: str, stored: Stored) -> bool:
  """Whether it is a query, key or value, and the others are beside it."""
  module = last_module(name)
  prefix = name.removesuffix(f"{module}.weight")
  for names in _PROJECTIONS:
    if module in names:
      shapes = [stored.shapes.get(f"{prefix}{other}.weight") for other in names]
      if None in shapes:
        continue
      query, key, value = (shape[0] for shape in shapes if shape)
      return key == value if module != names[0] else query == key == value
  return False
