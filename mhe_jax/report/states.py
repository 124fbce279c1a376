"""States of optimizers, which have the names of the parameters that they are of."""

import re

from mhe_jax.report.stored import Stored

STATE = "state of an optimizer"
_OPTIMIZER = re.compile(r"(.*\.)?(opt(imizer|im)?s?_states?|optimizers?|optim)\..*")
_MOMENT = re.compile(
  r"((?P<state>.*)\.)?(mu|nu|trace|momentum(_buffer)?|exp_avg(_sq)?)\.(?P<rest>.*)"
)


def is_of_optimizer(name: str, stored: Stored) -> bool:
  """Whether a tensor is of the state of an optimizer."""
  return bool(_OPTIMIZER.fullmatch(name)) or _is_moment(name, stored)


def _is_moment(name, stored) -> bool:
  """Whether a tensor is a moment of another, wherever the optimizer's state is.

  The moments of optax are trees of the names of the parameters; Adam's have a count
  beside them. A layer of this name has neither: the mu of an autoencoder.
  """
  match = _MOMENT.fullmatch(name)
  if match is None:
    return False
  state, rest = match["state"] or "", match["rest"]
  if stored.as_stored.get(f"{state}.count".lstrip(".")) == ():
    return True
  if not state or "." not in rest:
    return False
  return any(
    shape == stored.as_stored[name]
    for other, shape in stored.as_stored.items()
    if f".{other}".endswith(f".{rest}")
    and not other.startswith(f"{state}.")
    and not _MOMENT.fullmatch(other)
  )
