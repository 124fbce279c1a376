"""The parameters of Haiku modules, by class, seen while they are initialized."""

from typing import Any

import haiku as hk

from mhe_jax.layers.axes import NeuronAxes
from mhe_jax.layers.classes import (
  Known,
  Path,
  abstract_init,
  convolution,
  dense,
  embedding,
  with_gates,
)
from mhe_jax.layers.names import DEPTHWISE

_DEPTHWISE = (hk.DepthwiseConv1D, hk.DepthwiseConv2D, hk.DepthwiseConv3D)
# Of their modules those that hold four gates.
_FUSED = ("linear", "input_to_hidden", "hidden_to_hidden")
_CONV_LSTMS = (hk.Conv1DLSTM, hk.Conv2DLSTM, hk.Conv3DLSTM)


def known_parameters(
  model: Any, *inputs: Any, **options: Any
) -> tuple[list[Known], Any]:
  """Those of the modules of Haiku and of their subclasses, and the tree of shapes."""
  # By shape, too: inside hk.lift and layer_stack, other modules have the same names.
  known: dict[tuple[Path, tuple[int, ...]], Known] = {}

  def record(next_method, args, kwargs, context):
    result = next_method(*args, **kwargs)
    module = context.module
    if context.method_name in ("__init__", "params_dict"):  # Called below.
      return result
    path = tuple(module.module_name.split("/"))
    # A module sees the parameters of those below it, too.
    own = {
      name.rpartition("/")[2]: tuple(x.shape)
      for name, x in module.params_dict().items()
      if name.rpartition("/")[0] == module.module_name
    }
    for param in _parameters_of(module, path, own):
      known.setdefault((param.path, param.shape), param)
    if isinstance(module, (hk.LSTM, *_CONV_LSTMS)):
      for below, shape in list(known):
        if below[:-2] == path and below[-2] in _FUSED:
          key = (below, shape)
          known[key] = with_gates(known[key], 4)
    return result

  with hk.intercept_methods(record):
    shapes = abstract_init(model.init, inputs, options)
  if isinstance(model, (hk.TransformedWithState, hk.MultiTransformedWithState)):
    shapes = shapes[0]
  exact = {
    (tuple(f"{module}/{name}".split("/")), tuple(x.shape))
    for module, params in shapes.items()
    for name, x in params.items()
  }
  return [param for key, param in known.items() if key in exact], shapes


def _parameters_of(module, path, shapes):
  w = shapes.get("w")
  if "b" in shapes:  # Of three axes where channels come first.
    yield Known((*path, "b"), shapes["b"], "a bias, not neurons")
  if isinstance(module, hk.Linear) and w:
    yield dense((*path, "w"), w)
  elif isinstance(module, _DEPTHWISE) and w:
    yield Known((*path, "w"), w, DEPTHWISE)
  elif isinstance(module, hk.ConvND) and w:
    yield convolution((*path, "w"), w, module.feature_group_count, inputs=-2)
  elif isinstance(module, hk.ConvNDTranspose) and w:
    yield Known((*path, "w"), w, NeuronAxes(-2))
  elif isinstance(module, hk.Embed) and "embeddings" in shapes:
    yield embedding((*path, "embeddings"), shapes["embeddings"])
  elif isinstance(module, hk.GRU):
    for name in ("w_i", "w_h"):
      if name in shapes:
        yield Known((*path, name), shapes[name], NeuronAxes(-1, groups=3))
