"""A warning of layers that start with next to no norm."""

import math
import warnings
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from mhe_jax.layers.select import Layer

_FAR_BELOW = 0.01


def warn_of_small_starts(layers: Sequence[Layer]) -> None:
  """Warns once where norms are far below those of the other layers, as zeros are.

  The gradient of an energy goes as one over the norm. Beside that of a loss, it has the
  first steps of such a layer to itself, and in Adam the moments: the layer is spread,
  and not trained. To be called where training starts. While JAX traces, and of arrays
  of which other processes hold a part, nothing is known, and nothing said.

  Args:
    layers: those to whose loss or updates an energy is added.
  """
  leaves = [layer.leaf for layer in layers]
  if not all(map(_is_known, leaves)):
    return
  with jax.ensure_compile_time_eval():
    norms = np.array([_norm(layer) for layer in layers])
  if not np.any(norms > 0.0):
    return  # Nothing to compare with.
  usual = float(np.median(norms[norms > 0.0]))
  small = tuple(x.path for x, norm in zip(layers, norms) if norm < _FAR_BELOW * usual)
  if small and small not in _told:
    _told.add(small)
    first, *others = small
    more = f" and {len(others)} more" if others else ""
    warnings.warn(
      f"Neurons of {first!r}{more} start with norms below {_FAR_BELOW:.0%} of the "
      "usual. The gradient of the energy goes as 1 / norm: added to that of the loss, "
      "it can keep such layers from training. mhe_jax.spread(optimizer) has a bound.",
      stacklevel=4,
    )


_told: set[tuple[str, ...]] = set()


def _is_known(leaf):
  if isinstance(leaf, jax.Array):
    return not isinstance(leaf, Tracer) and leaf.is_fully_addressable
  return isinstance(leaf, np.ndarray)


def _norm(layer):
  """Root mean square of the norms of its neurons."""
  features = layer.axes.matrix_shape(layer.leaf.shape)[-1]
  leaf = jnp.asarray(layer.leaf, layer.compute_dtype)
  return math.sqrt(features) * float(jnp.sqrt(jnp.mean(leaf**2)))
