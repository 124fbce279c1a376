"""How many rows a tile has, and how many sets are computed side by side."""

import math
from collections.abc import Callable
from typing import TypeVar

import jax

Tree = TypeVar("Tree")


def default_block_size() -> int:
  """Most rows of a tile, on the default backend.

  On CPU 1024 is the fastest from 64 to 2048 dimensions (docs/benchmarks.md). Other
  backends want fewer and larger products: 4096 is a tile of 64 MiB in float32.
  """
  return 1024 if jax.default_backend() == "cpu" else 4096


def even_block_size(n: int, largest: int, multiple: int) -> int:
  """Rows of a block, a multiple of this number, at most (where it can be) the largest.

  As even as possible, so that little of the last block is padding.
  """
  largest = max(multiple, largest - largest % multiple)
  num_blocks = max(1, math.ceil(n / largest))
  return multiple * math.ceil(n / num_blocks / multiple)


def block_size_of(n: int, largest: int | None) -> tuple[int, int]:
  """Rows of a block of the tiles of all pairs, and sets to compute side by side.

  Args:
    n: rows of a set.
    largest: most rows of a block; by default, what suits the backend.

  Raises:
    ValueError: n is symbolic (``jax.export``): the tiles are laid out by its value.
  """
  if not isinstance(n, int):
    raise ValueError(
      f"implementation='tiled' needs a static number of neurons, got n = {n}: use "
      "implementation='dense', or export each n by itself. (The batch axes and d may "
      "be symbolic.)"
    )
  largest = largest or default_block_size()
  multiple = 16 if largest >= 16 else 2
  largest -= largest % multiple
  # One batched product that is no larger than a tile.
  at_once = max(1, largest**2 // max(n, 1) ** 2)
  return even_block_size(n, largest, multiple), at_once


def map_sets(
  function: Callable[..., Tree], rows: tuple, batch: tuple[int, ...], at_once: int
) -> Tree:
  """The function of each set of rows by itself.

  Args:
    function: of the arrays of one set, to arrays of any shapes.
    rows: arrays ``[*batch, n, ...]``, or trees of them.
    batch: the axes of sets, which may be symbolic (``jax.export``).
    at_once: small sets are computed side by side, this many; at least one.

  Returns:
    Its arrays ``[*batch, ...]``.
  """
  num_sets = math.prod(batch)
  flatten = lambda x: x.reshape(num_sets, *x.shape[len(batch) :])  # noqa: E731
  sets = jax.tree.map(flatten, rows)
  if num_sets == 1:
    results = function(*jax.tree.map(lambda x: x[0], sets))
    return jax.tree.map(lambda x: x.reshape(*batch, *x.shape), results)
  if isinstance(num_sets, int) and num_sets <= at_once:
    results = jax.vmap(function)(*sets)
  else:
    # Symbolic, under jax.export: one by one.
    batch_size = at_once if isinstance(num_sets, int) else None
    results = jax.lax.map(lambda x: function(*x), sets, batch_size=batch_size)
  return jax.tree.map(lambda x: x.reshape(*batch, *x.shape[1:]), results)
