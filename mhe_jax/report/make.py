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
from mhe_jax.objectives.relative import RECOMMENDED, RecommendedExcess
from mhe_jax.potentials.base import Potential, check_potential
from mhe_jax.report.checkpoint import Checkpoint, open_checkpoint
from mhe_jax.report.errors import InputError
from mhe_jax.report.findings import FEWEST
from mhe_jax.report.journal import Journal
from mhe_jax.report.layers import Selected, StoredLayer, select_layers
from mhe_jax.report.parts import ASSUMED
from mhe_jax.report.readers.orbax import TREE
from mhe_jax.report.reports import ComparisonReport, RedundancyReport
from mhe_jax.report.rows import (
  ComparisonRow,
  Options,
  RedundancyRow,
  comparison_row,
  redundancy_row,
)
from mhe_jax.report.stored import dotted

Path = str | pathlib.Path
Source = Any  # A path, or a tree of arrays, or a module.
# Called with the work done so far, all of it, and the layer that is next.
Progress = Callable[[float, float, str], None]
# All pairs of as many rows of 4,096 weights take two minutes on two cores.
EXACT_UP_TO = 32768
ROWS = "rows.jsonl"


def redundancy(
  checkpoint: Source,
  potential: Potential | RecommendedExcess = RECOMMENDED,
  *,
  half_space: bool = True,
  rules: Sequence[LayerRule] | None = None,
  exact_up_to: int = EXACT_UP_TO,
  output: Path | None = None,
  progress: Progress | None = None,
) -> RedundancyReport:
  """How redundant is each layer of a checkpoint on disk, or of a tree in memory?

  Where the neurons are follows from evidence: rules, the classes of modules,
  ``config.json``, the shapes of the tensors around one, and names that mean one thing.
  What these do not tell is listed; what is read as (out, in) with nothing that says so
  is marked as assumed, and in no verdict. One tensor of a file is in memory at a time,
  and no matrix of all pairs.

  Args:
    checkpoint: a tree of arrays: parameters, a module of nnx or Equinox, a state of
      PyTorch; or the path of a file ``.safetensors``, ``.npz``, ``.npy``, ``.msgpack``
      or ``.eqx``, of a folder with one, or with an index of safetensors as on the
      Hugging Face hub, or of a folder of orbax.
    potential: the pair potential. By default ``Riesz(2.0)``; where that has no scale,
      for neurons of two or three weights, the largest whole s that has one, which the
      row says.
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
  header = _header("redundancy", options, rules, {"checkpoint": opened}, output)

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
    rows,
    selected.skipped,
    selected.unknown,
    str(opened.path),
    options,
    layers={layer.name: layer for layer in selected.layers},
  )


def compare(
  checkpoint: Source,
  base: Source,
  potential: Potential | RecommendedExcess = RECOMMENDED,
  *,
  half_space: bool = True,
  rules: Sequence[LayerRule] | None = None,
  exact_up_to: int = EXACT_UP_TO,
  output: Path | None = None,
  progress: Progress | None = None,
) -> ComparisonReport:
  """What did training, merging or editing do to the layers of a checkpoint?

  Layers of the same name and size are compared, whether keys are joined by slashes or
  by dots, and in which order either library stores a layer; the others are listed. All
  but the
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
  _refuse_adapters(opened, against)
  selected, base_of = _match_layers(selected, opened, against, rules)
  header = _header(
    "comparison", options, rules, {"checkpoint": opened, "base": against}, output
  )

  def row_of(layer, tensor, arrays):
    of_base = base_of[layer.name]
    if of_base.tensor.name not in arrays:
      arrays.clear()  # The last are let go before the next are read.
      arrays[of_base.tensor.name] = of_base.tensor.load()
    base = arrays[of_base.tensor.name]
    return comparison_row(layer, tensor, of_base, base, options)

  def load(tensor):
    return tensor.load(), {}

  rows = _rows(selected.layers, row_of, load, output, header, ComparisonRow, progress)
  return ComparisonReport(
    rows,
    selected.skipped,
    selected.unknown,
    str(opened.path),
    options,
    base=str(against.path),
  )


def _options(potential, half_space, exact_up_to) -> Options:
  if potential is not RECOMMENDED:
    check_potential(potential)
  return Options(
    potential, bool(half_space), check_count("exact_up_to", exact_up_to, 2)
  )


def _header(
  kind, options, rules, checkpoints: dict[str, Checkpoint], output
) -> dict[str, Any]:
  """What the rows of a journal depend on."""
  if output is None:
    return {}
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
    # What is assumed, or has hardly a pair, does not lead.
    is_sure = row.evidence != ASSUMED
    return is_sure, row.n >= FEWEST, -math.inf if math.isnan(x) else x

  return tuple(sorted((known[x.name] for x in layers), key=change, reverse=True))


def _work(layer: StoredLayer) -> float:
  """Products of rows, of pairs and of coordinates: about in proportion to the time."""
  sets, n, d = layer.shape
  return float(sets) * n * d * (min(n, EXACT_UP_TO) + min(n, d))


def _refuse_adapters(opened: Checkpoint, against: Checkpoint) -> None:
  names = {tensor.name for tensor in opened.tensors}
  if any("lora_" in name.lower() for name in names) and not _called(opened, against):
    raise InputError(
      f"{opened.path} is an adapter (LoRA), not a model: it has no weights of the "
      "base. Merge it into its base first (merge_and_unload of peft), or report it "
      "alone."
    )


def _called(opened: Checkpoint, against: Checkpoint) -> dict[str, str]:
  """The names that the checkpoint has for tensors of the base.

  Libraries write the same keys differently: with slashes or dots between them, nnx with
  ``value`` as the last, Flax ``kernel`` for what others call ``weight``.
  """

  def key(name):
    name = dotted(name).removesuffix(".value").removeprefix("params.")
    module, _, last = name.rpartition(".")
    return f"{module}.weight" if last in ("kernel", "embedding") else name

  ours: dict[str, list[str]] = {}
  for tensor in opened.tensors:
    ours.setdefault(key(tensor.name), []).append(tensor.name)
  counts = collections.Counter(key(tensor.name) for tensor in against.tensors)
  exact = {tensor.name for tensor in opened.tensors}
  called = {}
  for tensor in against.tensors:
    same = ours.get(key(tensor.name), [])
    if len(same) == counts[key(tensor.name)] == 1:
      called[tensor.name] = same[0]
    elif tensor.name in exact:
      called[tensor.name] = tensor.name
  return called


def _match_layers(
  selected: Selected, opened: Checkpoint, against: Checkpoint, rules
) -> tuple[Selected, dict[str, StoredLayer]]:
  """The layers that are in both, with those of the base, perhaps stored otherwise.

  What is not in both is added to what is unknown.
  """
  called = _called(opened, against)
  # Names mean what they mean in the checkpoint, if nothing is said of the base.
  of_base = select_layers(
    dataclasses.replace(against, config=against.config or opened.config),
    [dataclasses.replace(rule, optional=True) for rule in rules or ()],
    called,
  )
  there = {called.get(t.name, t.name): t for t in against.tensors}
  readable = {
    (called.get(layer.tensor.name, layer.tensor.name), layer.part.label): layer
    for layer in of_base.layers
  }
  reasons = {
    called.get(name, name): reason
    for name, reason in {**of_base.skipped, **of_base.unknown}.items()
  }
  layers, unknown, base_of = [], dict(selected.unknown), {}
  for layer in selected.layers:
    name = layer.tensor.name
    alike = readable.get((name, layer.part.label))
    if name not in there:
      unknown[name] = "not in the base"
    elif alike is None and name in reasons:
      unknown[name] = f"not read in the base: {reasons[name]}"
    elif alike is None or alike.shape != layer.shape:
      unknown[name] = f"of shape {there[name].shape} in the base"
    else:
      base_of[layer.name] = alike
      layers.append(layer)
  names = {tensor.name for tensor in opened.tensors}
  for layer in of_base.layers:
    if (name := called.get(layer.tensor.name, layer.tensor.name)) not in names:
      unknown[name] = "only in the base"
  return Selected(tuple(layers), selected.skipped, unknown), base_of
