"""Sets of neurons: random ones, and those whose angles are known."""

import functools
import itertools
import math

import numpy as np
import pytest

every_space = pytest.mark.parametrize("half_space", (False, True), ids=("full", "half"))


def normal(*shape, seed=0, dtype=float):
  return np.random.default_rng(seed).normal(size=shape).astype(dtype)


normal32 = functools.partial(normal, dtype=np.float32)


def normals(shapes):
  """``{name: array}`` of ``{name: shape}``, all different."""
  return {
    name: normal32(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())
  }


def changed(w, at, value):
  """A copy with another value there."""
  w = np.array(w)
  w[at] = value
  return w


def simplex(d):
  """d + 1 points, in d + 1 dimensions, whose cosines are -1 / d."""
  return np.eye(d + 1) - 1 / (d + 1)


def cross_polytope(d):
  return np.concatenate([np.eye(d), -np.eye(d)])


def icosahedron():
  golden = (1 + math.sqrt(5)) / 2
  signs = itertools.product((-1, 1), (-golden, golden))
  corners = np.array([(0.0, a, b) for a, b in signs])
  return np.concatenate([np.roll(corners, k, axis=1) for k in range(3)])


def snub_cube():
  """The best packing of 24 points on the sphere.

  Of the tribonacci constant t: the even permutations of (+-1, +-1/t, +-t) with an even
  number of plus signs, and the odd ones with an odd number.
  """
  t = next(x.real for x in np.roots([1, -1, -1, -1]) if abs(x.imag) < 1e-9)
  points = []
  for order in itertools.permutations(range(3)):
    is_odd = np.linalg.det(np.eye(3)[list(order)]) < 0
    for signs in itertools.product((-1, 1), repeat=3):
      if (signs.count(1) % 2 == 1) == is_odd:
        points.append((np.array(signs) * [1, 1 / t, t])[list(order)])
  return np.array(points)


def one_of_each_line(points):
  """Of points with their antipodes."""
  return np.array([x for x in points if tuple(x) > tuple(-x)])


def units_of(w, with_antipodes=False):
  """Rows of length 1, but those of zeros; and behind them their antipodes."""
  w = np.asarray(w, np.float64)
  norms = np.linalg.norm(w, axis=-1, keepdims=True)
  u = np.divide(w, norms, out=np.zeros_like(w), where=norms > 0)
  return np.concatenate([u, -u], axis=-2) if with_antipodes else u
