"""Files that are not read: what each is, and what to run instead."""

import json
import pathlib
import shlex

from mhe_jax.report.errors import InputError

PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")
# Programs that write an .npz of it: {0} is the source and {1} the target, in quotes.
_CONVERTERS = {
  ".h5": (
    "a file of HDF5, as of Keras",
    "h5py",
    "import h5py, numpy; d = {{}}; h5py.File({0}).visititems(lambda n, x: "
    'd.update({{n: x[()]}}) if hasattr(x, "dtype") else None); numpy.savez({1}, **d)',
  ),
  ".keras": (
    "an archive of Keras",
    "h5py",
    "import h5py, io, numpy, zipfile; d = {{}}; h5py.File(io.BytesIO(zipfile.ZipFile("
    '{0}).read("model.weights.h5"))).visititems(lambda n, x: d.update({{n: x[()]}}) if '
    'hasattr(x, "dtype") else None); numpy.savez({1}, **d)',
  ),
  ".gguf": (
    "a model of GGUF, mostly quantized",
    "gguf",
    "import gguf, numpy; numpy.savez({1}, **{{t.name: gguf.dequantize(t.data, "
    "t.tensor_type) for t in gguf.GGUFReader({0}).tensors}})",
  ),
  ".onnx": (
    "a graph of ONNX",
    "onnx",
    "import onnx, numpy; numpy.savez({1}, **{{t.name: onnx.numpy_helper.to_array(t) "
    "for t in onnx.load({0}).graph.initializer}})",
  ),
  ".index": (
    "an index of TensorFlow",
    "tensorflow",
    "import numpy, tensorflow as tf; r = tf.train.load_checkpoint({0}[:-6]); "
    "numpy.savez({1}, **{{n: r.get_tensor(n) for n in r.get_variable_to_shape_map()}})",
  ),
}
_TOLD_ELSEWHERE = (".safetensors", ".npz", ".json")  # By their readers, if empty.
_CONVERTERS[".hdf5"] = _CONVERTERS[".h5"]


def refuse_address(text: str) -> None:
  """Nothing is downloaded: the command that does is told.

  Raises:
    InputError: it is an address and not a path.
  """
  scheme, separator, rest = text.partition("://")
  if not separator or "/" in scheme:
    return
  if scheme == "hf":
    name = "/".join(rest.split("/")[:2])
    folder = name.rpartition("/")[2]
    raise InputError(
      f"{text} is on the Hugging Face hub, and nothing is downloaded here. This does:\n"
      f"  hf download {shlex.quote(name)} --local-dir {shlex.quote(folder)}"
    )
  raise InputError(f"{text} is an address; nothing is downloaded here: name a file.")


def refuse_what_is_no_file(path: pathlib.Path) -> None:
  """Links to nothing, and what stands for a file that is not there.

  Raises:
    InputError: it is one.
  """
  if path.is_symlink() and not path.exists():
    raise InputError(
      f"{path} is a link to {path.readlink()}, which is not there: a download that was "
      "not finished, or a cache that was cleared. Download it again."
    )
  if not path.is_file():
    return
  if path.stat().st_size == 0 and path.suffix not in _TOLD_ELSEWHERE:
    raise InputError(f"{path} is empty: 0 bytes.")
  with open(path, "rb") as file:
    start = file.read(64)
  if start.startswith(b"version https://git-lfs"):
    raise InputError(
      f"{path} is a pointer of Git LFS, not the file: git lfs pull --include "
      f"{shlex.quote(path.name)} fetches it."
    )


def refusal(path: pathlib.Path) -> str:
  """What a file of a format that is not read is, and the command that converts it."""
  # The name is a stranger's, and the command is to be copied to a shell.
  source = json.dumps(str(path))
  if path.suffix in _CONVERTERS:
    what, library, program = _CONVERTERS[path.suffix]
    target = json.dumps(str(path.with_suffix(".npz")))
    program = shlex.quote(program.format(source, target))
    return (
      f"{path} is {what}, which is not read. With pip install {library}, this converts "
      f"it:\n  python -c {program}"
    )
  with open(path, "rb") as file:
    start = file.read(64)
  is_pickle = start.startswith((b"PK", b"\x80")) or all(byte >= 9 for byte in start)
  if path.suffix == ".bin" and not is_pickle:  # The oldest are text.
    return (
      f"{path} has raw bytes, and is no pickle of PyTorch: names and shapes are in "
      "another file of its program, and cannot be told."
    )
  target = json.dumps(str(path.with_suffix(".safetensors")))
  program = (
    "import torch; from safetensors.torch import save_file; "
    f'x = torch.load({source}, map_location="cpu", weights_only=True); '
    'x = next((x[k] for k in ("state_dict", "model") if k in x), x); '
    "save_file({k: v.clone().contiguous() for k, v in x.items() if "
    f"torch.is_tensor(v)}}, {target})"
  )
  return (
    f"{path} is a pickle, which can run any code when it is loaded; it is not read. "
    "Where PyTorch is installed, this converts it, without running code in it:\n"
    f"  python -c {shlex.quote(program)}"
  )


def is_told(path: pathlib.Path) -> bool:
  """Whether :func:`refusal` knows what it is."""
  return path.suffix in PICKLES or path.suffix in _CONVERTERS
