"""The two reports, made tensor by tensor."""

import collections
import dataclasses
import importlib.metadata
import itertools
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from mhe_jax.checks import check_count
from mhe_jax.layers.rules import LayerRule
from mhe_jax.potentials.base import Potential, check_potential
from mhe_jax.potentials.riesz import Riesz
from mhe_jax.report.checkpoint import Checkpoint, open_checkpoint
from mhe_jax.report.errors import InputError
from mhe_jax.report.journal import Journal
from mhe_jax.report.layers import Selected, StoredLayer, select_layers
from mhe_jax.report.parts import dotted
from mhe_jax.report.readers.orbax import TREE
from mhe_jax.report.reports import ComparisonReport, RedundancyReport
from mhe_jax.report.rows import (
  ComparisonRow,
  Options,
  RedundancyRow,
  comparison_row,
  redundancy_row,
)

Path = str | pathlib.Path
# Called with the work done so far, all of it, and the layer that is next.
Progress = Callable[[float, float, str], None]
# All pairs of as many rows of 4,096 weights take two minutes on two cores.
EXACT_UP_TO = 32768
ROWS = "rows.jsonl"


def redundancy(
  checkpoint: Path,
  potential: Potential = Riesz(1.0),
  *,
  half_space: bool = True,
  rules: Sequence[LayerRule] | None = None,
  exact_up_to: int = EXACT_UP_TO,
  output: Path | None = None,
  progress: Progress | None = None,
) -> RedundancyReport:
  """How redundant is each layer of a checkpoint on disk?

  Where the neurons are follows from the names, for Flax as in
  :func:`mhe_jax.describe`, for PyTorch by a table of architectures; what these do not
  tell is listed and not guessed. One tensor is in memory at a time, and no matrix of
  all pairs.

  Args:
    checkpoint: a file ``.safetensors`` or ``.npz``, a folder with one, or with an
      index of safetensors as on the Hugging Face hub, or a folder of orbax.
    potential: the pair potential.
    half_space: use the half-space energy, and angles of lines, for hidden layers.
    rules: how to read tensors by their names as stored; see :class:`LayerRule`.
    exact_up_to: the most neurons of which all pairs are looked at. Of larger layers
      energy, smallest angle and twins are those of a sample, and marked as such.
    output: folder to which each row is written as soon as it is known. A later call
      with the same arguments, for the same files, computes only what is missing.
    progress: is told of the progress.

  Returns:
    A :class:`RedundancyReport`, which prints as a table, the most redundant first.

  Raises:
    InputError: the checkpoint cannot be read; a rule matches nothing; ``output`` holds
      another report. It is a ``ValueError``.
    TypeError: ``potential`` is not a :class:`Potential`, or ``rules`` are no rules.
    ValueError: ``exact_up_to`` is not a whole number >= 2.

  Example:
    >>> import tempfile
    >>> import numpy as np
    >>> from mhe_jax import Riesz
    >>> from mhe_jax.report import redundancy
    >>> path = tempfile.mkdtemp() + "/model.npz"
    >>> np.savez(path, **{"body.weight": np.eye(4), "body.bias": np.zeros(4)})
    >>> report = redundancy(path, Riesz(2.0))
    >>> abs(round(report["body.weight"].relative_excess, 3))
    0.0
    >>> report.skipped
    {'body.bias': 'fewer than two axes'}
  """
  options = _options(potential, half_space, exact_up_to)
  opened = open_checkpoint(checkpoint)
  _check_output(output, opened)
  selected = select_layers(opened, rules)
  header = _header("redundancy", options, rules, {"checkpoint": opened})

  def row_of(layer, tensor):
    return redundancy_row(layer, tensor, options)

  rows = _rows(
    selected.layers,
    row_of,
    lambda t: (t.load(),),
    output,
    header,
    RedundancyRow,
    progress,
  )
  return RedundancyReport(
    rows, selected.skipped, selected.unknown, str(checkpoint), options
  )


def compare(
  checkpoint: Path,
  base: Path,
  potential: Potential = Riesz(1.0),
  *,
  half_space: bool = True,
  rules: Sequence[LayerRule] | None = None,
  exact_up_to: int = EXACT_UP_TO,
  output: Path | None = None,
  progress: Progress | None = None,
) -> ComparisonReport:
  """What did training, merging or editing do to the layers of a checkpoint?

  Tensors of the same name and shape are compared, whether keys are joined by slashes
  or by dots; the others are listed. All but the
  energies is exact at every size, in O(n d^2) time and O(n d) memory.

  Args:
    checkpoint: as of :func:`redundancy`.
    base: what it came from, likewise; of any of these formats.
    potential: as of :func:`redundancy`, and so the other arguments.
    half_space: use the half-space energy for hidden layers.
    rules: how to read tensors by their names.
    exact_up_to: the most neurons of which energies are exact.
    output: folder for the rows, from which a later call goes on.
    progress: is told of the progress.

  Returns:
    A :class:`ComparisonReport`, which prints as a table, the most changed first.

  Raises:
    InputError: a checkpoint cannot be read, or is an adapter (LoRA) that has no
      weights of its own to compare; ``output`` holds another report.
    TypeError, ValueError: as of :func:`redundancy`.

  Example:
    >>> import tempfile
    >>> import numpy as np
    >>> from mhe_jax.report import compare
    >>> folder = tempfile.mkdtemp()
    >>> turn = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    >>> np.savez(folder + "/a.npz", **{"body.weight": np.eye(4)[:3]})
    >>> np.savez(folder + "/b.npz", **{"body.weight": np.eye(4)[:3] @ turn})
    >>> (row,) = compare(folder + "/b.npz", folder + "/a.npz")
    >>> row.moved > 0.5, row.moved_unrotated < 1e-6, row.cosine_change < 1e-6
    (True, True, True)
  """
  options = _options(potential, half_space, exact_up_to)
  opened, against = open_checkpoint(checkpoint), open_checkpoint(base)
  _check_output(output, opened, against)
  selected = select_layers(opened, rules)
  header = _header(
    "comparison", options, rules, {"checkpoint": opened, "base": against}
  )
  against = _named_alike(against, opened)
  in_base = {tensor.name: tensor for tensor in against.tensors}
  _refuse_adapters(opened, in_base)
  selected = _in_both(selected, opened, against, rules)

  def row_of(layer, tensor, of_base):
    return comparison_row(layer, tensor, of_base, options)

  def load(tensor):
    return tensor.load(), in_base[tensor.name].load()

  rows = _rows(selected.layers, row_of, load, output, header, ComparisonRow, progress)
  return ComparisonReport(
    rows,
    selected.skipped,
    selected.unknown,
    str(checkpoint),
    options,
    base=str(base),
  )


def _options(potential, half_space, exact_up_to) -> Options:
  check_potential(potential)
  return Options(
    potential, bool(half_space), check_count("exact_up_to", exact_up_to, 2)
  )


def _header(kind, options, rules, checkpoints: dict[str, Checkpoint]) -> dict[str, Any]:
  """What the rows of a journal depend on."""
  return {
    "report": kind,
    "version": importlib.metadata.version("mhe_jax"),
    "potential": str(options.potential),
    "half_space": options.half_space,
    "exact_up_to": options.exact_up_to,
    "rules": [str(rule) for rule in rules or ()],
    **{name: opened.fingerprint for name, opened in checkpoints.items()},
  }


def _check_output(output, *checkpoints: Checkpoint) -> None:
  """Rows in a tree of orbax, all files of which count, would make it another."""
  if output is None:
    return
  folder = pathlib.Path(output).resolve()
  for checkpoint in checkpoints:
    for path in checkpoint.files:
      if path.name == TREE and path.parent.resolve() in (folder, *folder.parents):
        raise InputError(f"output must not be in the checkpoint, got {output}.")


def _rows(layers, row_of, load, output, header, row_class, progress) -> tuple:
  """A row for each layer, those that are known already from the journal; sorted."""
  journal = None
  if output is not None:
    journal = Journal(pathlib.Path(output) / ROWS, row_class, header)
  known = dict(journal.rows) if journal else {}
  total, done = sum(map(_work, layers)), 0.0
  try:
    for tensor, parts in itertools.groupby(layers, key=lambda layer: layer.tensor):
      arrays = ()  # The last are let go before the next are read.
      for layer in parts:
        if progress:
          progress(done, total, layer.name)
        if layer.name not in known:
          arrays = arrays or load(tensor)
          known[layer.name] = row_of(layer, *arrays)
          if journal:
            journal.add(known[layer.name])
        done += _work(layer)
  finally:
    if journal:
      journal.close()
  if progress:
    progress(total, total, "")

  def change(row):
    x = getattr(row, row_class.order)
    return -math.inf if math.isnan(x) else x

  return tuple(sorted((known[x.name] for x in layers), key=change, reverse=True))


def _work(layer: StoredLayer) -> float:
  """Products of rows, of pairs and of coordinates: about in proportion to the time."""
  sets, n, d = layer.shape
  return float(sets) * n * d * (min(n, EXACT_UP_TO) + min(n, d))


def _refuse_adapters(opened: Checkpoint, in_base) -> None:
  names = [tensor.name for tensor in opened.tensors]
  if any("lora_" in name.lower() for name in names) and not {*names} & {*in_base}:
    raise InputError(
      f"{opened.path} is an adapter (LoRA), not a model: it has no weights of the "
      "base. Merge it into its base first (merge_and_unload of peft), or report it "
      "alone."
    )


def _named_alike(against: Checkpoint, opened: Checkpoint) -> Checkpoint:
  """The base, its tensors by the names that the checkpoint has for them.

  Formats write the same keys differently: with slashes or dots between them, and nnx
  with ``value`` as the last.
  """

  def key(name):
    return dotted(name).removesuffix(".value")

  ours: dict[str, list[str]] = {}
  for tensor in opened.tensors:
    ours.setdefault(key(tensor.name), []).append(tensor.name)
  counts = collections.Counter(key(tensor.name) for tensor in against.tensors)
  tensors = []
  for tensor in against.tensors:
    same = ours.get(key(tensor.name), [])
    is_clear = len(same) == counts[key(tensor.name)] == 1
    name = same[0] if is_clear else tensor.name
    tensors.append(dataclasses.replace(tensor, name=name))
  return dataclasses.replace(against, tensors=tuple(tensors))


def _in_both(selected: Selected, opened: Checkpoint, against, rules) -> Selected:
  """The layers that are in both, and the tensors that are not as unknown."""
  # Of the base what may not be read, such as 8-bit floats with a scale for each block;
  # its names mean what they mean in the checkpoint.
  of_base = select_layers(
    dataclasses.replace(against, config=opened.config),
    [dataclasses.replace(rule, optional=True) for rule in rules or ()],
  )
  there = {tensor.name: tensor for tensor in against.tensors}
  readable = {layer.tensor.name for layer in of_base.layers}
  layers, unknown = [], dict(selected.unknown)
  for layer in selected.layers:
    name = layer.tensor.name
    if name not in there:
      unknown[name] = "not in the base"
    elif there[name].shape != layer.tensor.shape:
      unknown[name] = f"of shape {there[name].shape} in the base"
    elif name not in readable:
      reason = {**of_base.skipped, **of_base.unknown}[name]
      unknown[name] = f"not read in the base: {reason}"
    else:
      layers.append(layer)
  names = {tensor.name for tensor in opened.tensors}
  for layer in of_base.layers:
    if layer.tensor.name not in names:
      unknown[layer.tensor.name] = "only in the base"
  return Selected(tuple(layers), selected.skipped, unknown)
