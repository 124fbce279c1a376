"""Images of a GAN: 32 x 32 pixels, as bytes and as numbers from -1 to 1; grids."""

import base64
import io

import jax
import jax.numpy as jnp
import numpy as np

from experiments.data import Data, Split
from experiments.errors import InputError
from experiments.models.gan import SIDE


def squares(data: Data) -> Data:
  """The data set with images of 32 x 32: smaller ones get margins of 0, black.

  Raises:
    InputError: they are larger, or not kept in memory.
  """
  height, width = data.image_shape[:2]
  if data.size or max(height, width) > SIDE:
    raise InputError(
      f"dataset must have images of at most {SIDE} x {SIDE} pixels, got {height} x "
      f"{width}."
    )
  margins = [(0, 0)]
  for side in (height, width):
    before = (SIDE - side) // 2
    margins.append((before, SIDE - side - before))
  train, test = (
    Split(np.pad(split.images, [*margins, (0, 0)]), split.labels)
    for split in (data.train, data.test)
  )
  return Data(train, test, data.classes, data.source)


def from_bytes(images: jax.typing.ArrayLike) -> jax.Array:
  """0 to 255 as -1 to 1."""
  return jnp.asarray(images, jnp.float32) / 127.5 - 1.0


def to_bytes(images: jax.Array) -> jax.Array:
  """-1 to 1 as 0 to 255, rounded: what is scored is what an image file would hold."""
  return jnp.round((images + 1.0) * 127.5).astype(jnp.uint8)


def tiled(images: np.ndarray, columns: int) -> np.ndarray:
  """Images ``[n, height, width, channels]``, n a multiple of columns, as one."""
  n, height, width, channels = images.shape
  rows = images.reshape(n // columns, columns, height, width, channels)
  return rows.swapaxes(1, 2).reshape(-1, columns * width, channels)


def encoded(image: np.ndarray) -> str:
  """A JPEG in base64, for the JSON of a result: a fifth of what a PNG takes.

  Args:
    image: bytes ``[height, width, channels]``.
  """
  from PIL import Image  # noqa: PLC0415  (an optional dependency)

  file = io.BytesIO()
  picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
  picture.save(file, "JPEG", quality=90)
  return base64.b64encode(file.getvalue()).decode()


def decoded(text: str) -> np.ndarray:
  """The image ``[height, width]`` or ``[height, width, 3]`` of :func:`encoded`."""
  from PIL import Image  # noqa: PLC0415  (an optional dependency)

  return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))
