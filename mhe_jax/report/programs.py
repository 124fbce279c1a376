"""The rules of a user's own model, for the names that its checkpoint has."""

import dataclasses
import importlib
import inspect
import os
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Any

from mhe_jax.layers.model import layer_rules
from mhe_jax.layers.rules import LayerRule
from mhe_jax.report.checkpoint import Checkpoint
from mhe_jax.report.errors import InputError
from mhe_jax.report.parts import BY_PROGRAM
from mhe_jax.report.states import is_of_optimizer
from mhe_jax.report.stored import Stored, dotted


def made_by(text: str) -> tuple[Any, ...]:
  """What the function ``module:function`` of the user returns.

  Raises:
    InputError: there is no such function, or it fails.
  """
  module, separator, function = text.partition(":")
  if not (module and separator and function):
    raise InputError(f"model must be MODULE:FUNCTION, got {text!r}.")
  sys.path.insert(0, os.getcwd())
  try:
    made = getattr(importlib.import_module(module), function)()
  except Exception as error:  # Of the user's own code: any.
    raise InputError(f"model {text!r}: {type(error).__name__}: {error}") from error
  finally:
    sys.path.remove(os.getcwd())
  return tuple(made) if isinstance(made, (tuple, list)) else (made,)


def fill_leaves(made: tuple[Any, ...], path: pathlib.Path) -> Any:
  """The tree of a model, with the leaves of a file ``.eqx``, which have no names.

  Raises:
    InputError: they are not of this model.
  """
  import equinox as eqx  # noqa: PLC0415

  tree = next((x for x in made if not inspect.isfunction(x)), None)
  try:
    return eqx.tree_deserialise_leaves(path, tree)
  except Exception as error:  # Of many kinds.
    raise InputError(f"{path} is not of this model: {error}") from error


def rules_of_model(
  text: str, made: tuple[Any, ...], checkpoint: Checkpoint
) -> list[LayerRule]:
  """Rules that a program gives, for the tensors of a checkpoint.

  Args:
    text: ``module:function``, from the folder of the command or installed.
    made: what that function returns, without arguments: what
      :func:`mhe_jax.layer_rules` takes, ``(function, params, *inputs)`` or ``(module,
      *inputs)``.
    checkpoint: of this model; its names may have keys before those of the parameters.

  Raises:
    InputError: it cannot be traced; or the checkpoint has none of its parameters.
  """
  try:
    rules = layer_rules(*made)
  except Exception as error:  # Of the user's own code: any.
    raise InputError(f"model {text!r}: {type(error).__name__}: {error}") from error
  return _match_names(rules, checkpoint, text)


def _match_names(
  rules: Sequence[LayerRule], checkpoint: Checkpoint, text: str
) -> list[LayerRule]:
  shapes = {tensor.name: tensor.shape for tensor in checkpoint.tensors}
  stored = Stored.read(shapes, checkpoint.config, checkpoint.writer)
  names = [n for n in shapes if not is_of_optimizer(dotted(n), stored)]
  patterns = [rule for rule in rules if rule.axes is not None]
  found: dict[str, int] = {}
  for name in names:
    keys = dotted(name).split(".")
    for end in range(len(keys)):
      rest = "/".join(keys[end:])
      if any(rule.matches(rest) for rule in patterns):
        prefix = "".join(f"{key}." for key in keys[:end])
        found[prefix] = found.get(prefix, 0) + 1
  if not found:
    raise InputError(
      f"model {text!r}: the checkpoint has none of its parameters, as "
      f"{rules[0].pattern!r}, but {', '.join(names[:4])}."
    )
  most = max(found.values())  # Averages of parameters are as many.
  prefixes = [
    re.escape(prefix).replace(r"\.", "[./]")
    for prefix, count in found.items()
    if count == most
  ]
  before = f"({'|'.join(prefixes)})"
  return [
    dataclasses.replace(
      rule,
      pattern=before + rule.pattern.replace("/", "[./]"),
      reason=rule.reason or BY_PROGRAM,
    )
    for rule in rules
  ]
