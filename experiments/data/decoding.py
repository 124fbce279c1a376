"""Encoded images, decoded."""

import io
from typing import Any

from experiments.errors import InputError

_GRAY, _DEEP = ("1", "L", "LA", "La"), ("I", "F")  # Modes of Pillow.


def decoded(content: bytes, where: str, *, keep_gray: bool = False) -> Any:
  """A PIL image in RGB; or in gray, if it is gray and that is to be kept.

  Args:
    content: of its file.
    where: what it is called in errors.
    keep_gray: by default, gray becomes RGB as well.

  Raises:
    InputError: it cannot be read, or has more than 8 bits a channel, which Pillow would
      cut off at 255 and not scale.
  """
  from PIL import Image  # noqa: PLC0415  (an optional dependency)

  try:
    image = Image.open(io.BytesIO(content))
    image.load()
  except Exception as error:
    raise InputError(f"{where} is not a readable image: {error}") from error
  if image.mode.startswith(_DEEP):
    raise InputError(
      f"{where} must have 8 bits a channel, got Pillow's mode {image.mode}; convert it."
    )
  return image.convert("L" if keep_gray and image.mode in _GRAY else "RGB")
