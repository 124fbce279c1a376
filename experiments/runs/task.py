"""What the runner is told of a task: the only thing that it knows of one."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, Generic, Literal, Protocol, TypeVar

from experiments.runs.settings import RunSettings

S = TypeVar("S", bound=RunSettings)

Preset = Literal["smoke", "cpu", "paper"]  # Seconds; minutes to hours; accelerators.


class Diverged(Exception):  # noqa: N818  (an outcome of a run, as StopIteration is)
  """What a run raises, in a step or a measurement, when its numbers are no longer.

  The text says what happened, and what to try. The result of the run is then that: it
  has no final measures, and the last state that was saved is kept beside it.
  """


class Run(Protocol):
  """A run in progress: the runner trains it, measures it, saves it and goes on with it.

  Attributes:
    state: everything that steps change, a tree of arrays. Of the same structure in all
      runs of the same settings, for a run goes on by being started anew and given the
      state that was saved last.
  """

  state: Any

  @property
  def data_source(self) -> dict[str, str]:
    """Where the data are ``from``, a ``fingerprint``, and in which ``order`` they come.

    Without an order, it is the first that a task ever had.
    """
    ...

  def steps(self, first: int, last: int) -> Iterator[int]:
    """Trains; yields the number of each step, ``first + 1`` to ``last``.

    What a step does follows from its number, the settings and the state alone.

    Raises:
      Diverged: there is nothing to go on with; so does :meth:`measure`.
    """
    ...

  def measure(self, step: int) -> dict[str, Any]:
    """An entry of the history, for the JSON; begins with ``{"step": step}``."""
    ...

  def final_measures(self) -> dict[str, float | None]:
    """Results, for the JSON; None where a run that diverged has no number."""
    ...


@dataclasses.dataclass(frozen=True)
class Task(Generic[S]):
  """An experiment of many runs. Picklable: what it holds stands in modules.

  Attributes:
    module: of its command, as in ``python -m MODULE``.
    settings: class of the settings of a run.
    preset: settings by the names of a preset and, unless it is None, of a data set.
    start: a run, before its first step; the folder has local copies of data sets.
    tell: a finished run in some words, from its JSON.
  """

  module: str
  settings: type[S]
  preset: Callable[[Preset, str | None], S]
  start: Callable[[S, pathlib.Path | None], Run]
  tell: Callable[[dict], str]

  @property
  def output(self) -> pathlib.Path:
    """Where its results go if nothing else is named."""
    return pathlib.Path("runs") / self.module.rpartition(".")[2]
