"""From the names of a checkpoint, and rules, to layers of neurons."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import ml_dtypes
import numpy as np

from mhe_jax.layers.axes import NeuronAxes
from mhe_jax.layers.rules import LayerRule, Match, check_matches, check_rules, match
from mhe_jax.report.checkpoint import Checkpoint
from mhe_jax.report.errors import InputError
from mhe_jax.report.parts import (
  BY_CLASS,
  BY_RULE,
  NotNeurons,
  Part,
  Reading,
  Unknown,
)
from mhe_jax.report.pytorch.architectures import read_name
from mhe_jax.report.readers.base import Tensor
from mhe_jax.report.scales import Scales
from mhe_jax.report.stored import Stored, dotted


@dataclasses.dataclass(frozen=True)
class StoredLayer:
  """A part of a tensor, and its neurons when they are asked for."""

  tensor: Tensor
  part: Part

  @property
  def name(self) -> str:
    """That of the tensor, with the part if it is fused."""
    label = self.part.label
    return f"{self.tensor.name}[{label}]" if label else self.tensor.name

  @property
  def shape(self) -> tuple[int, int, int]:
    """``(sets, n, d)``."""
    return self.part.matrix_shape(self.tensor.shape)


@dataclasses.dataclass(frozen=True)
class Selected:
  """What names and rules make of a checkpoint.

  Attributes:
    layers: all sets of neurons.
    skipped: ``{name: reason}`` of tensors that are known not to be neurons.
    unknown: ``{name: reason}`` of those that may be, for all we know.
  """

  layers: tuple[StoredLayer, ...]
  skipped: dict[str, str]
  unknown: dict[str, str]


def select_layers(
  checkpoint: Checkpoint,
  rules: Sequence[LayerRule] | None,
  called: Mapping[str, str] | None = None,
) -> Selected:
  """Decides for every tensor what it is: from rules, classes, names, and neighbors.

  Args:
    checkpoint: names, shapes and dtypes.
    rules: of the user.
    called: by which other names the rules know some tensors.

  Raises:
    TypeError: ``rules`` are no rules.
    InputError: a rule matches no tensor, or never wins, or does not fit a shape.
  """
  rules, called = check_rules(rules), called or {}
  shapes = {tensor.name: tensor.shape for tensor in checkpoint.tensors}
  stored = Stored.read(shapes, checkpoint.config, checkpoint.writer)
  scales = Scales.read(checkpoint)
  matches = {name: match(rules, called.get(name, name)) for name in shapes}
  layers, skipped, unknown = [], {}, {}
  for tensor in checkpoint.tensors:
    by_class = match(checkpoint.by_class, tensor.name).reader
    reading = _read(tensor, stored, matches[tensor.name], by_class)
    if isinstance(reading, tuple):
      reading = scales.check(tensor, reading)
    if isinstance(reading, NotNeurons):
      skipped[tensor.name] = reading.reason
    elif isinstance(reading, Unknown):
      unknown[tensor.name] = reading.reason
    else:
      layers += [StoredLayer(tensor, part) for part in reading]
  try:
    check_matches(
      rules, {called.get(k, k): v for k, v in matches.items()}, {**skipped, **unknown}
    )
  except ValueError as error:
    raise InputError(str(error)) from None
  return Selected(tuple(layers), skipped, unknown)


def _read(tensor, stored, found: Match, by_class: LayerRule | None) -> Reading:
  winner, reader, role = found
  if reader is not None and role == "skip":
    return NotNeurons(reader.reason or f"by rule {reader.pattern!r}")
  if reader is not None and role == "unread":
    return Unknown(reader.reason or f"by rule {reader.pattern!r}")
  if len(tensor.shape) < 2:
    return NotNeurons("fewer than two axes")
  if tensor.dtype is None:
    return Unknown(f"stored as {tensor.stored_as}, which cannot be read")
  if tensor.dtype == ml_dtypes.float8_e8m0fnu:  # Powers of two, without a sign.
    return NotNeurons("scales of a quantized tensor")
  if not jnp.issubdtype(tensor.dtype, jnp.floating):
    return _not_floating(tensor)
  axes = reader.axes if reader is not None else None
  if axes is None and stored.as_stored[dotted(tensor.name)] != tensor.shape:
    return Unknown("another name is the same but for slashes and dots; a rule tells")
  if reader is not None and axes is not None:
    reading = (Part(axes, "by rule", evidence=reader.reason or BY_RULE),)
  else:
    reading = _read_class(by_class, read_name(tensor.name, stored))
  if isinstance(reading, Unknown) and winner is not None and not reading.is_named:
    reading = (Part(NeuronAxes(), "by rule, last axis", evidence=BY_RULE),)
  if isinstance(reading, tuple):
    if role is not None:  # In all parts.
      reading = tuple(dataclasses.replace(p, role=role) for p in reading)
    try:
      shapes = [part.matrix_shape(tensor.shape) for part in reading]
    except ValueError as error:
      raise InputError(
        f"tensor {tensor.name!r}: {error} for shape {tensor.shape}."
      ) from None
    if any(sets == 0 or d == 0 for sets, _, d in shapes):
      return NotNeurons("no weights")
    if any(n < 2 for _, n, _ in shapes):
      return NotNeurons("fewer than two neurons: no pairs")
  return reading


def _read_class(rule: LayerRule | None, by_name: Reading) -> Reading:
  """What the class of a module says, with the parts and the role that names add.

  A dense layer may hold several, or be the output: of that its class says nothing.
  """
  if rule is None:
    return by_name
  if rule.role in ("skip", "unread"):
    return NotNeurons(rule.reason)
  says_more = isinstance(by_name, tuple) and (
    len(by_name) > 1 or any(part.role == "output" for part in by_name)
  )
  if rule.axes is None or says_more:
    return by_name
  return (Part(rule.axes, "by class", evidence=BY_CLASS),)


def _not_floating(tensor) -> NotNeurons | Unknown:
  if jnp.issubdtype(tensor.dtype, jnp.complexfloating):
    return Unknown(f"dtype {tensor.dtype}: complex weights are not read")
  # All but int64, of numbers of tokens and places. MLX packs into uint32.
  if jnp.issubdtype(tensor.dtype, jnp.integer) and tensor.dtype != np.int64:
    return Unknown(
      f"dtype {tensor.dtype}: quantized weights, if it is one, are not read"
    )
  return NotNeurons(f"dtype {tensor.dtype}")
