"""Channels are taken out of a network: what is left is a narrower network."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.digits import CNN, State


def remove(state: State, removed: list[np.ndarray]) -> State:
  """The network without some channels of every convolution.

  Of a channel everything goes: its kernel; its scale, shift, mean and variance in the
  batch norm that follows; and the weights by which the next layer, the next convolution
  or the classifier, hears it. Nothing else is changed. Its output is that of the whole
  network with these channels at 0 behind their ReLU.

  Args:
    state: of a :class:`CNN` of ``depth`` convolutions.
    removed: of every convolution, from the first on, which channels go.

  Returns:
    The state of a CNN whose widths are those of what is left; of ``CNN(depth, width)``
    if of all convolutions ``width`` channels are left.
  """
  params, stats = dict(state.params), dict(state.batch_stats)
  heard = slice(None)  # Channels of the layer before; of the image all.
  for i, gone in enumerate(removed):
    conv, norm = f"conv{i}", f"norm{i}"
    kernel = np.asarray(params[conv]["kernel"])
    stays = np.setdiff1d(np.arange(kernel.shape[-1]), gone)
    params[conv] = {"kernel": kernel[:, :, heard][..., stays]}
    params[norm], stats[norm] = (_rows(tree[norm], stays) for tree in (params, stats))
    heard = stays
  head = params["head"]
  params["head"] = {**head, "kernel": np.asarray(head["kernel"])[heard]}
  return State(params, stats, None)


def _rows(tree: Any, stays: np.ndarray) -> Any:
  return jax.tree.map(lambda x: np.asarray(x)[stays], tree)


def statistics_of(model: CNN, state: State, images: jax.typing.ArrayLike) -> State:
  """The network with the means and variances of these images in its batch norms.

  No weight changes. Layer by layer, each sees what those before it now put out.

  Args:
    model: of the state.
    state: parameters and statistics, of which the shape alone counts.
    images: ``[batch, 14, 14, 1]``, one batch.
  """
  nothing = jax.tree.map(jnp.zeros_like, state.batch_stats)
  _, new = model.apply(
    {"params": state.params, "batch_stats": nothing},
    images, train=True, mutable=["batch_stats"],
  )  # fmt: skip
  # Of running averages that were 0, a step of momentum m leaves 1 - m of the batch's.
  share = 1.0 - MOMENTUM
  stats = jax.tree.map(lambda x: x / share, new["batch_stats"])
  return state._replace(batch_stats=stats)


MOMENTUM = 0.9  # Of the batch norms of CNN.
