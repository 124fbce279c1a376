"""Files that people have: each is read, or told for what it is and what to run."""

import collections
import json
import shlex
import subprocess
import sys
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import linen, nnx, serialization
from sets import normal32, normals

from mhe_jax import LayerRule, NeuronAxes
from mhe_jax.report import InputError, compare, redundancy
from mhe_jax.report.command import main

# --- formats -------------------------------------------------------------------------


def test_msgpack(tmp_path):
  tree = {"params": {"Dense_0": {"kernel": normal32(5, 8), "bias": normal32(8)}}}
  (tmp_path / "flax_model.msgpack").write_bytes(serialization.to_bytes(tree))
  (row,) = redundancy(tmp_path)
  assert (row.name, row.n, row.d) == ("params/Dense_0/kernel", 8, 5)
  (tmp_path / "flax_model.msgpack").write_bytes(b"\xc1")
  with pytest.raises(InputError, match=r"cannot be read as \.msgpack"):
    redundancy(tmp_path)


def test_npy(tmp_path):
  np.save(tmp_path / "table.npy", normal32(6, 5))
  rules = [LayerRule("table", NeuronAxes(0))]
  assert redundancy(tmp_path / "table.npy", rules=rules)["table"].n == 6
  assert list(redundancy(tmp_path / "table.npy").unknown) == ["table"]


MODEL = """
import equinox as eqx, jax

def make():
  return eqx.nn.MLP(5, 3, 8, 1, key=jax.random.key(0)), jax.numpy.ones(5)

def fails():
  raise RuntimeError("no data")
"""


def test_eqx(tmp_path, monkeypatch, capsys):
  model = eqx.nn.MLP(5, 3, 8, 1, key=jax.random.key(1))
  path = tmp_path / "model.eqx"
  eqx.tree_serialise_leaves(path, model)
  assert not redundancy(path).rows  # Arrays without names.
  (tmp_path / "my_eqx.py").write_text(MODEL)
  monkeypatch.chdir(tmp_path)
  main([str(path), "--model", "my_eqx:make"])
  out = capsys.readouterr().out
  assert "layers/0/weight" in out and "program" in out
  assert "Output layers: layers/1/weight." in out
  for bad, match in (
    ("my_eqx", "must be MODULE:FUNCTION"),
    ("my_eqx:fails", "no data"),
    ("nowhere:f", "nowhere"),
  ):
    with pytest.raises(SystemExit):
      main([str(path), "--model", bad])
    assert match in capsys.readouterr().err


FUNCTION = """
import jax, jax.numpy as jnp

def apply(params, x):
  q, k, v = jnp.split(x @ params["mix"]["w"], 3, axis=-1)
  return (q * k + v) @ params["out"]["w"].T

def make():
  params = {"mix": {"w": jnp.ones((6, 12))}, "out": {"w": jnp.ones((9, 4))}}
  return apply, params, jnp.ones((2, 6))
"""


@pytest.mark.parametrize("prefix", ["", "model/params/", "a.b."])
def test_a_checkpoint_read_by_its_program(tmp_path, prefix, monkeypatch, capsys):
  tensors = {"mix/w": normal32(6, 12), "out/w": normal32(9, 4, seed=1)}
  separator = "." if "." in prefix else "/"
  named = {prefix + k.replace("/", separator): x for k, x in tensors.items()}
  named[separator.join(["opt_state", "mu", "mix", "w"])] = normal32(6, 12)
  np.savez(tmp_path / "m.npz", **named)  # pyright: ignore[reportArgumentType]
  (tmp_path / "my_program.py").write_text(FUNCTION)
  monkeypatch.chdir(tmp_path)
  main(["m.npz", "--model", "my_program:make", "--json", "out.json"])
  capsys.readouterr()
  rows = {r["name"]: r for r in json.loads((tmp_path / "out.json").read_text())["rows"]}
  mix, out = (prefix + k.replace("/", separator) for k in tensors)
  assert {*rows} == {mix, out}
  assert (rows[mix]["sets"], rows[mix]["n"], rows[mix]["d"]) == (3, 4, 6)
  assert (rows[out]["n"], rows[out]["role"]) == (9, "output")
  assert {row["evidence"] for row in rows.values()} == {"program"}
  np.savez(tmp_path / "other.npz", y=normal32(3, 4))
  with pytest.raises(SystemExit):
    main(["other.npz", "--model", "my_program:make"])
  assert "has none of its parameters" in capsys.readouterr().err


# --- told for what they are --------------------------------------------------------


@pytest.mark.parametrize(
  ("name", "content", "match"),
  [
    ("m.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ("m.ckpt", b"", "is empty: 0 bytes"),
    ("m.bin", b"\x00\x01\x02\x03" * 8, "raw bytes"),
    ("m.bin", b"PK\x03\x04", "is a pickle"),
    ("m.onnx", b"\x08\x07", "a graph of ONNX"),
    ("m.gguf", b"GGUF", "a model of GGUF"),
    ("m.h5", b"\x89HDF", "of HDF5, as of Keras"),
    ("m.keras", b"PK\x03\x04", "an archive of Keras"),
    ("m.index", b"\x00", "an index of TensorFlow"),
    ("m.txt", b"x", "must be .safetensors"),
  ],
)
def test_files_that_are_not_read(tmp_path, name, content, match):
  path = tmp_path / name
  path.write_bytes(content)
  for place in [path, tmp_path] if name != "m.txt" else [path]:
    with pytest.raises(InputError, match=match) as refused:
      redundancy(place)
    last = str(refused.value).splitlines()[-1].strip()
    if last.startswith("python -c"):
      compile(shlex.split(last)[2], name, "exec")


def test_links_to_nothing(tmp_path):
  (tmp_path / "model.safetensors").symlink_to("../../blobs/0123")
  for place in (tmp_path, tmp_path / "model.safetensors"):
    with pytest.raises(InputError, match=r"link to .*blobs/0123, which is not there"):
      redundancy(place)


def test_a_model_in_a_wrapper_of_peft(tmp_path):
  module = "base_model.model.layers.0.self_attn.q_proj"
  tensors: dict[str, Any] = {
    f"{module}.base_layer.weight": normal32(8, 8),
    f"{module}.lora_A.default.weight": normal32(2, 8),
    f"{module}.lora_B.default.weight": normal32(8, 2),
  }
  np.savez(tmp_path / "m.npz", **tensors)
  report = redundancy(tmp_path / "m.npz")
  assert {row.name for row in report} == {*tensors}
  assert "merge_and_unload" in str(report)


def test_addresses():
  with pytest.raises(InputError, match="hf download a/b --local-dir b"):
    redundancy("hf://a/b")
  with pytest.raises(InputError, match="is an address"):
    redundancy("https://example.com/model.safetensors")


def test_an_unfinished_step(tmp_path):
  with ocp.CheckpointManager(tmp_path) as manager:
    for step in (1, 2):
      tree = {f"Dense_{step}": {"kernel": jnp.ones((2, 3))}}
      manager.save(step, args=ocp.args.StandardSave(tree))
  (tmp_path / "2").rename(tmp_path / "2.orbax-checkpoint-tmp-17")
  assert [row.name for row in redundancy(tmp_path)] == ["Dense_1/kernel"]
  for place in (tmp_path / "2.orbax-checkpoint-tmp-17", tmp_path):
    if place == tmp_path:
      (tmp_path / "1").rename(tmp_path / "1.orbax-checkpoint-tmp-3")
    with pytest.raises(InputError, match="has not finished writing"):
      redundancy(place)


def test_nothing_readable(tmp_path, capsys):
  np.savez(tmp_path / "m.npz", table=normal32(6, 5), bias=normal32(6))
  with pytest.raises(SystemExit) as stopped:
    main([str(tmp_path / "m.npz")])
  assert stopped.value.code == 2
  out, err = capsys.readouterr()
  assert not out and "--rule 'table=0'" in err and "its name is not known" in err


# --- in memory -----------------------------------------------------------------------


def test_trees(tmp_path):
  class Model(linen.Module):
    @linen.compact
    def __call__(self, x):
      x = linen.relu(linen.Dense(8)(x))
      return linen.Dense(4)(x)

  params = Model().init(jax.random.key(0), jnp.ones((1, 5), jnp.float32))
  report = redundancy(params)
  assert {(r.name, r.n, r.d) for r in report} == {
    ("params/Dense_0/kernel", 8, 5),
    ("params/Dense_1/kernel", 4, 8),
  }
  tensors: dict[str, Any] = {
    jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(x)
    for path, x in jax.tree_util.tree_flatten_with_path(params)[0]
  }
  np.savez(tmp_path / "m.npz", **tensors)
  of_file = redundancy(tmp_path / "m.npz")
  assert of_file.to_dicts() == report.to_dicts()
  changes = compare(params, tmp_path / "m.npz")
  assert changes.summary == "0 of 2 layers changed."
  rules = [LayerRule(".*Dense_1/kernel", role="output")]
  assert redundancy(params, rules=rules)["params/Dense_1/kernel"].role == "output"
  with pytest.raises(InputError, match="a tree with arrays, got int"):
    redundancy(3)


def test_modules():
  class Model(nnx.Module):
    def __init__(self, rngs):
      self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
      self.up = nnx.ConvTranspose(8, 6, (2, 2), use_bias=False, rngs=rngs)

  report = redundancy(Model(nnx.Rngs(0)))
  assert {(r.name, r.n, r.d) for r in report} == {
    ("conv/kernel", 8, 27),
    ("up/kernel", 6, 32),
  }
  assert report["up/kernel"].evidence == "class"
  report = redundancy(eqx.nn.Linear(5, 8, key=jax.random.key(0)))
  assert (report["weight"].n, report["weight"].evidence) == (8, "class")


def test_a_module_of_pytorch_is_its_state(tmp_path):
  """As a file of the same tensors; PyTorch itself is not needed."""
  shapes = {"up.weight": (24, 6), "down.weight": (6, 24), "norm.weight": (6,)}
  tensors = normals(shapes)

  class Module:
    def state_dict(self):
      return collections.OrderedDict(tensors)

  np.savez(tmp_path / "m.npz", **tensors)
  report = redundancy(Module())
  assert report.to_dicts() == redundancy(tmp_path / "m.npz").to_dicts()
  assert (report["up.weight"].n, report["up.weight"].d) == (24, 6)
  assert compare(Module(), tmp_path / "m.npz").summary == "0 of 2 layers changed."


def test_rows_as_dicts():
  report = redundancy(
    {"a": {"kernel": normal32(5, 8)}, "b": {"kernel": normal32(8, 3)}}
  )
  rows = report.to_dicts()
  assert isinstance(rows, list) and rows[0]["name"] == report.rows[0].name
  assert rows[0]["relative_excess"] == report.rows[0].relative_excess


def test_output_of_a_tree(tmp_path):
  tree = {"a": {"kernel": normal32(5, 8)}}
  redundancy(tree, output=tmp_path)
  redundancy(tree, output=tmp_path)
  with pytest.raises(InputError, match="checkpoint differs"):
    redundancy({"a": {"kernel": normal32(5, 8, seed=1)}}, output=tmp_path)


def test_version():
  result = subprocess.run(
    [sys.executable, "-m", "mhe_jax.report", "--version"],
    check=True, capture_output=True, text=True,
  )  # fmt: skip
  assert result.stdout.strip().count(".") == 2
