"""Each neuron by itself: its energy with all others, and its nearest others."""

import functools
from collections.abc import Hashable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mhe_jax.arrays import as_rows
from mhe_jax.checks import check_axis_name, check_count, check_sharded
from mhe_jax.objectives.base import as_static_neurons
from mhe_jax.pair_sum import nearest_rows, tiled
from mhe_jax.pair_sum.mask import Mask, mask_of
from mhe_jax.pair_sum.partitioned import divide_by_type
from mhe_jax.pair_sum.some_rows import rows_against_all
from mhe_jax.potentials.base import Potential, check_potential
from mhe_jax.potentials.riesz import Riesz
from mhe_jax.sphere import evaluate, normalize


def neuron_energies(
  neurons: jax.typing.ArrayLike,
  potential: Potential = Riesz(1.0),
  *,
  half_space: bool = False,
  where: jax.typing.ArrayLike | None = None,
  labels: jax.typing.ArrayLike | None = None,
) -> jax.Array:
  r"""Of each neuron the mean energy with all others: which is redundant?

  .. math::
    e_i = \frac{1}{N - 1} \sum_{j \ne i} f(\lVert u_i - u_j \rVert), \qquad
    E = \frac{1}{N} \sum_i e_i

  with :math:`u_i = w_i / \lVert w_i \rVert` and E the :func:`hyperspherical_energy`. A
  neuron of high energy is close to many others, or very close to one; a small ``s``
  asks for the first, a large one for the second. It tells what is redundant in
  direction, not what a network can do without (docs/pruning.md): norms tell better.

  In half-space form the mean is over the :math:`2 (N - 1)` vectors :math:`u_j, -u_j` of
  the others. The neuron's own antipode, a constant that all neurons share, is left out;
  so the mean of the energies is not that of the half-space form, but

  .. math::
    E = \frac{1}{2 N - 1} \Big( f(2) + \frac{2 (N - 1)}{N} \sum_i e_i \Big)

  A row of zeros counts as orthogonal to all others. NaN or infinity in a row makes its
  energy NaN, and that of every neuron it forms a pair with: these are means over all
  others. It takes O(n d) memory, and as long as the energy; every derivative is exact.

  Args:
    neurons: ``[*batch, n, d]``, one neuron of ``d`` weights per row; float64,
      float32, or a smaller float, which is computed in float32.
    potential: the pair potential, :class:`Riesz` or :class:`Gaussian`.
    half_space: with the antipodes of the others.
    where: booleans that broadcast to ``[*batch, n]``: the rows that count. The energies
      are those in ``neurons[where]``; the others have energy 0 and no gradient, and may
      hold anything, NaN too.
    labels: integers that broadcast to ``[*batch, n]``; two rows of equal labels are not
      a pair. Their numbers of pairs can differ, so that E is the mean of the energies
      weighted by these.

  Returns:
    Energies ``[*batch, n]``, float64 for float64 neurons and float32 otherwise; 0 for a
    row without a pair.

  Raises:
    TypeError: ``neurons`` is not a real floating-point array, or ``potential``
      not a :class:`Potential`, or ``where`` not boolean, or ``labels`` not integer.
    ValueError: ``neurons`` has fewer than two axes, or a symbolic n (of
      ``jax.export``); ``where`` or ``labels`` do not broadcast to ``[*batch, n]``.

  Example:
    >>> import jax.numpy as jnp
    >>> from mhe_jax import neuron_energies
    >>> neurons = jnp.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0.2, 1]])
    >>> [round(float(e), 3) for e in neuron_energies(neurons)]
    [0.707, 0.734, 2.163, 2.19]

  References:
    Liu et al., `Learning towards Minimum Hyperspherical Energy
    <https://arxiv.org/abs/1805.09298>`_, NeurIPS 2018, equation 1, before its sum over
    i.
  """
  neurons = as_static_neurons(neurons)
  check_potential(potential)
  mask = mask_of(neurons.shape[:-1], where, labels)
  return _neuron_energies(neurons, mask, potential, bool(half_space))


def batch_energy(
  neurons: jax.typing.ArrayLike,
  rows: jax.typing.ArrayLike,
  potential: Potential = Riesz(1.0),
  *,
  half_space: bool = False,
  axis_name: Hashable | None = None,
) -> jax.Array:
  r"""The mean energy of some neurons with all others: of the classes of a mini-batch.

  .. math::
    \frac{1}{m (N - 1)} \sum_{i=1}^m \sum_{j \ne y_i} f(\lVert u_{y_i} - u_j \rVert)

  The paper's mini-batch form of the energy of an output layer: the mean of
  ``neuron_energies(neurons)[rows]``, with the gradient of that, in O(m N d) operations
  and O(N d) memory. A neuron that comes twice counts twice.

  A row of NaN or infinity makes it NaN, whether it is among ``rows`` or not.

  Args:
    neurons: ``[*batch, n, d]``, one neuron of ``d`` weights per row; float64,
      float32, or a smaller float, which is computed in float32.
    rows: integers ``[m]``, 0 to n - 1, such as labels; of all sets of a batch the same.
      Others, which cannot be told when traced, make the result NaN.
    potential: the pair potential, :class:`Riesz` or :class:`Gaussian`.
    half_space: with the antipodes of the others, as of :func:`neuron_energies`.
    axis_name: mesh axis, or tuple of them, of the :func:`jax.shard_map` that this is
      called in, where ``neurons`` are the rows of one device; ``rows``, numbers of rows
      of all devices, are the same on all. Outside of it, automatic axes are left to the
      compiler.

  Returns:
    Energies ``[*batch]``, float64 for float64 neurons and float32 otherwise; with
    ``axis_name`` on all devices the same.

  Raises:
    TypeError: ``neurons`` is not a real floating-point array, ``potential`` not a
      :class:`Potential`, or ``rows`` not integer.
    ValueError: ``neurons`` has fewer than two axes, or a symbolic n (of
      ``jax.export``); ``rows`` is not ``[m]`` with m > 0; ``axis_name`` is none here.

  Example:
    >>> import jax.numpy as jnp
    >>> from mhe_jax import batch_energy, neuron_energies
    >>> classes = jnp.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0.2, 1]])
    >>> labels = jnp.array([2, 0, 2])
    >>> round(float(batch_energy(classes, labels)), 3)
    1.678
    >>> round(float(neuron_energies(classes)[labels].mean()), 3)
    1.678

  References:
    Liu et al., `Learning towards Minimum Hyperspherical Energy
    <https://arxiv.org/abs/1805.09298>`_, NeurIPS 2018, section 3.5.
  """
  axis_name = check_axis_name(axis_name)
  check_potential(potential)
  neurons, rows = as_static_neurons(neurons, whole=False), as_rows(rows)
  check_sharded(axis_name, {"neurons": neurons}, {"rows": rows})
  function = _BatchEnergy(potential, bool(half_space), axis_name)
  return evaluate(function, neurons, rows, axis_name=axis_name)


def nearest_neurons(
  neurons: jax.typing.ArrayLike,
  *,
  half_space: bool = False,
  k: int = 1,
  rows: jax.typing.ArrayLike | None = None,
) -> tuple[jax.Array, jax.Array]:
  r"""Of each neuron, or of some, the k nearest others, and the angles to them.

  All cosines are computed, tile by tile, in O(n (d + k)) memory: nothing is hashed or
  sampled. In the dtype of the computation they tell angles apart down to 1e-3 radians
  (float64: 1e-8), so that they only sift: of all groups of 16 neighboring rows, the k +
  3 with the largest cosines are compared by :math:`2 \arctan(\lVert u - v \rVert /
  \lVert u + v \rVert)`, which is good to a few roundings of the unit vectors, about
  1e-7 (float64: 1e-16). With at most 16 (k + 3) neurons, that is the comparison of all
  pairs. With more, a nearer neuron can be missed only where more than k + 3 groups have
  a neuron whose cosines differ by no more than their rounding, of about the square root
  of d times 1e-7; the angle that is returned is then that of one of these.

  A row of zeros has no direction: it is orthogonal to all, and has pi / 2 to each. A
  row of NaN or infinity has the angles NaN and the indices -1, and is nobody's
  neighbor; so has, for what it lacks, a row with fewer than k others that are finite.

  Args:
    neurons: ``[*batch, n, d]``, one neuron of ``d`` weights per row; float64,
      float32, or a smaller float, which is computed in float32.
    half_space: neurons are lines: the angle to the neuron or its antipode, whichever is
      smaller, at most pi / 2.
    k: how many, from 1 to n - 1.
    rows: integers ``[m]``, 0 to n - 1, of all sets of a batch the same: the neurons
      that are asked for their nearest among all, in O(m n d) operations. By default all
      n. Others, which cannot be told when traced, have the angles NaN and the indices
      -1.

  Returns:
    Angles in radians, ``[*batch, n, k]``, or ``[*batch, m, k]`` with ``rows``,
    ascending, float64 for float64 neurons and float32 otherwise; indices in the set, of
    the same shape, int32, of equal angles the lowest first. The angles are
    differentiable, the indices constants. At coincident and at antipodal neurons, where
    the angle has a kink, its gradient is 0.

  Raises:
    TypeError: ``neurons`` is not a real floating-point array, or ``rows`` not integer.
    ValueError: ``neurons`` has fewer than two axes, or a symbolic n (of
      ``jax.export``); ``k`` is not a whole number from 1 to n - 1; ``rows`` is not
      ``[m]`` with m > 0.

  Example:
    >>> import jax.numpy as jnp
    >>> from mhe_jax import nearest_neurons
    >>> neurons = jnp.array([[1.0, 0, 0], [0, 1, 0], [0.1, -1, 0]])
    >>> angles, indices = nearest_neurons(neurons, half_space=True)
    >>> indices[:, 0].tolist()
    [2, 2, 1]
    >>> [round(float(x), 3) for x in jnp.degrees(angles[:, 0])]
    [84.289, 5.711, 5.711]
    >>> nearest_neurons(neurons, rows=jnp.array([1]))[1].tolist()
    [[0]]
  """
  neurons = as_static_neurons(neurons)
  k, n = check_count("k", k, 1), neurons.shape[-2]
  if k >= n:
    raise ValueError(f"k must be a whole number from 1 to n - 1 = {n - 1}, got {k}.")
  rows = None if rows is None else as_rows(rows)
  return _nearest_neurons(neurons, rows, bool(half_space), k)


class _BatchEnergy(NamedTuple):
  """A function of neurons and rows, hashable."""

  potential: Potential
  half_space: bool
  axis_name: Hashable | None

  def __call__(self, neurons, rows):
    units = normalize(neurons)
    return divide_by_type(self.axis_name, self.average, units, Mask(), rows)

  def average(self, axis_name, units, _, rows):
    return rows_against_all(
      units, rows, self.potential, half_space=self.half_space, axis_name=axis_name
    )


@functools.partial(jax.jit, static_argnums=(2, 3))
def _neuron_energies(neurons, mask, potential, half_space):
  if mask.where is not None:
    neurons = jnp.where(mask.where[..., None], neurons, jnp.zeros_like(neurons))
  units = normalize(neurons)
  sums = tiled.row_sums(units, potential, half_space=half_space, mask=mask)
  partners = mask.num_partners(units.shape[-2], units.dtype)
  # A damaged row is not hidden by having no pair.
  sums = sums + 0.0 * jnp.sum(units, -1)
  at_least_one = max if isinstance(partners, int) else jnp.maximum
  return sums / at_least_one(2 * partners if half_space else partners, 1)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _nearest_neurons(neurons, rows, half_space, k):
  units = normalize(neurons)
  *batch, n, d = units.shape
  indices = nearest_rows.nearest(units, half_space=half_space, k=k, rows=rows)
  if rows is None:
    own, asked = jnp.arange(n, dtype=jnp.int32), units
  else:
    own = jnp.clip(rows, 0, n - 1).astype(jnp.int32)
    asked = jnp.take(units, own, axis=-2)
  # Where there is none, the row itself, so that no other row gets a gradient of it.
  own = jnp.broadcast_to(own[:, None], indices.shape)
  is_missing = indices < 0
  flat = jnp.where(is_missing, own, indices).reshape(*batch, own.shape[-2] * k, 1)
  others = jnp.take_along_axis(units, flat, axis=-2).reshape(*indices.shape, d)
  angles = nearest_rows.angles(asked[..., None, :], others, half_space=half_space)
  angles = jnp.where(is_missing, jnp.nan, angles)
  # In the order of the angles that are returned, to the last bit.
  return jax.lax.sort((angles, indices), num_keys=2)
