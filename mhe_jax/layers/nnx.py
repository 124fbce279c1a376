"""Where the neurons are in nnx modules, by their class."""

import sys

from mhe_jax.layers.axes import NeuronAxes


def is_nnx_module(x) -> bool:
  """Whether x is an nnx module; does not import Flax for those without it."""
  nnx = sys.modules.get("flax.nnx")
  return nnx is not None and isinstance(x, nnx.Module)


def layouts_of_module(module) -> dict[tuple[str, ...], NeuronAxes]:
  """Neuron axes by path for the weights of an nnx module whose class says them.

  Axes beyond the rank that the class implies lead, and are stacked layers.
  """
  from flax import nnx  # noqa: PLC0415

  layouts = {}
  for path, layer in nnx.iter_modules(module):
    if not isinstance(
      layer, (nnx.Linear, nnx.LinearGeneral, nnx.Conv, nnx.ConvTranspose)
    ):
      continue
    neurons, rank = (-1,), 2
    if isinstance(layer, nnx.LinearGeneral):
      num_out = len(layer.out_features)
      neurons = tuple(range(-num_out, 0))
      rank = len(layer.axis) + num_out
    elif isinstance(layer, (nnx.Conv, nnx.ConvTranspose)):
      size = layer.kernel_size
      rank = (1 if isinstance(size, int) else len(size)) + 2
      if isinstance(layer, nnx.ConvTranspose) and layer.transpose_kernel:
        neurons = (-2,)
    num_stacked = layer.kernel.ndim - rank
    layouts[*map(str, path), "kernel"] = NeuronAxes(neurons, tuple(range(num_stacked)))
  return layouts
