"""The blocks of the page on monitoring write what they say, with three loggers."""

import json
import os
import pathlib
import re
import struct
import subprocess
import sys

import numpy as np
import pytest
from excess import excess_by_hand

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "monitoring.md"
LAYERS = {"layers_0/kernel": 32, "layers_2/kernel": 32, "layers_4/kernel": 4}


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
  """Where the page's blocks have written, what they printed, and the first neurons."""
  folder = tmp_path_factory.mktemp("page")
  blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
  blocks.append('np.savez("neurons.npz", **neuron_matrices(initial, rules=rules))\n')
  # A network that cannot be reached: whatever asks for it fails.
  nowhere = "http://127.0.0.1:9"
  closed = {name: nowhere for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")}
  wandb = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false",
           "WANDB_CACHE_DIR": str(folder), "WANDB_CONFIG_DIR": str(folder),
           "WANDB_DATA_DIR": str(folder), "WANDB_API_KEY": ""}  # fmt: skip
  ran = subprocess.run(
    [sys.executable, "-c", "\n".join(blocks)],
    check=False,
    capture_output=True,
    text=True,
    cwd=folder,
    env={**os.environ, **closed, **wandb},
    timeout=300,
  )
  assert ran.returncode == 0, ran.stderr
  neurons = dict(np.load(folder / "neurons.npz"))
  return folder / "runs" / "monitoring", ran.stdout, neurons


@pytest.fixture(scope="module")
def written(logs):
  """The lines of the plain log, by step."""
  lines = (logs[0] / "log.jsonl").read_text().splitlines()
  return {line.pop("step"): line for line in map(json.loads, lines)}


def test_the_plain_log_has_every_layer(logs, written):
  _, output, neurons = logs
  assert list(written) == [0, 10, 20, 30]
  for metrics in written.values():
    assert metrics.keys() == {"loss", *(f"excess/{path}" for path in LAYERS)}
  # At the start: against sums over all pairs in float64.
  for path, w in neurons.items():
    expected = excess_by_hand(w, half_space=path != "layers_4/kernel")
    assert written[0][f"excess/{path}"] == pytest.approx(expected, rel=1e-4)
  # It is the same whichever way it is asked for: a line of each step.
  printed = re.findall(r"'layers_2/kernel': ([\d.]+)", output)
  assert len(printed) == 2
  for value in printed:
    first = written[0]["excess/layers_2/kernel"]
    assert float(value) == pytest.approx(first, rel=1e-4)
  # The energy does its work.
  assert written[30]["excess/layers_2/kernel"] < 0.8


def test_tensorboard_shows_the_same_curves(logs, written):
  events = read_events(logs[0] / "tensorboard")
  names = set(written[0])
  assert set(events.Tags()["scalars"]) == names
  for name in names:
    found = {event.step: event.value for event in events.Scalars(name)}
    assert found == {
      step: pytest.approx(metrics[name], rel=1e-6) for step, metrics in written.items()
    }


def test_tensorboard_has_histograms_of_the_angles(logs):
  folder, _, neurons = logs
  events = read_events(folder / "tensorboard")
  assert set(events.Tags()["histograms"]) == {f"angles/{path}" for path in LAYERS}
  for path, n in LAYERS.items():
    found = events.Histograms(f"angles/{path}")
    assert [event.step for event in found] == [0, 20]
    assert [event.histogram_value.num for event in found] == [n, n]
    u = neurons[path] / np.linalg.norm(neurons[path], axis=1, keepdims=True)
    cosines = np.abs(u @ u.T) if path != "layers_4/kernel" else u @ u.T
    np.fill_diagonal(cosines, -1.0)
    counts, edges = np.histogram(
      np.degrees(np.arccos(cosines.max(1))), np.arange(0.0, 185.0, 5.0)
    )
    first = found[0].histogram_value
    drawn = {x: c for x, c in zip(first.bucket_limit, first.bucket) if c}
    assert drawn == {x: c for x, c in zip(edges[1:], counts) if c}


def read_events(folder):
  from tensorboard.backend.event_processing import event_accumulator

  everything = {"scalars": 0, "histograms": 0}
  return event_accumulator.EventAccumulator(str(folder), everything).Reload()


def test_the_offline_run_of_wandb_has_the_same_numbers(logs, written):
  from wandb.proto import wandb_internal_pb2

  (path,) = (logs[0] / "wandb").glob("offline-run-*/run-*.wandb")
  found = {}
  for data in records(path.read_bytes()):
    record = wandb_internal_pb2.Record.FromString(data)
    if record.WhichOneof("record_type") == "history":
      row = {"/".join(x.nested_key) or x.key: x.value_json for x in record.history.item}
      numbers = {k: json.loads(v) for k, v in row.items()}
      step = numbers.pop("_step")
      found[step] = {k: v for k, v in numbers.items() if not k.startswith("_")}
  assert found == {
    step: pytest.approx(metrics, rel=1e-6) for step, metrics in written.items()
  }


def records(data):
  """The records of the file of a run.

  It is the log of LevelDB: blocks of 32 KiB of pieces, each with a checksum (4 bytes),
  a length (2), and a kind (1): whole, first, middle or last of a record. A piece does
  not cross a block, and what is too short for the head of one is skipped. Before the
  first stand 7 bytes that name the format.
  """
  assert data.startswith(b":W&B")
  at, whole = 7, b""
  while at + 7 <= len(data):
    left = 32768 - at % 32768
    if left < 7:
      at += left
      continue
    length, kind = struct.unpack_from("<HB", data, at + 4)
    whole += data[at + 7 : at + 7 + length]
    at += 7 + length
    if kind in (1, 4):
      yield whole
      whole = b""
