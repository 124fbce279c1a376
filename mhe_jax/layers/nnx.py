"""The parameters of nnx modules, by class."""

from typing import Any

import jax
from flax import nnx

from mhe_jax.layers.axes import NeuronAxes, stack_axes
from mhe_jax.layers.classes import (
  Known,
  Path,
  add_gates,
  convolution,
  dense,
  einsum,
  embedding,
)
from mhe_jax.layers.trees import keys_of

_GATES = ((nnx.OptimizedLSTMCell, 4), (nnx.GRUCell, 3))


def known_parameters(tree: Any) -> list[Known]:
  """Those of the modules of nnx and of their subclasses, anywhere in a tree."""
  known: dict[Path, Known] = {}
  modules = [
    ((*keys_of(root), *map(str, path)), module)
    for root, model in jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_module)[0]
    if _is_module(model)
    for path, module in nnx.iter_modules(model)
  ]
  for path, module in modules:
    known |= {param.path: param for param in _parameters_of(module, path)}
  for path, module in modules:
    for cell, gates in _GATES:
      if isinstance(module, cell):
        for name in ("dense_i", "dense_h"):
          kernel = (*path, name, "kernel")
          known[kernel] = add_gates(known[kernel], gates)
  return list(known.values())


def _is_module(x):
  return isinstance(x, nnx.Module)


def _parameters_of(module, path):
  kernel = (*path, "kernel")
  if isinstance(module, nnx.Linear):
    yield dense(kernel, (module.in_features, module.out_features))
  elif isinstance(module, nnx.LinearGeneral):
    batch, out = tuple(module.batch_axis.values()), tuple(module.out_features)
    shape = (*batch, *module.in_features, *out)
    axes = NeuronAxes(tuple(range(-len(out), 0)), tuple(range(len(batch))))
    yield Known(kernel, shape, axes)
  elif isinstance(module, nnx.Conv):
    shape, groups = tuple(module.kernel_shape), module.feature_group_count
    yield convolution(kernel, shape, groups, inputs=-2)
  elif isinstance(module, nnx.ConvTranspose):
    neurons = -2 if module.transpose_kernel else -1
    yield Known(kernel, tuple(module.kernel_shape), NeuronAxes(neurons))
  elif isinstance(module, nnx.Einsum):
    yield einsum(kernel, tuple(module.kernel_shape), module.einsum_str)
  elif isinstance(module, nnx.Embed):
    shape = (module.num_embeddings, module.features)
    yield embedding((*path, "embedding"), shape)
  elif isinstance(module, nnx.LoRA):
    # Two dense layers, of which the first has as many neurons as the rank.
    for rank in _ranks(module):
      yield dense((*path, "lora_a"), (module.in_features, rank))
      yield dense((*path, "lora_b"), (rank, module.out_features))


def _ranks(lora):
  """The rank, which the module does not keep; none if its stack leaves a choice."""
  a, b = lora.lora_a.shape, lora.lora_b.shape
  ranks = [
    rank
    for rank in dict.fromkeys(a)
    if {*stack_axes((lora.in_features, rank), a)}
    & {*stack_axes((rank, lora.out_features), b)}
  ]
  return ranks if len(ranks) == 1 else []
