"""The parameters of nnx modules, by class."""

from flax import nnx

from mhe_jax.layers.axes import NeuronAxes
from mhe_jax.layers.classes import (
  Known,
  Path,
  convolution,
  dense,
  einsum,
  embedding,
  with_gates,
)

_GATES = ((nnx.OptimizedLSTMCell, 4), (nnx.GRUCell, 3))


def known_parameters(model: nnx.Module) -> list[Known]:
  """Those of the modules of nnx and of their subclasses."""
  known: dict[Path, Known] = {}
  modules = [(tuple(map(str, path)), x) for path, x in nnx.iter_modules(model)]
  for path, module in modules:
    known |= {param.path: param for param in _parameters_of(module, path)}
  for path, module in modules:
    for cell, gates in _GATES:
      if isinstance(module, cell):
        for name in ("dense_i", "dense_h"):
          with_gates(known, (*path, name, "kernel"), gates)
  return list(known.values())


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
    param = einsum(kernel, tuple(module.kernel_shape), module.einsum_str)
    if param is not None:
      yield param
  elif isinstance(module, nnx.Embed):
    shape = (module.num_embeddings, module.features)
    yield embedding((*path, "embedding"), shape)
  elif isinstance(module, nnx.LoRA):
    # Two dense layers, of which the first has as many neurons as the rank.
    a, b = module.lora_a.shape, module.lora_b.shape
    yield dense((*path, "lora_a"), (module.in_features, a[-1]))
    yield dense((*path, "lora_b"), (b[-2], module.out_features))
