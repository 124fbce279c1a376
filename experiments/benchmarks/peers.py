"""What a user would take instead: the same energy (s = 2, full space) elsewhere.

Each function takes neurons ``[n, d]`` as NumPy array and returns a function of no
arguments that computes the energy and its gradient.
"""

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def naive_jax(w: np.ndarray) -> Callable[[], Any]:
  """The double sum as it is usually written, differentiated automatically."""

  def energy(w):
    u = w / jnp.sqrt(jnp.sum(w**2, 1, keepdims=True) + 1e-4)
    # One on the diagonal, which is masked later, as in the authors' code.
    squared_distance = 2.0 - 2.0 * (u @ u.T) + jnp.eye(len(w))
    return jnp.sum(jnp.triu(1.0 / squared_distance, 1)) * 2 / (len(w) * (len(w) - 1))

  x = jnp.asarray(w)
  compiled = jax.jit(jax.value_and_grad(energy)).lower(x).compile()
  return lambda: compiled(x)


def pytorch(w: np.ndarray, *, compiled: bool = False) -> Callable[[], Any]:
  """The authors' formulation in PyTorch, with autograd; on its GPU, if there is one."""
  import torch  # noqa: PLC0415  # pyright: ignore[reportMissingImports]

  torch.set_num_threads(os.cpu_count() or 1)
  device = "cuda" if torch.cuda.is_available() else "cpu"
  x = torch.tensor(w, requires_grad=True, device=device)
  n = len(w)
  eye = torch.eye(n, device=device)

  def energy(x):
    u = x / torch.sqrt((x * x).sum(1, keepdim=True) + 1e-4)
    squared_distance = 2.0 - 2.0 * (u @ u.T) + eye
    return torch.triu(1.0 / squared_distance, 1).sum() * (2 / (n * (n - 1)))

  function = torch.compile(energy) if compiled else energy

  def value_and_grad():
    value = function(x)
    (gradient,) = torch.autograd.grad(value, x)
    return value.item(), gradient  # Which waits for both: they are of one stream.

  return value_and_grad


def pytorch_minibatch(w: np.ndarray, num_samples: int) -> Callable[[], Any]:
  """The classes of a mini-batch against all, as ports of SphereFace+ to PyTorch do."""
  import torch  # noqa: PLC0415  # pyright: ignore[reportMissingImports]

  torch.set_num_threads(os.cpu_count() or 1)
  x = torch.tensor(w, requires_grad=True)
  rows = torch.randperm(len(w), generator=torch.Generator().manual_seed(0))
  rows = rows[:num_samples]

  def value_and_grad():
    u = x / torch.sqrt((x * x).sum(1, keepdim=True) + 1e-4)
    squared_distance = 2.0 - 2.0 * (u[rows] @ u.T)
    squared_distance[torch.arange(num_samples), rows] = torch.inf
    energy = (1.0 / squared_distance).sum() / (num_samples * (len(w) - 1))
    return energy.item(), torch.autograd.grad(energy, x)[0]

  return value_and_grad


def keops(w: np.ndarray) -> Callable[[], Any]:
  """KeOps, which like our tiles never stores the matrix; diagonal softened by 1."""
  import torch  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
  from pykeops.torch import LazyTensor  # noqa: PLC0415  # pyright: ignore

  x = torch.tensor(w, requires_grad=True)
  n = len(w)

  def value_and_grad():
    u = x / torch.sqrt((x * x).sum(1, keepdim=True) + 1e-4)
    rows: Any = LazyTensor(u[:, None, :])
    cosines = (rows * LazyTensor(u[None, :, :])).sum(-1)
    # Softened everywhere, so that the n equal pairs can be subtracted: no mask.
    energies = 1.0 / (2.0 - 2.0 * cosines + 1e-3)
    energy = (energies.sum(1).sum() - n * 1e3) / (n * (n - 1))
    return energy.item(), torch.autograd.grad(energy, x)[0]

  return value_and_grad
