"""Mamba's mixers: what enters, and what steers the state, each in one tensor.

Nothing but the shapes of the tensors beside them is needed to tell their parts.
"""

import re

from mhe_jax.report.parts import BY_NEIGHBORS, NotNeurons, Reading, Unknown
from mhe_jax.report.pytorch.fused import contiguous_parts
from mhe_jax.report.stored import Stored, last_module

STATE_SPACE = re.compile(r"(.*\.)?(A_log|(in_proj|x_proj)\.weight)")


def state_space(name: str, stored: Stored) -> Reading:
  """Parts of Mamba's and Mamba-2's projections; of other modules, nothing is returned.

  References:
    Gu and Dao, Mamba, 2023; Dao and Gu, Transformers are SSMs, ICML 2024: the state has
    ``d_state`` numbers for each of ``d_inner`` channels.
  """
  if name.endswith("A_log"):
    return NotNeurons("decay rates of a state space")
  module = last_module(name)
  prefix = name.removesuffix(f"{module}.weight")
  shapes = {
    key: stored.shapes.get(f"{prefix}{key}", ())
    for key in ("A_log", "dt_proj.weight", "conv1d.weight", "out_proj.weight")
  }
  shape, decay = stored.shapes[name], shapes["A_log"]
  labels, sizes = (), ()
  if not decay:
    return ()
  if len(decay) == 2 and module == "in_proj":
    labels, sizes = ("x", "gate"), (decay[0], decay[0])
  elif len(decay) == 2 and shapes["dt_proj.weight"][1:]:
    labels = ("dt", "B", "C")
    sizes = (shapes["dt_proj.weight"][1], decay[1], decay[1])
  elif len(decay) == 1 and shapes["conv1d.weight"] and shapes["out_proj.weight"][1:]:
    # Mamba-2 convolves x, B and C, and has a step for each head.
    inner = shapes["out_proj.weight"][1]
    steering = (shapes["conv1d.weight"][0] - inner) // 2
    labels = ("gate", "x", "B", "C", "dt")
    sizes = (inner, inner, steering, steering, decay[0])
  if len(shape) != 2 or not sizes or sum(sizes) != shape[0] or min(sizes) < 1:
    return Unknown("a projection of a state space, of parts that nothing tells")
  what = f"rows, {' '.join(labels)}"
  return contiguous_parts(labels, sizes, 0, what, BY_NEIGHBORS)
