"""The command: arguments, a progress bar where there is a terminal, files."""

import contextlib
import dataclasses
import importlib.metadata
import io
import os
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Annotated, Any

from mhe_jax.layers.axes import NeuronAxes
from mhe_jax.layers.rules import LayerRule
from mhe_jax.objectives.relative import RECOMMENDED
from mhe_jax.potentials.base import Potential
from mhe_jax.potentials.gaussian import Gaussian
from mhe_jax.potentials.riesz import Riesz
from mhe_jax.report.checkpoint import open_checkpoint
from mhe_jax.report.errors import InputError
from mhe_jax.report.make import EXACT_UP_TO, Progress, compare, redundancy
from mhe_jax.report.programs import fill_leaves, made_by, rules_of_model
from mhe_jax.report.tables import printable


@dataclasses.dataclass(frozen=True)
class Arguments:
  """How redundant is each layer of a checkpoint, and how did it change?

  Attributes:
    checkpoint: .safetensors or .npz, a folder with one or with an index of safetensors,
      or a folder of orbax.
    against: the checkpoint it came from: what changed?
    rule: PATTERN=AXES, tried in order before the names are; PATTERN is a regular
      expression for the whole name of a tensor, AXES the axes of its neurons, as 0 or
      -2,-1; with batch:AXIS for independent layers, groups:COUNT for equal sets one
      after the other, turns:COUNT if these take turns; or skip, output.
    model: MODULE:FUNCTION, of a checkpoint of JAX; the function, without arguments,
      returns what layer_rules takes: (function, params, *inputs) or (module, *inputs);
      of .eqx it has the names too.
    potential: riesz:S, riesz:S:geodesic, or gaussian:T; by default riesz:2, and less
      where that has no scale, for neurons of two or three weights.
    full_space: w and -w are different, in hidden layers too.
    exact_up_to: the most neurons of which all pairs are looked at; of more, a sample.
    output: folder for the rows, from which the same command goes on if it is stopped.
    json: file for the report as JSON.
    csv: file for its rows as CSV.
    html: file for it as a page.
    version: only say the version of mhe_jax.
  """

  checkpoint: pathlib.Path
  against: pathlib.Path | None = None
  rule: tuple[str, ...] = ()
  model: str = ""
  potential: str | None = None
  full_space: bool = False
  exact_up_to: int = EXACT_UP_TO
  output: pathlib.Path | None = None
  json: pathlib.Path | None = None
  csv: pathlib.Path | None = None
  html: pathlib.Path | None = None
  version: bool = False


def main(arguments: list[str] | None = None) -> None:
  """``mhe_jax``: prints a report; exit code 2 if it cannot be made as asked.

  Args:
    arguments: of the command; those of the process by default.
  """
  for stream in (sys.stdout, sys.stderr):
    # A terminal that lacks a letter of a name shows a question mark, not an error.
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors="replace")
  try:
    import tyro  # noqa: PLC0415
  except ImportError:
    print("The command needs: pip install rich safetensors tyro.", file=sys.stderr)
    sys.exit(2)
  if "--version" in (sys.argv[1:] if arguments is None else arguments):
    print(importlib.metadata.version("mhe_jax"))
    return
  is_script = pathlib.Path(sys.argv[0]).stem == "mhe_jax"
  parsed = tyro.cli(
    Annotated[
      Arguments,
      tyro.conf.arg(name=""),
      tyro.conf.UseAppendAction,
    ],
    args=arguments,
    prog="mhe_jax" if is_script else "python -m mhe_jax.report",
    config=(tyro.conf.PositionalRequiredArgs, tyro.conf.UseAppendAction),
  )
  try:
    _run(parsed)
  except InputError as error:
    print(printable(str(error)), file=sys.stderr)
    sys.exit(2)
  except BrokenPipeError:  # Who reads has seen enough, as head does.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  except KeyboardInterrupt:
    hint = "; the same command goes on" if parsed.output else ""
    print(f"Stopped{hint}.", file=sys.stderr)
    sys.exit(130)


def _run(arguments: Arguments) -> None:
  if arguments.exact_up_to < 2:
    raise InputError(f"exact-up-to must be at least 2, got {arguments.exact_up_to}.")
  rules = [rule_of(text) for text in arguments.rule]
  checkpoint: Any = arguments.checkpoint
  if arguments.model:
    made = made_by(arguments.model)
    if arguments.checkpoint.suffix == ".eqx":
      checkpoint = fill_leaves(made, arguments.checkpoint)
    rules += rules_of_model(arguments.model, made, open_checkpoint(checkpoint))
  potential = RECOMMENDED
  if arguments.potential is not None:
    potential = potential_of(arguments.potential)
  files = _files(arguments)
  with _bar() as progress:
    options: dict[str, Any] = dict(
      half_space=not arguments.full_space,
      rules=rules,
      exact_up_to=arguments.exact_up_to,
      output=arguments.output,
      progress=progress,
    )
    if arguments.against is None:
      report = redundancy(checkpoint, potential, **options)
    else:
      report = compare(checkpoint, arguments.against, potential, **options)
  if not report.rows:
    raise InputError(report.nothing_read)
  failed = []
  for kind, path in files.items():
    try:
      text = getattr(report, f"to_{kind}")()
      path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
      failed.append(f"{kind} cannot be written: {error}.")
  print(report, flush=True)  # After hours, also if a file is lost.
  if failed:
    raise InputError("\n".join(failed))


def _files(arguments) -> dict[str, pathlib.Path]:
  """Files for the report; an error now and not after hours, if one cannot be."""
  kinds = ("json", "csv", "html")
  files = {k: path for k in kinds if (path := getattr(arguments, k)) is not None}
  if not files:
    return {}
  taken = _files_of(arguments.checkpoint) | _files_of(arguments.against)
  places: dict[pathlib.Path, str] = {}
  for kind, path in files.items():
    try:
      place = path.resolve()
      if not place.parent.is_dir():
        raise InputError(f"{kind}: {path} must be in a folder that is there.")
      if place.is_dir():
        raise InputError(f"{kind} must be a file, but {path} is a folder.")
    except OSError as error:
      raise InputError(f"{kind}: {path} cannot be written: {error}.") from error
    if not os.access(place if place.exists() else place.parent, os.W_OK):
      raise InputError(f"{kind}: {path} cannot be written: no permission.")
    if place in places:
      raise InputError(f"{kind} and {places[place]} must be different files: {path}.")
    if place in taken:
      raise InputError(f"{kind}: {path} is of a checkpoint, and would be overwritten.")
    places[place] = kind
  return files


def _files_of(checkpoint) -> set[pathlib.Path]:
  """What must not be overwritten."""
  if checkpoint is None:
    return set()
  files = open_checkpoint(checkpoint).files
  return {path.resolve() for path in (*files, files[0].with_name("config.json"))}


@contextlib.contextmanager
def _bar() -> Iterator[Progress | None]:
  """A progress bar on stderr, if that is a terminal and rich is there."""
  if sys.stderr is None or not sys.stderr.isatty():  # None: it was closed.
    yield None
    return
  try:
    import rich.console  # noqa: PLC0415
    import rich.progress  # noqa: PLC0415
    from rich.markup import escape  # noqa: PLC0415
  except ImportError:
    yield None
    return
  console = rich.console.Console(stderr=True)
  with rich.progress.Progress(console=console, transient=True) as bar:
    task = bar.add_task("reading", total=None)

    def progress(done, total, name):
      # Names are a stranger's, and brackets mean colors.
      name = printable(escape(name))
      bar.update(task, completed=done, total=total, description=name)

    yield progress


def rule_of(text: str) -> LayerRule:
  """A rule as the command has it: ``PATTERN=AXES``.

  Raises:
    InputError: it is not one.

  Example:
    >>> from mhe_jax.report.command import rule_of
    >>> rule_of(".*expert.*=-1,batch:0")
    LayerRule('.*expert.*', NeuronAxes(-1, batch=0))
  """
  pattern, separator, what = text.rpartition("=")
  if not separator:
    raise InputError(f"rule must be PATTERN=AXES, got {text!r}.")
  neurons, batch, groups, turns, roles = [], [], [], [], []
  for word in filter(None, map(str.strip, what.split(","))):
    if re.fullmatch(r"-?\d+", word):
      neurons.append(int(word))
    elif match := re.fullmatch(r"batch:(-?\d+)", word):
      batch.append(int(match[1]))
    elif match := re.fullmatch(r"groups:(\d+)", word):
      groups.append(int(match[1]))
    elif match := re.fullmatch(r"turns:(\d+)", word):
      turns.append(int(match[1]))
    elif word in ("skip", "output", "hidden"):
      roles.append(word)
    else:
      raise InputError(
        "rule must end with axes (0 or -2,-1), batch:AXIS, groups:COUNT, "
        f"turns:COUNT, skip or output, got {word!r} in {text!r}."
      )
  if not neurons and (batch or groups or turns):
    raise InputError(f"rule must name an axis of neurons, got {text!r}.")
  if turns and not groups:
    raise InputError(f"rule must say the groups that take turns, got {text!r}.")
  if (
    len(groups) > 1 or len(turns) > 1 or len(roles) > 1 or (neurons and "skip" in roles)
  ):
    raise InputError(f"rule must say one thing, got {text!r}.")
  try:
    axes = None
    if neurons:
      axes = NeuronAxes(tuple(neurons), tuple(batch), *groups, *turns)
    return LayerRule(pattern, axes, *roles)
  except ValueError as error:
    raise InputError(f"rule {text!r}: {error}") from None


def potential_of(text: str) -> Potential:
  """A potential as the command has it: ``riesz:S``, or ``gaussian:T``.

  Raises:
    InputError: it is not one.

  Example:
    >>> from mhe_jax.report.command import potential_of
    >>> potential_of("riesz:2")
    Riesz(s=2.0, metric='chordal', eps=None)
  """
  kind, *numbers = text.split(":")
  try:
    if kind == "riesz" and len(numbers) == 2 and numbers[1] in ("chordal", "geodesic"):
      return Riesz(float(numbers[0]), numbers[1])  # pyright: ignore[reportArgumentType]
    if kind == "riesz" and len(numbers) == 1:
      return Riesz(float(numbers[0]))
    if kind == "gaussian" and len(numbers) == 1:
      return Gaussian(float(numbers[0]))
  except (ValueError, TypeError) as error:
    raise InputError(f"potential {text!r}: {error}") from error
  raise InputError(
    f"potential must be riesz:S, riesz:S:geodesic or gaussian:T, got {text!r}."
  )
