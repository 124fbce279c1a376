"""State of an unfinished run on disk, through orbax: complete or not there at all."""

import pathlib
import shutil
from typing import Any

import jax
import orbax.checkpoint as ocp

from experiments.errors import InputError


class Checkpoints:
  """The newest state of a run, and its log.

  Args:
    folder: is made when something is saved.

  Attributes:
    folder: its absolute path.

  Raises:
    InputError: nothing could be read again from a folder of this name.
  """

  def __init__(self, folder: pathlib.Path):
    self.folder = folder.absolute()
    if "[" in str(self.folder):  # Orbax takes it for the start of a pattern.
      raise InputError(f"output must have no '[' in its path, got {folder.parent}.")
    options = ocp.CheckpointManagerOptions(
      max_to_keep=1, create=False, enable_async_checkpointing=False
    )
    self._manager = ocp.CheckpointManager(self.folder, options=options)

  def exist(self) -> bool:
    """Whether there is something to go on from."""
    return self._manager.latest_step() is not None

  def save(self, step: int, state: Any, log: dict) -> None:
    """Replaces what was saved before, once all is on disk."""
    self.folder.mkdir(parents=True, exist_ok=True)
    arguments = ocp.args.Composite(
      state=ocp.args.StandardSave(state), log=ocp.args.JsonSave(log)
    )
    self._manager.save(step, args=arguments)

  def restore(self, like: Any) -> tuple[Any, dict]:
    """State and log.

    Args:
      like: a state of the same structure.

    Raises:
      InputError: they cannot be read.
    """
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    arguments = ocp.args.Composite(
      state=ocp.args.StandardRestore(abstract), log=ocp.args.JsonRestore()
    )
    try:
      restored = self._manager.restore(self._manager.latest_step(), args=arguments)
    except Exception as error:
      reason = f"{type(error).__name__}: {error}".splitlines()[0]
      raise InputError(
        f"{self.folder} cannot be read; delete it, and the run begins again. {reason}"
      ) from error
    return restored["state"], restored["log"]

  def close(self) -> None:
    """Keeps all, after the run."""
    self._manager.close()

  def remove(self) -> None:
    """Deletes all, after the run."""
    self.close()
    shutil.rmtree(self.folder, ignore_errors=True)
