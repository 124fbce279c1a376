r"""Softmax over classes whose weights are sharded, inside :func:`jax.shard_map`.

Every device has the rows of its own classes and all images. It computes the logits of
its classes; what is sent is three numbers an image: the largest logit, the sum of
exponentials, and the logit of the image's class, which one device has. Neither weights
nor logits are gathered.
"""

import jax
import jax.numpy as jnp

from mhe_jax.sphere import normalize


def cosines(features: jax.Array, shard: jax.Array) -> jax.Array:
  """Of images and the classes of this device.

  Args:
    features: of all images, ``[batch, d]``.
    shard: weights of this device's classes, ``[classes / devices, d]``.

  Returns:
    ``[batch, classes / devices]``.
  """
  return jnp.matmul(normalize(features), normalize(shard).T, precision="highest")


def cross_entropy(logits: jax.Array, labels: jax.Array, axis_name: str) -> jax.Array:
  r"""Mean of :math:`\log \sum_j e^{z_j} - z_y` over the images.

  Args:
    logits: of this device's classes, ``[batch, classes / devices]``.
    labels: of all classes, ``[batch]``, on all devices the same.
    axis_name: of the mesh.

  Returns:
    A scalar, on all devices the same.
  """
  # The largest logit cancels: it needs no gradient, and exponentials do not overflow.
  largest = jax.lax.pmax(jax.lax.stop_gradient(logits).max(1), axis_name)
  sums = jnp.exp(logits - largest[:, None]).sum(1)
  log_sums = largest + jnp.log(jax.lax.psum(sums, axis_name))
  return jnp.mean(log_sums - own_logits(logits, labels, axis_name))


def own_logits(logits: jax.Array, labels: jax.Array, axis_name: str) -> jax.Array:
  """Of each image the logit of its class ``[batch]``, from the device that has it."""
  count = logits.shape[1]
  number = labels - count * jax.lax.axis_index(axis_name).astype(labels.dtype)
  is_here = (number >= 0) & (number < count)
  found = jnp.take_along_axis(logits, jnp.clip(number, 0, count - 1)[:, None], 1)[:, 0]
  return jax.lax.psum(jnp.where(is_here, found, 0.0), axis_name)


def are_right(logits: jax.Array, labels: jax.Array, axis_name: str) -> jax.Array:
  """Whether no class has a larger logit than the image's own: constants ``[batch]``."""
  logits = jax.lax.stop_gradient(logits)
  largest = jax.lax.pmax(logits.max(1), axis_name)
  return own_logits(logits, labels, axis_name) >= largest
