"""The parameters of linen modules, by class, seen while they are initialized."""

from typing import Any

import flax.linen as nn
from flax.linen import recurrent

from mhe_jax.layers.axes import NeuronAxes
from mhe_jax.layers.classes import (
  Known,
  Path,
  abstract_init,
  convolution,
  dense,
  einsum,
  embedding,
  with_gates,
)


def known_parameters(
  model: nn.Module, *inputs: Any, **options: Any
) -> tuple[list[Known], Any]:
  """Those of the modules of linen and of their subclasses, and the tree of shapes.

  Inside lifted transformations (``nn.scan``, ``nn.vmap``) a module sees the shapes
  of one layer, and an interceptor of its methods sees them too.
  """
  known: dict[Path, Known] = {}

  def record(next_method, args, kwargs, context):
    result = next_method(*args, **kwargs)
    module = context.module
    if module.scope is None:
      return result
    params = nn.meta.unbox(dict(module.variables.get("params", {})))
    shapes = {name: tuple(x.shape) for name, x in params.items() if hasattr(x, "shape")}
    for param in _parameters_of(module, shapes, args, kwargs):
      # The first to return is the innermost: a lifted module calls itself.
      known.setdefault(param.path, param)
    if isinstance(module, nn.ConvLSTMCell):
      for name in ("ih", "hh"):
        kernel = (*module.path, name, "kernel")
        if kernel in known:  # Not yet, in a method before.
          known[kernel] = with_gates(known[kernel], 4)
    return result

  with nn.intercept_methods(record):
    variables = abstract_init(model.init, inputs, options)
  return list(known.values()), dict(variables).get("params", {})


def _parameters_of(module, shapes, args, kwargs):
  path, shape = (*module.path, "kernel"), shapes.get("kernel")
  if isinstance(module, nn.Embed) and "embedding" in shapes:
    yield embedding((*module.path, "embedding"), shapes["embedding"])
  if shape is None:
    return
  if isinstance(module, (nn.Dense, recurrent.DenseParams)):
    yield dense(path, shape)
  elif isinstance(module, nn.DenseGeneral):
    neurons = tuple(range(-_count(module.features), 0))
    yield Known(path, shape, NeuronAxes(neurons, tuple(range(len(_batch(module))))))
  elif isinstance(module, nn.ConvLocal):
    places = tuple(range(len(shape) - 2))  # Each has filters of its own.
    yield Known(path, shape, NeuronAxes(-1, places))
  elif isinstance(module, nn.Conv):
    yield convolution(path, shape, module.feature_group_count, inputs=-2)
  elif isinstance(module, nn.ConvTranspose):
    yield Known(path, shape, NeuronAxes(-2 if module.transpose_kernel else -1))
  elif isinstance(module, nn.Einsum):
    given = kwargs.get("einsum_str", args[1] if len(args) > 1 else None)
    yield einsum(path, shape, given or module.einsum_str or "")


def _count(features):
  return 1 if isinstance(features, int) else len(features)


def _batch(module):
  dims = module.batch_dims
  return (dims,) if isinstance(dims, int) else tuple(dims)
