"""What a user, or a class, says of the layers of a tree."""

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from mhe_jax.checks import check_number, check_weight
from mhe_jax.layers.axes import NeuronAxes


@dataclasses.dataclass(frozen=True, repr=False)
class LayerRule:
  r"""Says how the parameters whose path matches a pattern are read.

  Rules are tried in order and the first that matches a path wins; a path that
  none matches is read by the built-in rules, as a hidden layer. A rule that matches
  nothing, or whose matches were all taken by rules before it, is an error.
  :func:`mhe_jax.layer_rules` writes the rules of a model.

  Args:
    pattern: regular expression that must match the whole path (as
      :func:`re.fullmatch`), whose keys are joined by ``/``: for example
      ``r".*/Dense_\d+/kernel"``.
    axes: which axes are neurons; parameters of fewer than two axes are passed
      over. ``None`` keeps the built-in reading of parameters whose class or name
      is known, and takes the last axis of all others.
    role: ``"hidden"`` (half-space energy by default), ``"output"`` (the
      classifier: full-space energy) or ``"skip"``.
    weight: factor of the layer in the network's energy, finite and >= 0.
    optional: whether it may match nothing, as in a tree with a part of the
      parameters.
    reason: why it skips; :func:`mhe_jax.describe` shows it.

  Raises:
    TypeError: ``axes`` is not a :class:`NeuronAxes`, or ``weight`` no number.
    ValueError: the pattern does not compile, the role is unknown, or the weight
      is negative or not finite.

  Example:
    >>> import jax.numpy as jnp
    >>> from mhe_jax import LayerRule, NeuronAxes, neuron_matrices
    >>> torch_like = {"layers": [{"weight": jnp.ones((8, 3)), "bias": None}]}
    >>> rules = [LayerRule(r".*/weight", NeuronAxes(0))]
    >>> {k: v.shape for k, v in neuron_matrices(torch_like, rules).items()}
    {'layers/0/weight': (8, 3)}
  """

  pattern: str
  axes: NeuronAxes | None = None
  role: Literal["hidden", "output", "skip"] = "hidden"
  weight: float = 1.0
  optional: bool = False
  reason: str = ""

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

  def __repr__(self) -> str:
    # Without what is the default: as a user would write it.
    parts = [repr(self.pattern)]
    for field in dataclasses.fields(self)[1:]:
      value = getattr(self, field.name)
      if value != field.default:
        name = "" if field.name == "axes" else f"{field.name}="
        parts.append(f"{name}{value!r}")
    return f"LayerRule({', '.join(parts)})"

  def matches(self, path: str) -> bool:
    """Whether it matches the whole path."""
    return re.fullmatch(self.pattern, path) is not None


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


def winner(rules: Sequence[LayerRule], path: str) -> LayerRule | None:
  """The first rule that matches a path."""
  return next((rule for rule in rules if rule.matches(path)), None)


def check_matches(
  rules: Sequence[LayerRule], paths: Sequence[str], skipped: Mapping[str, str]
) -> None:
  """A ValueError if a rule is without effect on a tree.

  Args:
    rules: in their order.
    paths: of all parameters.
    skipped: those without neurons, with the reason.
  """
  won = {path: winner(rules, path) for path in paths}
  masked = [path for path, reason in skipped.items() if reason == "masked"]
  for rule in rules:
    if rule.optional:
      continue
    matched = [path for path in paths if rule.matches(path)]
    if not matched and any(_may_match_below(rule.pattern, path) for path in masked):
      continue  # A mask that is a prefix of the tree has one node for a whole branch.
    if not matched:
      close = difflib.get_close_matches(rule.pattern, paths, n=5, cutoff=0.0)
      raise ValueError(
        f"LayerRule pattern {rule.pattern!r} matches no path (it must match the "
        f"whole path); closest: {close}."
      )
    # Of two equal rules the second wins nothing: compare identities.
    taken = [path for path in matched if won[path] is not rule]
    if len(taken) == len(matched):
      earlier = won[matched[0]]
      assert earlier is not None
      raise ValueError(
        f"LayerRule pattern {rule.pattern!r} never wins: an earlier rule, "
        f"{earlier.pattern!r}, takes its match {matched[0]!r}, and the first match "
        "wins; put the special rule before the general one."
      )
    reasons = {path: skipped.get(path) for path in matched if path not in taken}
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
