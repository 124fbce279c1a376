"""Checks of arguments, whose messages name the argument and what it got."""

import math
import operator
from collections.abc import Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def check_count(name: str, count: Any, least: int) -> int:
  """``count`` as an int; a ValueError unless it is a whole number >= least."""
  try:
    number = operator.index(count)
  except TypeError:
    number = None
  if number is None or number < least:
    raise ValueError(f"{name} must be a whole number >= {least}, got {count!r}.")
  return number


def check_number(name: str, x: Any) -> float:
  """``x`` as a float; a TypeError unless it is a number known at compile time."""
  try:
    if isinstance(x, str):
      raise TypeError("a string")
    return float(x)
  except (TypeError, ValueError) as error:
    hint = " known at compile time" if isinstance(x, Tracer) else ""
    raise TypeError(f"{name} must be a number{hint}, got {x!r}.") from error


def check_scalar(name: str, x: Any) -> None:
  """Raises a TypeError unless ``x`` is a real number; arrays are not evaluated.

  So that traced numbers, whose value is not known, are told apart from arrays and
  from complex numbers as others are.
  """
  if not isinstance(x, jax.Array | np.ndarray | np.generic):
    check_number(name, x)
    return
  real = (jnp.bool_, jnp.integer, jnp.floating)
  if x.ndim or not any(jnp.issubdtype(x.dtype, kind) for kind in real):
    raise TypeError(
      f"{name} must be a number, got an array of shape {x.shape} and dtype {x.dtype}."
    )


def check_weight(name: str, weight: Any) -> None:
  """Raises unless a weight is a number >= 0; traced values are taken as given."""
  check_scalar(name, weight)
  if isinstance(weight, Tracer):
    return
  number = check_number(name, weight)
  if not (math.isfinite(number) and number >= 0):
    raise ValueError(f"{name} must be finite and >= 0, got {number}.")


def is_plain_zero(weight: Any) -> bool:
  """Whether a checked weight is a plain number, not an array of JAX, that is 0."""
  return not isinstance(weight, jax.Array) and not callable(weight) and not weight


def check_axis_name(axis_name: Hashable | None) -> Hashable | None:
  """Axes of :func:`jax.shard_map`, if there are any: one name, or a tuple of several.

  Raises:
    ValueError: unless this is called inside a ``shard_map`` that has them.
  """
  if axis_name is None:
    return None
  names = tuple(axis_name) if isinstance(axis_name, tuple | list) else (axis_name,)
  manual = jax.sharding.get_abstract_mesh().manual_axes
  if not names or not all(name in manual for name in names):
    raise ValueError(
      f"axis_name must be a mesh axis of the jax.shard_map that this is called in, got "
      f"{axis_name!r}, of {manual}; outside of one, sharded arrays need no name."
    )
  if len({*names}) < len(names):
    raise ValueError(f"axis_name must name each axis once, got {axis_name!r}.")
  return names[0] if len(names) == 1 else names


def check_sharded(
  axis_name: Hashable | None,
  of_rows: Mapping[str, jax.Array | None],
  shared: Mapping[str, jax.Array | None] | None = None,
) -> None:
  """Of what :func:`jax.shard_map` knows: rows differ over devices, the rest does not.

  Args:
    axis_name: over which the rows are sharded, if they are.
    of_rows: arguments that are of the rows of one device, by name.
    shared: arguments that are the same on all.

  Raises:
    ValueError: an argument is not as it must be.
  """
  if axis_name is None:
    return
  names = {*axis_name} if isinstance(axis_name, tuple) else {axis_name}
  for name, x in of_rows.items():
    if x is not None and not names <= _varying(x):
      raise ValueError(
        f"{name} must be those of the rows of one device, different along "
        f"{axis_name!r}, got {jax.typeof(x)}, the same on several: give in_specs that "
        "shard them, and leave check_vma of jax.shard_map as it is."
      )
  for name, x in (shared or {}).items():
    if x is not None and _varying(x) & names:
      raise ValueError(
        f"{name} must be the same on all devices along {axis_name!r}, got "
        f"{jax.typeof(x)}, which differs."
      )


def _varying(x):
  """Mesh axes along which an array differs, inside shard_map."""
  kind = jax.typeof(x)
  # Its name is not the same in all versions of JAX.
  kind = getattr(kind, "manual_axis_type", kind)
  return kind.varying if hasattr(kind, "varying") else kind.vma


def check_params(params: Any, function: str) -> None:
  """Raises a ValueError where an update is not given the parameters it needs.

  Args:
    params: of the update.
    function: the name of what the user called to make the transformation.
  """
  if params is None:
    raise ValueError(
      f"{function} needs the parameters: call update(updates, state, params), params "
      "was None."
    )
