"""What a user says of the layers of a tree."""

import dataclasses
import difflib
import re
from collections.abc import Iterable
from typing import Literal

from mhe_jax.checks import check_number, check_weight
from mhe_jax.layers.axes import NeuronAxes


@dataclasses.dataclass(frozen=True)
class LayerRule:
  r"""Says how the parameters whose path matches a pattern are read.

  Rules are tried in order and the first that matches a path wins; a path that
  none matches is read by the built-in rules for Flax, as a hidden layer.

  Args:
    pattern: regular expression that must match the whole path (as
      :func:`re.fullmatch`), whose keys are joined by ``/``: for example
      ``r".*/Dense_\d+/kernel"``.
    axes: which axes are neurons. ``None`` keeps the built-in reading of Flax
      parameters and takes the last axis of all others.
    role: ``"hidden"`` (half-space energy by default), ``"output"`` (the
      classifier: full-space energy) or ``"skip"``.
    weight: factor of the layer in the network's energy, finite and >= 0.

  Raises:
    TypeError: ``axes`` is not a :class:`NeuronAxes`, or ``weight`` no number.
    ValueError: the pattern does not compile, the role is unknown, or the weight
      is negative or not finite.

  Example:
    >>> import jax.numpy as jnp
    >>> from mhe_jax import LayerRule, NeuronAxes, neuron_matrices
    >>> equinox_like = {"layers": [{"weight": jnp.ones((8, 3)), "bias": None}]}
    >>> rules = [LayerRule(r".*/weight", NeuronAxes(0))]
    >>> {k: v.shape for k, v in neuron_matrices(equinox_like, rules).items()}
    {'layers/0/weight': (8, 3)}
  """

  pattern: str
  axes: NeuronAxes | None = None
  role: Literal["hidden", "output", "skip"] = "hidden"
  weight: float = 1.0

  def __post_init__(self):
    try:
      re.compile(self.pattern)
    except (re.error, TypeError) as error:
      raise ValueError(
        f"pattern {self.pattern!r} is not a regular expression: {error}."
      ) from error
    if self.axes is not None and not isinstance(self.axes, NeuronAxes):
      raise TypeError(f"axes must be NeuronAxes or None, got {self.axes!r}.")
    if self.role not in ("hidden", "output", "skip"):
      raise ValueError(f"role must be 'hidden', 'output' or 'skip', got {self.role!r}.")
    # Through check_number, since a rule's weight may not be traced.
    check_weight("weight", check_number("weight", self.weight))


def check_rules(rules) -> tuple[LayerRule, ...]:
  """Rules as a tuple; a TypeError unless they are a sequence of LayerRule."""
  if rules is None:
    return ()
  checked = tuple(rules) if isinstance(rules, Iterable) else (rules,)
  if isinstance(rules, LayerRule) or not all(
    isinstance(rule, LayerRule) for rule in checked
  ):
    raise TypeError(f"rules must be a sequence of LayerRule, got {rules!r}.")
  return checked


def check_matches(rule, names, skipped):
  """Raises a ValueError where a rule has no effect on the tree."""
  matched = [name for name in names if re.fullmatch(rule.pattern, name)]
  masked = [name for name, reason in skipped.items() if reason == "masked"]
  if not matched and any(_may_match_below(rule.pattern, name) for name in masked):
    return  # A mask that is a prefix of the tree has one node for a whole branch.
  if not matched:
    close = difflib.get_close_matches(rule.pattern, names, n=5, cutoff=0.0)
    raise ValueError(
      f"LayerRule pattern {rule.pattern!r} matches no path (it must match the "
      f"whole path); closest: {close}."
    )
  reasons = {name: skipped.get(name) for name in matched}
  # Trees of a partition have holes where another part has the parameter.
  excused = rule.role == "skip" or {"masked", "None", None} & {*reasons.values()}
  if not excused:
    raise ValueError(
      f"LayerRule pattern {rule.pattern!r} matches no neurons: {reasons}."
    )


def _may_match_below(pattern, branch) -> bool:
  """Whether a beginning of the pattern matches up to the keys below a branch."""
  for end in range(1, len(pattern) + 1):
    try:
      if re.fullmatch(pattern[:end], branch + "/"):
        return True
    except re.error:  # Cut inside a group or an escape.
      continue
  return False
