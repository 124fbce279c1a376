"""Checkpoints on disk: every format, as stored, one tensor at a time, and no pickle."""

import functools
import io
import json
import os
import pathlib
import shlex
import tracemalloc
import zipfile

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tolerances
from flax import nnx
from safetensors.numpy import save_file
from sets import normal

from mhe_jax import NeuronAxes, Riesz, relative_excess
from mhe_jax.arrays import compute_dtype
from mhe_jax.layers.rules import LayerRule
from mhe_jax.report import InputError, redundancy

REPORTED = Riesz(2.0)  # The potential of a report, of neurons of four weights or more.
weights = functools.partial(normal, dtype=np.float32)
TENSORS = {
  "body.0.weight": weights(12, 7),
  "body.0.bias": weights(12),
  "body.1.weight": weights(5, 12, seed=1),
}


def check(report, tensors=TENSORS):
  """The rows are those of the weights in memory."""
  names = {name for name, x in tensors.items() if x.ndim > 1}
  assert {row.name for row in report} == names
  for row in report:
    stored = tensors[row.name]
    assert row.shape == stored.shape and row.dtype == str(stored.dtype)
    assert row.relative_excess == excess_of(stored)


def excess_of(stored):
  """Of neurons as they are stored: in float64, up to what their computation rounds."""
  w = np.asarray(stored, np.float64)
  dtype = compute_dtype(stored.dtype)
  atol = tolerances.of_excess(w, REPORTED, half_space=True, dtype=dtype)
  excess = float(relative_excess(w, REPORTED, half_space=True))
  return pytest.approx(excess, rel=0, abs=atol)


# --- formats ---------------------------------------------------------------------


@pytest.mark.parametrize(
  "dtype", ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]
)
def test_safetensors_as_stored(tmp_path, dtype):
  tensors = {name: x.astype(np.dtype(dtype)) for name, x in TENSORS.items()}
  save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
  check(redundancy(tmp_path / "model.safetensors"), tensors)


def sharded(folder, tensors=TENSORS, name="model.safetensors.index.json"):
  weight_map = {}
  for number, (key, x) in enumerate(tensors.items()):
    shard = f"model-{number + 1:05}-of-{len(tensors):05}.safetensors"
    save_file({key: x}, folder / shard)
    weight_map[key] = shard
  (folder / name).write_text(json.dumps({"weight_map": weight_map}))
  return weight_map


def test_folders(tmp_path):
  sharded(tmp_path)
  check(redundancy(tmp_path))
  check(redundancy(str(tmp_path / "model.safetensors.index.json")))
  alone = tmp_path / "alone"
  alone.mkdir()
  save_file(TENSORS, alone / "model.safetensors")
  for config in ("not JSON", "[]", "[" * 100_000):
    (alone / "config.json").write_text(config)
    check(redundancy(alone))


def test_index_of_a_variant(tmp_path):
  name = "diffusion_pytorch_model.safetensors.index.fp16.json"
  sharded(tmp_path, name=name)
  check(redundancy(tmp_path))
  check(redundancy(tmp_path / name))


def test_cache_of_the_hub(tmp_path):
  # Snapshots are links to files that are named by their contents.
  cache = tmp_path / "models--a--b"
  snapshot = cache / "snapshots" / "0123"
  snapshot.mkdir(parents=True)
  (cache / "blobs").mkdir()
  save_file(TENSORS, cache / "blobs" / "4567")
  (snapshot / "model.safetensors").symlink_to("../../blobs/4567")
  check(redundancy(snapshot))
  with pytest.raises(InputError, match=r"there are some in .*snapshots/0123\."):
    redundancy(cache)
  (cache / "blobs" / "4567").unlink()
  with pytest.raises(InputError, match="is not there"):
    redundancy(snapshot / "model.safetensors")


def test_npz(tmp_path):
  path = tmp_path / "model.npz"
  np.savez(path, **TENSORS)
  check(redundancy(path))
  np.savez_compressed(path, **{k.replace(".", "/"): x for k, x in TENSORS.items()})
  report = redundancy(path)
  assert report["body/0/weight"].n == 12 and len(report) == 2


def test_npz_of_dtypes_that_numpy_does_not_know(tmp_path):
  path = tmp_path / "model.npz"
  np.savez(path, a=weights(4, 3).astype(ml_dtypes.bfloat16), **TENSORS)
  assert redundancy(path).unknown == {"a": "stored as |V2, which cannot be read"}


def test_orbax(tmp_path):
  kernel = weights(7, 12)
  tree = {
    "params": {
      "Dense_0": {"kernel": jnp.asarray(kernel, jnp.bfloat16), "bias": jnp.zeros(12)},
    },
    "opt_state": [{"mu": {"Dense_0": {"kernel": jnp.zeros((7, 12))}}}],
    "step": 3,
  }
  for folder in (tmp_path / "plain", tmp_path / "managed"):
    if folder.name == "plain":
      with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder, tree)
    else:
      with ocp.CheckpointManager(folder) as manager:
        for step in (3, 20):
          manager.save(step, args=ocp.args.StandardSave(tree))
    report = redundancy(folder)
    (row,) = report
    assert (row.name, row.dtype) == ("params/Dense_0/kernel", "bfloat16")
    assert row.relative_excess == excess_of(kernel.astype(jnp.bfloat16).T)
    name = "opt_state/0/mu/Dense_0/kernel"
    assert report.skipped[name] == "state of an optimizer"


def test_orbax_of_nnx(tmp_path):
  state = nnx.state(nnx.Linear(7, 12, rngs=nnx.Rngs(0)))
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / "state", state)
  (row,) = redundancy(tmp_path / "state")
  assert (row.name, row.n, row.d) == ("kernel/value", 12, 7)


def test_orbax_of_several_trees(tmp_path):
  args = ocp.args.StandardSave({"a": jnp.ones((2, 2))})
  with ocp.CheckpointManager(tmp_path / "two") as manager:
    manager.save(0, args=ocp.args.Composite(one=args, other=args))
  with pytest.raises(
    InputError, match=r"several trees; name one of .*0/one, .*0/other"
  ):
    redundancy(tmp_path / "two")


def test_steps_with_a_prefix(tmp_path):
  options = ocp.CheckpointManagerOptions(step_prefix="ckpt")
  with ocp.CheckpointManager(tmp_path, options=options) as manager:
    for step in (9, 10):
      tree = {f"Dense_{step}": {"kernel": jnp.ones((2, 3))}}
      manager.save(step, args=ocp.args.StandardSave(tree))
  assert [row.name for row in redundancy(tmp_path)] == ["Dense_10/kernel"]
  (tmp_path / "ckpt_10").rename(tmp_path / "other_10")
  with pytest.raises(InputError, match=r"name one of ckpt_9, other_10"):
    redundancy(tmp_path)


def test_a_tree_beside_files(tmp_path):
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / "tree", {"kernel": jnp.ones((2, 3))})
  np.savez(tmp_path / "tree" / "metrics.npz", loss=weights(3, 4))
  with pytest.raises(InputError, match=r"name one of metrics\.npz, itself, of orbax"):
    redundancy(tmp_path / "tree")
  # Folders that only look like steps are none.
  for name in ("logs_1", "images_2", "3"):
    (tmp_path / "model" / name).mkdir(parents=True)
  save_file(TENSORS, tmp_path / "model" / "model.safetensors")
  check(redundancy(tmp_path / "model"))


# --- memory ----------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_one_tensor_in_memory_at_a_time(tmp_path, suffix):
  shape, count = (60, 2000), 24
  tensors = {f"layers.{i}.weight": weights(*shape, seed=i) for i in range(count)}
  first = dict(list(tensors.items())[:1])
  for name, part in (("first", first), ("all", tensors)):
    path = tmp_path / f"{name}{suffix}"
    save_file(part, path) if suffix == ".safetensors" else np.savez(path, **part)
  del tensors, first, part
  redundancy(tmp_path / f"first{suffix}")  # What is compiled is not of the tensors.
  tracemalloc.start()
  report = redundancy(tmp_path / f"all{suffix}")
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert len(report) == count
  # The tensor, and it in float64 a few times over: 8 of float32 are 4 of float64.
  assert peak < 10 * 4 * shape[0] * shape[1] < count * 4 * shape[0] * shape[1]


# --- what is refused -------------------------------------------------------------


@pytest.mark.parametrize("name", ["model.bin", "model.pt", "model.pth", "model.ckpt"])
def test_pickles(tmp_path, name):
  path = tmp_path / name
  path.write_bytes(b"cos\nsystem\n(S'touch /tmp/owned'\ntR.")
  for asked in (path, tmp_path):
    with pytest.raises(InputError, match=r"is a pickle.*\n.*weights_only=True"):
      redundancy(asked)


def test_the_command_that_converts_a_pickle_runs_nothing_else(tmp_path):
  path = tmp_path / "a'$(touch owned)`touch owned`.pt"
  path.write_bytes(b"x")
  with pytest.raises(InputError) as refusal:
    redundancy(path)
  command = shlex.split(str(refusal.value).splitlines()[-1])
  assert command[:2] == ["python", "-c"] and len(command) == 3
  compile(command[2], "program", "exec")
  assert json.dumps(str(path)) in command[2]
  path = tmp_path / "model.pt"
  path.write_bytes(b"x")
  with pytest.raises(InputError, match=r"python -c '[^']*'$"):  # To be read by people.
    redundancy(path)


def test_pickles_in_npz(tmp_path):
  path = tmp_path / "model.npz"
  objects = np.array([[{}, {}], [{}, {}]], object)
  np.savez(path, objects=objects, **TENSORS)
  report = redundancy(path)
  check(report)
  assert "pickled objects" in report.unknown["objects"]


def test_index_with_a_missing_file(tmp_path):
  weight_map = sharded(tmp_path)
  missing = weight_map["body.1.weight"]
  (tmp_path / missing).unlink()
  with pytest.raises(InputError, match=rf"1 of 3 files that are not there: {missing}"):
    redundancy(tmp_path)


@pytest.mark.parametrize(
  "shard", ["../x.safetensors", "/etc/passwd", "a/../../x", "..\\x", "C:x", ""]
)
def test_index_may_not_leave_its_folder(tmp_path, shard):
  save_file(TENSORS, tmp_path / "x.safetensors")
  folder = tmp_path / "model"
  folder.mkdir()
  weight_map = {"body.0.weight": shard}
  (folder / "model.safetensors.index.json").write_text(
    json.dumps({"weight_map": weight_map})
  )
  with pytest.raises(InputError, match="must name files of its own folder"):
    redundancy(folder)


@pytest.mark.parametrize(
  "text",
  [
    "",
    "{",
    "[]",
    "{}",
    '{"weight_map": 3}',
    '{"weight_map": {"a": 3}}',
    "[" * 100_000,
    json.dumps({"weight_map": {"a": "x" * 5000}}),
  ],
)
def test_damaged_index(tmp_path, text):
  (tmp_path / "model.safetensors.index.json").write_text(text)
  with pytest.raises(InputError, match="is not an index of safetensors"):
    redundancy(tmp_path)


def test_index_that_lies(tmp_path):
  weight_map = sharded(tmp_path)
  weight_map["more.weight"] = weight_map["body.0.weight"]
  (tmp_path / "model.safetensors.index.json").write_text(
    json.dumps({"weight_map": weight_map})
  )
  with pytest.raises(InputError, match=r"'more.weight' is in .*, which lacks it"):
    redundancy(tmp_path)


def test_damaged_files(tmp_path):
  path = tmp_path / "model.safetensors"
  save_file(TENSORS, path)
  whole = path.read_bytes()
  for damaged in (b"", whole[:4], whole[:40], whole[:-5], b"\xff" * 8 + whole[8:]):
    path.write_bytes(damaged)
    with pytest.raises(InputError, match="cannot be read as safetensors"):
      redundancy(path)
  for damaged in (b"", b"PK", whole):
    (tmp_path / "model.npz").write_bytes(damaged)
    with pytest.raises(InputError, match=r"cannot be read as \.npz"):
      redundancy(tmp_path / "model.npz")
  with zipfile.ZipFile(tmp_path / "model.npz", "w") as archive:
    archive.writestr("a.npy", b"no array")
  with pytest.raises(InputError, match=r"cannot be read as \.npz"):
    redundancy(tmp_path / "model.npz")


def array_file(header, data=b""):
  text = header.encode().ljust(118, b" ")[:-1] + b"\n"
  return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


def test_npz_whose_headers_lie(tmp_path):
  for shape in ("(1000000, 1000000)", "(-3, 4)", "(3, 5)"):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
    with zipfile.ZipFile(tmp_path / "m.npz", "w") as archive:
      archive.writestr("a.weight.npy", array_file(header, bytes(48)))
    with pytest.raises(InputError, match="has 48 bytes, but says shape"):
      redundancy(tmp_path / "m.npz")


def test_npz_with_other_files(tmp_path):
  file = io.BytesIO()
  np.save(file, TENSORS["body.0.weight"])
  with zipfile.ZipFile(tmp_path / "m.npz", "w") as archive:
    archive.writestr("body.0.weight.npy", file.getvalue())
    archive.writestr("body.0.weight", "not the array")
  assert [row.name for row in redundancy(tmp_path / "m.npz")] == ["body.0.weight"]
  content = bytearray((tmp_path / "m.npz").read_bytes())
  for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
    content[content.find(mark) + place] |= 1  # Encrypted.
  (tmp_path / "m.npz").write_bytes(content)
  with pytest.raises(InputError, match=r"cannot be read as \.npz.*encrypted"):
    redundancy(tmp_path / "m.npz")


@pytest.mark.parametrize("kind", ["float8_e4m3fn", "float32", "npz", "orbax"])
def test_files_that_are_damaged_after_they_were_opened(tmp_path, kind):
  tensors = {f"{name}.weight": weights(60, 50) for name in "abc"}
  path = tmp_path / "model"
  if kind == "npz":
    path = tmp_path / "model.npz"
    np.savez(path, **tensors)
  elif kind == "orbax":
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(path, tensors)
  else:
    path = tmp_path / "model.safetensors"
    save_file({k: x.astype(np.dtype(kind)) for k, x in tensors.items()}, path)

  def damage(done, total, name):
    for file in [path] if path.is_file() else path.rglob("*"):
      if name == "b.weight" and file.is_file():
        os.truncate(file, file.stat().st_size // 3)

  with pytest.raises(InputError, match="cannot be read"):
    redundancy(path, progress=damage)


def test_what_is_no_checkpoint(tmp_path):
  for name, match in (
    ("nothing", "is not there"),
    ("model.xyz", "must be .safetensors, .npz, .npy, .msgpack, .eqx, or a folder"),
    ("x" * 5000, "cannot be read"),
  ):
    if name == "model.xyz":
      (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError, match=match):
      redundancy(tmp_path / name)
  with pytest.raises(InputError, match="holds no checkpoint"):
    redundancy(tmp_path)
  for name in ("a.safetensors", "b.safetensors"):
    save_file(TENSORS, tmp_path / name)
  with pytest.raises(InputError, match=r"name one of a\.safetensors, b\.saf"):
    redundancy(tmp_path)
  save_file({}, tmp_path / "c.safetensors")
  with pytest.raises(InputError, match="holds no tensors"):
    redundancy(tmp_path / "c.safetensors")


def test_damaged_orbax(tmp_path):
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / "tree", {"a": jnp.ones((2, 2))})
  (tmp_path / "tree" / "_METADATA").write_text("{")
  with pytest.raises(InputError, match="cannot be read by orbax"):
    redundancy(tmp_path / "tree")


# --- what a checkpoint may hold --------------------------------------------------


def test_odd_tensors(tmp_path):
  tensors = {
    **TENSORS,
    "empty.weight": np.zeros((0, 4), np.float32),
    "no_inputs.weight": np.zeros((4, 0), np.float32),
    "one.weight": np.ones((1, 4), np.float32),
    "scalar.weight": np.array(3.0, np.float32),
    "ids": np.ones((2, 3), np.int64),
    "int4.weight": np.ones((2, 3), np.uint8),
    "table": np.ones((2, 3), np.float32),
  }
  save_file(tensors, tmp_path / "model.safetensors")
  report = redundancy(tmp_path)
  check(report)
  assert report.skipped == {
    "body.0.bias": "fewer than two axes",
    "empty.weight": "fewer than two neurons: no pairs",
    "no_inputs.weight": "no weights",
    "one.weight": "fewer than two neurons: no pairs",
    "scalar.weight": "fewer than two axes",
    "ids": "dtype int64",
  }
  assert set(report.unknown) == {"int4.weight", "table"}
  assert "quantized" in report.unknown["int4.weight"]
  for text in (str(report), report.to_html()):
    assert "Not read 1" in text and "int4.weight" in text


def test_integers_are_not_read_as_weights(tmp_path):
  # GPTQ, AWQ, bitsandbytes, MLX, and what is beside their integers.
  codes = {
    "a.qweight": np.int32,
    "b.weight": np.int8,
    "c.weight": np.uint8,
    "d.weight": np.uint32,
    "e.weight": np.int16,
    "f.qzeros": np.int32,
  }
  tensors = {name: np.ones((4, 8), dtype) for name, dtype in codes.items()}
  scales = {
    "a.scales": weights(4, 8),
    "a.g_idx": np.ones(8, np.int32),
    "b.SCB": weights(4),
    "c.weight.absmax": weights(4),
    "c.weight.quant_map": weights(16),
    "c.weight.nested_absmax": weights(4, 2),
    "d.biases": weights(4, 8),
    "e.weight_scale": weights(4, 8),
  }
  np.savez(tmp_path / "m.npz", **tensors, **scales)
  report = redundancy(tmp_path / "m.npz")
  assert not report.rows
  for name in codes:
    assert "quantized weights" in report.unknown[name]
  np.savez(tmp_path / "m.npz", **{"a.weight": weights(4, 8) + 1j})
  assert "complex" in redundancy(tmp_path / "m.npz").unknown["a.weight"]


def test_scales_beside_8_bit_floats(tmp_path):
  weight = weights(256, 256).astype(ml_dtypes.float8_e4m3fn)
  tensors = {
    "a.weight": weight,
    "a.weight_scale": np.ones((), np.float32),
    "b.weight": weight,
    "b.weight_scale": np.ones((256, 1), np.float32),
    "c.weight": weight,
    "c.weight_scale_inv": np.ones((2, 2), np.float32),
    "d.weight": weight,
    "d.weight_scale_inv": np.ones((16, 16), np.float32),  # As many as rows.
    "e.weight": np.ones((4, 4), ml_dtypes.float8_e8m0fnu),  # Scales themselves.
  }
  save_file(tensors, tmp_path / "model.safetensors")
  report = redundancy(tmp_path)
  assert {row.name for row in report} == {"a.weight", "b.weight"}
  for name in ("c.weight", "d.weight"):
    assert "scale for each block" in report.unknown[name]
  assert "e.weight" in report.skipped


def test_rules(tmp_path):
  np.savez(tmp_path / "m.npz", **{"a/w": weights(7, 12), "b/w": weights(3, 5, 4)})
  rules = [
    LayerRule("a/w", NeuronAxes(-1), role="output"),
    LayerRule("b/w", NeuronAxes(-1, batch=0)),
  ]
  report = redundancy(tmp_path / "m.npz", rules=rules)
  assert (report["a/w"].n, report["a/w"].role, report["a/w"].half_space) == (
    12,
    "output",
    False,
  )
  row = report["b/w"]
  assert (row.sets, row.n, row.d, len(row.closest)) == (3, 4, 5, 3)
  stack = weights(3, 5, 4).transpose(0, 2, 1).astype(float)
  expected = relative_excess(stack, REPORTED, half_space=True).mean()
  atol = max(
    tolerances.of_excess(w, REPORTED, half_space=True, dtype=np.float32) for w in stack
  )
  np.testing.assert_allclose(row.relative_excess, expected, rtol=0, atol=atol)
  # Without axes the last is taken, as by all rules.
  report = redundancy(tmp_path / "m.npz", rules=[LayerRule("a/w", role="output")])
  assert report["a/w"].n == 12 and list(report.unknown) == ["b/w"]
  report = redundancy(
    tmp_path / "m.npz", rules=[LayerRule("b.*", role="skip"), rules[0]]
  )
  assert report.skipped == {"b/w": "by rule 'b.*'"}
  for rule, match in (
    (LayerRule("c/w"), "matches no path"),
    (LayerRule("a/w", NeuronAxes(7)), "'a/w': axis 7"),
  ):
    with pytest.raises(InputError, match=match):
      redundancy(tmp_path / "m.npz", rules=[rule])


def test_nothing_of_jax_is_turned_on(tmp_path):
  # Without x64, as users have it, float64 is computed in float32 and says so nowhere.
  path = pathlib.Path(tmp_path / "m.npz")
  np.savez(path, **{"a.weight": weights(6, 5).astype(np.float64)})
  with jax.enable_x64(False):
    (row,) = redundancy(path)
  assert row.dtype == "float64" and row.relative_excess > 0
