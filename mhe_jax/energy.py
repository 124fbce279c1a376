"""The hyperspherical energy of a set of neurons."""

from collections.abc import Hashable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from mhe_jax.checks import check_axis_name, check_count, check_sharded
from mhe_jax.objectives.base import as_neurons
from mhe_jax.pair_sum import ring
from mhe_jax.pair_sum.mask import mask_of
from mhe_jax.pair_sum.mean import pair_energy
from mhe_jax.potentials.base import Potential, check_potential
from mhe_jax.potentials.riesz import Riesz
from mhe_jax.sphere import evaluate, normalize


def hyperspherical_energy(
  neurons: jax.typing.ArrayLike,
  potential: Potential = Riesz(1.0),
  *,
  half_space: bool = False,
  reduction: Literal["mean", "sum"] = "mean",
  where: jax.typing.ArrayLike | None = None,
  labels: jax.typing.ArrayLike | None = None,
  implementation: Literal["dense", "tiled"] | None = None,
  block_size: int | None = None,
  axis_name: Hashable | None = None,
) -> jax.Array:
  r"""Potential energy of neurons seen as charges on the unit sphere.

  Each row :math:`w_i` is projected to the sphere, :math:`u_i = w_i / \lVert w_i
  \rVert`, and the potential :math:`f` is averaged (or summed) over the unordered
  pairs of rows:

  .. math::
    E = \frac{2}{N (N - 1)} \sum_{i < j} f(\lVert u_i - u_j \rVert)

  In half-space form every row has a virtual antipode, so that collinear neurons
  repel each other whatever their signs: the energy is exactly that of the
  :math:`2N` rows of ``concatenate([u, -u])`` with its :math:`N (2N - 1)` pairs,
  computed from the :math:`N \times N` cosines alone.

  It depends on directions only: the gradient of a row is orthogonal to it and
  scales as one over its norm. A row of zeros (or of magnitude below the smallest
  normal number) has no direction; it counts as orthogonal to all others and gets
  no gradient. With fewer than two rows there is no pair and the energy is 0
  (half-space, one row: the constant of the pair it forms with its antipode).
  NaN or infinity in a row makes the energy of its set NaN.

  Of a mini-batch, say of classifier rows ``W[labels]``, not all pairs are meant: rows
  of one label are the same neuron, and rows of padding are none. The pairs that do not
  count are left out of the sum and of the number of pairs that the mean divides by;
  if none is left, the energy is 0 and has no gradient.

  Args:
    neurons: ``[*batch, n, d]``, one neuron of ``d`` weights per row; float64,
      float32, or a smaller float, which is computed in float32.
    potential: the pair potential, :class:`Riesz` or :class:`Gaussian`.
    half_space: add the virtual antipodes (the paper's half-space MHE).
    reduction: ``"mean"`` over unordered pairs (the paper's normalization by
      :math:`1 / (N (N - 1))`) or ``"sum"`` over i < j (the Thomson problem).
    where: booleans that broadcast to ``[*batch, n]``: the rows that count. The energy
      is that of ``neurons[where]``; the others get no gradient and may hold anything,
      NaN too.
    labels: integers that broadcast to ``[*batch, n]``. Two rows of equal labels are
      not a pair; in half-space, neither is one of them with the antipode of the other,
      but each with its own antipode.
    implementation: ``"dense"``, one Gram matrix and its automatic derivative: the
      definition, in O(n^2) memory; ``"tiled"``, tiles of it, value and gradient in
      one pass and O(n d) memory. ``None`` takes ``"tiled"``, which is the faster
      at every size.
    block_size: most rows of a tile, at least 2; the default suits the backend.
    axis_name: mesh axis, or tuple of them, of the :func:`jax.shard_map` that this is
      called in: ``neurons``, ``where`` and ``labels`` are the rows of one device, of as
      many on each, and the energy is that of the rows of all devices. See below.

  Returns:
    Energies ``[*batch]``, float64 for float64 neurons and float32 otherwise; with
    ``axis_name`` on all devices the same.

  **Sharded neurons.** Every device keeps its rows, and sends them once half round the
  ring of devices; each pair is computed by one of them, and nothing is gathered.
  Outside of ``shard_map`` no name is needed: neurons that are sharded over mesh axes,
  explicit or automatic, by rows or by columns, as arrays or inside ``jit``, are
  divided the same way, and so are axes of the batch. (Where a device would have fewer
  than 64 rows, they are gathered instead, which is faster.) The gradient is sharded as
  the neurons are. Inside ``shard_map``, its default ``check_vma=True`` must stay, by
  which JAX knows what differs over devices.

  Raises:
    TypeError: ``neurons`` is not a real floating-point array, or ``potential``
      not a :class:`Potential`, or ``where`` not boolean, or ``labels`` not integer.
    ValueError: ``neurons`` has fewer than two axes; ``where`` or ``labels`` do not
      broadcast to ``[*batch, n]``; an unknown ``reduction`` or ``implementation``; a
      ``block_size`` below 2, or for ``"dense"``, which has no tiles; a symbolic n
      (of ``jax.export``) for ``"tiled"``; or an ``axis_name`` that is none here, or
      for ``"dense"``.

  Example:
    >>> import jax.numpy as jnp
    >>> from mhe_jax import Riesz, hyperspherical_energy
    >>> octahedron = jnp.concatenate([jnp.eye(3), -jnp.eye(3)])
    >>> thomson = hyperspherical_energy(octahedron, Riesz(1.0), reduction="sum")
    >>> round(float(thomson), 4)
    9.9853
    >>> halved = hyperspherical_energy(
    ...     jnp.eye(3), Riesz(1.0), half_space=True, reduction="sum")
    >>> round(float(halved), 4)
    9.9853

    Of a mini-batch, in which a class may come twice:

    >>> labels = jnp.array([0, 1, 2, 1, 4])
    >>> energy = hyperspherical_energy(octahedron[labels], labels=labels)
    >>> round(float(energy), 4)
    0.6611

    Of a classifier whose rows are sharded over the devices there are:

    >>> import jax
    >>> mesh = jax.make_mesh((jax.device_count(),), ("data",))
    >>> rows = jax.NamedSharding(mesh, jax.P("data", None))
    >>> classes = jax.random.normal(jax.random.key(0), (64 * jax.device_count(), 32))
    >>> energy = jax.shard_map(
    ...   lambda shard: hyperspherical_energy(shard, axis_name="data"),
    ...   mesh=mesh, out_specs=jax.P())
    >>> of_shards = energy(jax.device_put(classes, rows))
    >>> bool(abs(of_shards - hyperspherical_energy(classes)) < 1e-6)
    True

  References:
    Liu et al., `Learning towards Minimum Hyperspherical Energy
    <https://arxiv.org/abs/1805.09298>`_, NeurIPS 2018, equation 1; half-space,
    section 3.2.
  """
  neurons = as_neurons(neurons, whole=implementation == "dense")
  check_potential(potential)
  if reduction not in ("mean", "sum"):
    raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}.")
  if implementation not in (None, "dense", "tiled"):
    raise ValueError(
      f"implementation must be None, 'dense' or 'tiled', got {implementation!r}."
    )
  if block_size is not None:
    check_count("block_size", block_size, 2)
    if implementation == "dense":
      raise ValueError(
        f"block_size must be None for 'dense', which has no tiles, got {block_size!r}."
      )
  if implementation == "dense" and axis_name is not None:
    raise ValueError(
      f"axis_name must be None for 'dense', which sees one device, got {axis_name!r}."
    )
  mask = mask_of(neurons.shape[:-1], where, labels)
  axis_name = check_axis_name(axis_name)
  of_rows = {"neurons": neurons, "where": mask.where, "labels": mask.labels}
  check_sharded(axis_name, of_rows)
  options = _Options(
    potential, bool(half_space), reduction, implementation, block_size, axis_name
  )
  return evaluate(options, neurons, mask, axis_name=axis_name)


class _Options(NamedTuple):
  """What the compiled energy depends on besides the neurons."""

  potential: Potential
  half_space: bool
  reduction: Literal["mean", "sum"]
  implementation: Literal["dense", "tiled"] | None
  block_size: int | None
  axis_name: ring.AxisName | None

  def __call__(self, neurons, mask):
    if mask.where is not None:
      neurons = jnp.where(mask.where[..., None], neurons, jnp.zeros_like(neurons))
    options = self._asdict()
    return pair_energy(
      normalize(neurons), options.pop("potential"), mask=mask, **options
    )
