"""What a user, or a class, says of the layers of a tree."""

import dataclasses
import difflib
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from mhe_jax.checks import check_number, check_weight
from mhe_jax.layers.axes import NeuronAxes

Role = Literal["hidden", "output", "skip", "unread"]
ROLES: tuple[Role, ...] = ("hidden", "output")
SKIPPING: tuple[Role, ...] = ("skip", "unread")


@dataclasses.dataclass(frozen=True, repr=False)
class LayerRule:
  r"""Says how the parameters whose path matches a pattern are read.

  Rules are tried in order and the first that matches a path wins; a path that
  none matches is read by the built-in rules, as a hidden layer. What a rule does not
  say, axes or role, is taken from the next rule that matches and says it. A rule that
  matches nothing, or has no effect since rules before it took all its matches, is an
  error.
  :func:`mhe_jax.layer_rules` writes the rules of a model.

  Args:
    pattern: regular expression that must match the whole path (as
      :func:`re.fullmatch`), whose keys are joined by ``/``: for example
      ``r".*/Dense_\d+/kernel"``.
    axes: which axes are neurons; parameters of fewer than two axes are passed
      over. ``None``, without another rule that has some, keeps the built-in reading
      of parameters whose class or name is known, and takes the last axis of all
      others.
    role: ``"hidden"`` (half-space energy by default), ``"output"`` (the
      classifier: full-space energy), ``"skip"``, or ``"unread"``: skipped, because
      nobody knows where its neurons are, and told at the first training step.
      ``None``, without another rule that has one, is ``"hidden"``.
    weight: factor of the layer in the network's energy, finite and >= 0.
    optional: whether it may match nothing, as in a tree with a part of the
      parameters.
    reason: why it is skipped; :func:`mhe_jax.describe` shows it.

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
  role: Role | None = None
  weight: float = 1.0
  optional: bool = False
  reason: str = ""

  def __post_init__(self):
    try:
      if not isinstance(self.pattern, str):
        raise TypeError(f"it must be a string, not {type(self.pattern).__name__}")
      _compiled(self.pattern)
    except (re.error, TypeError) as error:
      raise ValueError(
        f"pattern {self.pattern!r} is not a regular expression: {error}."
      ) from error
    if self.axes is not None and not isinstance(self.axes, NeuronAxes):
      raise TypeError(f"axes must be NeuronAxes or None, got {self.axes!r}.")
    if self.role not in (*ROLES, *SKIPPING, None):
      raise ValueError(
        f"role must be 'hidden', 'output', 'skip', 'unread' or None, got {self.role!r}."
      )
    # Through check_number, since a rule's weight may not be traced.
    weight = check_number("weight", self.weight)
    check_weight("weight", weight)
    object.__setattr__(self, "weight", weight)

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
    return _compiled(self.pattern).fullmatch(path) is not None


# A rule for every layer of a large model: more than the cache of re holds.
_compiled = functools.cache(re.compile)


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


class Match(NamedTuple):
  """What the rules say of a path.

  Attributes:
    winner: the first rule that matches; it says the weight. None: no rule does.
    reader: the first that says what the parameter is: the winner, or a later one with
      axes, or a reason to skip. So ``[LayerRule("head/kernel", role="output"),
      *layer_rules(model)]`` keeps the axes of the model.
    role: that of the reader, if it skips; else the first that a rule says; else None.
  """

  winner: LayerRule | None
  reader: LayerRule | None
  role: Role | None

  @property
  def is_skipped(self) -> bool:
    return self.role in SKIPPING


def match(rules: Sequence[LayerRule], path: str) -> Match:
  """The rules that hold for a path."""
  matching = [rule for rule in rules if rule.matches(path)]
  first = matching[0] if matching else None
  role: Role | None = next((r.role for r in matching if r.role in ROLES), None)
  for rule in matching:
    if rule.role in SKIPPING and (rule.reason or rule is first):
      return Match(first, rule, rule.role)
    if rule.axes is not None:
      return Match(first, rule, role)
  return Match(first, first, role)


def check_matches(
  rules: Sequence[LayerRule], matches: Mapping[str, Match], skipped: Mapping[str, str]
) -> None:
  """A ValueError if a rule is without effect on a tree.

  Args:
    rules: in their order.
    matches: what they say of all parameters, by path.
    skipped: those without neurons, with the reason.
  """
  paths = list(matches)
  holes = [path for path, reason in skipped.items() if reason in ("masked", "None")]
  for rule in rules:
    if rule.optional:
      continue
    matched = [path for path in paths if rule.matches(path)]
    # Of two equal rules the second wins nothing: identities, not equality.
    won = [path for path in matched if any(rule is r for r in matches[path])]
    # A hole may stand for a whole branch of the tree.
    if not won and any(_may_match_below(rule.pattern, path) for path in holes):
      continue
    if not matched:
      close = difflib.get_close_matches(rule.pattern, paths, n=5, cutoff=0.0)
      raise ValueError(
        f"LayerRule pattern {rule.pattern!r} matches no path (it must match the "
        f"whole path); closest: {close or 'params is empty'}."
      )
    if not won:
      earlier = matches[matched[0]].winner
      assert earlier is not None
      raise ValueError(
        f"LayerRule pattern {rule.pattern!r} never wins: an earlier rule, "
        f"{earlier.pattern!r}, takes its match {matched[0]!r}, and the first match "
        "wins; put the special rule before the general one."
      )
    reasons = {path: skipped.get(path) for path in won}
    if not any(_is_excused(rule, reason) for reason in reasons.values()):
      raise ValueError(
        f"LayerRule pattern {rule.pattern!r} matches no neurons: {reasons}."
      )


def _is_excused(rule, reason) -> bool:
  """Whether a rule may match a parameter that has no neurons for this reason."""
  if rule.role in SKIPPING or reason is None:
    return True
  # Trees of a partition have holes where another part has the parameter; and a
  # classifier with one output is still the output layer.
  return reason in ("masked", "None") or (rule.axes is None and "no pairs" in reason)


def _may_match_below(pattern, branch) -> bool:
  """Whether a beginning of the pattern matches up to the keys below a branch."""
  if "|" in pattern:  # Its beginnings say nothing.
    return True
  for end in range(1, len(pattern) + 1):
    try:
      if re.fullmatch(pattern[:end], branch + "/"):
        return True
    except re.error:  # Cut inside a group or an escape.
      continue
  return False
