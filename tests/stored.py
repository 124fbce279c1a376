"""Checkpoints of random numbers by their names and shapes, and what is read of them."""

import json

import numpy as np
from safetensors.numpy import save_file
from sets import normals

from mhe_jax.report.checkpoint import open_checkpoint
from mhe_jax.report.layers import select_layers


def select(folder, shapes, config=None, writer="pt"):
  """What is made of tensors of these shapes, and the tensors."""
  tensors = normals(shapes)
  save_file(tensors, folder / "model.safetensors", metadata={"format": writer})
  if config is not None:
    (folder / "config.json").write_text(json.dumps(config))
  return select_layers(open_checkpoint(folder), None), tensors


def matrices(selected, tensors):
  """All sets of neurons by name; that of a layer with one set alone is a matrix."""
  found = {}
  for layer in selected.layers:
    sets = layer.part.matrices(tensors[layer.tensor.name])
    assert sets.shape == layer.shape
    found[layer.name] = sets[0] if len(sets) == 1 else sets
  return found


def check_parts(found, name, parts, rows):
  """Parts of the outputs, ``[in, ...]`` with features last, are rows of the weight."""
  assert {key for key in found if key.startswith(name)} == {
    f"{name}[{label}]" for label in parts
  }
  for label, part in parts.items():
    expected = part.reshape(len(part), -1).T
    np.testing.assert_array_equal(found[f"{name}[{label}]"], expected)
  assert sum(len(found[f"{name}[{label}]"]) for label in parts) == rows
