"""The parameters of Equinox modules, by class, wherever they are in a tree."""

from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax

from mhe_jax.layers.axes import NeuronAxes
from mhe_jax.layers.classes import Known, convolution, dense, embedding
from mhe_jax.layers.trees import keys_of

_NORMS = (eqx.nn.LayerNorm, eqx.nn.RMSNorm, eqx.nn.GroupNorm, eqx.nn.BatchNorm)
_GATES = ((eqx.nn.GRUCell, 3), (eqx.nn.LSTMCell, 4))
_LAYERS = (
  *(eqx.nn.Linear, eqx.nn.Conv, eqx.nn.ConvTranspose, eqx.nn.Embedding),
  *(cell for cell, _ in _GATES),
)


def known_parameters(tree: Any) -> Iterator[Known]:
  """Those of the modules of Equinox and of their subclasses."""
  leaves = jax.tree_util.tree_flatten_with_path(
    tree, is_leaf=lambda x: isinstance(x, (*_LAYERS, *_NORMS))
  )[0]
  for path, module in leaves:
    yield from _parameters_of(module, keys_of(path))


def _parameters_of(module, path):
  weight = (*path, "weight")
  if isinstance(module, _NORMS):
    yield Known(weight, (), "a scale, not neurons")
  elif isinstance(module, eqx.nn.Linear):
    out, into = (
      1 if size == "scalar" else size
      for size in (module.out_features, module.in_features)
    )
    yield dense(weight, (out, into), neurons=-2)
  elif isinstance(module, (eqx.nn.Conv, eqx.nn.ConvTranspose)):
    inputs = module.in_channels // module.groups
    shape = (module.out_channels, inputs, *module.kernel_size)
    yield convolution(weight, shape, module.groups, neurons=-len(shape), inputs=1)
  elif isinstance(module, eqx.nn.Embedding):
    yield embedding(weight, (module.num_embeddings, module.embedding_size))
  for cell, gates in _GATES:
    if isinstance(module, cell):
      rows = gates * module.hidden_size
      axes = NeuronAxes(-2, groups=gates)
      yield Known((*path, "weight_ih"), (rows, module.input_size), axes)
      yield Known((*path, "weight_hh"), (rows, module.hidden_size), axes)
