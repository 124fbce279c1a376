"""The numbers of the report, against closed forms and plain float64."""

import math

import jax
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from safetensors.numpy import save_file
from sets import normal, units_of

from mhe_jax import Gaussian, Riesz, hyperspherical_energy, relative_excess
from mhe_jax.report import redundancy
from mhe_jax.report.chance import excess_spread, twin_angle, verdict
from mhe_jax.report.measures import geometry_of


def report_of(folder, *args, **tensors):
  options = {k: tensors.pop(k) for k in ("half_space", "exact_up_to") if k in tensors}
  np.savez(folder / "m.npz", **{f"{name}.weight": x for name, x in tensors.items()})
  return redundancy(folder / "m.npz", *args, **options)


def row_of(folder, w, *args, **options):
  (row,) = report_of(folder, *args, w=w, **options)
  return row


# --- configurations whose numbers are known --------------------------------------


def test_orthonormal_rows(tmp_path):
  w = np.linalg.qr(normal(9, 9))[0][:6] * np.exp(normal(6, 1))
  row = row_of(tmp_path, w, Riesz(2.0))
  assert (row.sets, row.n, row.d, row.zero_neurons) == (1, 6, 9, 0)
  # The optimum of half-space, [f(2) + (2n - 2) f(sqrt 2)] / (2n - 1).
  assert row.energy == pytest.approx((1 / 4 + 10 / 2) / 11)
  assert row.relative_excess == pytest.approx(0.0, abs=1e-9)
  assert row.energy_error == row.excess_error == 0.0
  assert row.smallest_angle == pytest.approx(90.0)
  assert row.mean_squared_cosine == pytest.approx(0.0, abs=1e-12)
  assert row.effective_rank == pytest.approx(6.0)
  assert row.twins == 0.0


def test_simplex(tmp_path):
  w = np.eye(6) - 1 / 6  # Of rank 5, all cosines -1/5.
  row = row_of(tmp_path, w, Riesz(1.0), half_space=False)
  assert row.energy == pytest.approx((2 * 6 / 5) ** -0.5)
  assert row.relative_excess == pytest.approx(0.0, abs=1e-9)
  assert row.smallest_angle == pytest.approx(np.degrees(np.arccos(-1 / 5)))
  assert row.mean_squared_cosine == pytest.approx(1 / 25)
  assert row.effective_rank == pytest.approx(5.0)
  row = row_of(tmp_path, w, Riesz(1.0))
  assert row.smallest_angle == pytest.approx(np.degrees(np.arccos(1 / 5)))


@pytest.mark.parametrize("sign", [1, -1])
def test_planted_twins(tmp_path, sign):
  w = normal(40, 20)
  w[31] = sign * (2.0 * w[4] + 1e-4 * w[31])
  row = row_of(tmp_path, w)
  u = units_of(w)
  expected = np.linalg.norm(u[4] - sign * u[31])
  assert row.closest == (4, 31)
  assert row.smallest_angle == pytest.approx(np.degrees(expected), rel=1e-6)
  assert row.twins == pytest.approx(2 / 40)
  # In full space an antipode is no twin.
  row = row_of(tmp_path, w, half_space=False)
  assert (row.closest == (4, 31)) == (sign == 1)
  assert row.twins == (2 / 40 if sign == 1 else 0.0)


def test_zero_rows(tmp_path):
  w = normal(40, 20)
  w[[3, 17]] = 0.0
  row, alive = row_of(tmp_path, w), np.delete(w, [3, 17], 0)
  of_alive = row_of(tmp_path, alive)
  assert row.zero_neurons == 2 and row.n == 40
  names = ("smallest_angle", "mean_squared_cosine", "effective_rank", "twins")
  for name in names:
    assert getattr(row, name) == pytest.approx(getattr(of_alive, name))
  # Numbers of the matrix as stored.
  kept = np.delete(np.arange(40), [3, 17])
  assert row.closest == tuple(kept[list(of_alive.closest)])
  row = row_of(tmp_path, np.zeros((4, 3)))
  assert row.zero_neurons == 4 and row.verdict == "unknown" and row.closest is None
  assert math.isnan(row.smallest_angle) and math.isnan(row.relative_excess)


@pytest.mark.parametrize("exact_up_to", [32768, 10])
def test_dead_neurons_do_not_make_a_layer_diverse(tmp_path, exact_up_to):
  w = np.zeros((60, 8))
  w[::5] = normal(12, 8)
  row, alive = row_of(tmp_path, w, exact_up_to=exact_up_to), row_of(tmp_path, w[::5])
  assert row.zero_neurons == 48
  assert row.relative_excess == pytest.approx(alive.relative_excess)
  assert row.verdict == alive.verdict == "at chance"
  # The energy has the pairs of dead neurons, at right angles; the excess has not.
  assert row.energy < alive.energy
  if exact_up_to > 60:
    expected = float(hyperspherical_energy(w, Riesz(2.0), half_space=True))
    assert row.energy == pytest.approx(expected)
    excess = float(relative_excess(w, Riesz(2.0), half_space=True))
    assert row.relative_excess == pytest.approx(excess, rel=1e-5)
  w[5:] = 0.0
  row = row_of(tmp_path, w, exact_up_to=exact_up_to)
  assert math.isnan(row.relative_excess) and row.verdict == "unknown"


def test_effective_rank_is_roy_and_vetterlis(tmp_path):
  w = normal(40, 20) * np.exp(normal(20, seed=1))
  for matrix in (w, w[:8]):
    sigma = np.linalg.svd(units_of(matrix), compute_uv=False)
    p = sigma / sigma.sum()
    expected = math.exp(-np.sum(p * np.log(p)))
    assert row_of(tmp_path, matrix).effective_rank == pytest.approx(expected)
  line = row_of(tmp_path, np.outer(normal(40), normal(20)))
  assert line.effective_rank == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("half_space", [True, False])
def test_numbers_of_plain_float64(tmp_path, half_space):
  w = normal(300, 24)
  row = row_of(tmp_path, w, Riesz(2.0), half_space=half_space)
  cosines = units_of(w) @ units_of(w).T
  off = cosines[~np.eye(300, dtype=bool)]
  assert row.mean_squared_cosine == pytest.approx(np.mean(off**2))
  nearest = np.abs(off) if half_space else off
  assert row.smallest_angle == pytest.approx(np.degrees(np.arccos(nearest.max())))
  i, j = row.closest
  assert abs(cosines[i, j] if not half_space else abs(cosines[i, j])) == nearest.max()
  expected = relative_excess(w, Riesz(2.0), half_space=half_space)
  np.testing.assert_allclose(row.relative_excess, expected, rtol=1e-9)


@pytest.mark.parametrize("potential", [Riesz(0.0), Riesz(1.0, "geodesic"), Gaussian()])
def test_potentials(tmp_path, potential):
  w = normal(12, 8)
  row = row_of(tmp_path, w, potential)
  expected = relative_excess(w, potential, half_space=True)
  np.testing.assert_allclose(row.relative_excess, expected, rtol=1e-9)


def test_where_there_is_no_scale(tmp_path):
  row = row_of(tmp_path, normal(5, 3), Riesz(2.0))  # s >= d - 1.
  assert math.isnan(row.relative_excess) and row.verdict == "unknown"
  assert np.isfinite(row.energy)
  row = row_of(tmp_path, normal(5, 1))
  assert row.verdict == "unknown" and row.smallest_angle == 0.0


def test_damaged_layers_are_told(tmp_path):
  damaged = normal(6, 5)
  damaged[2, 1] = np.nan
  infinite = normal(6, 5)
  infinite[2, 1] = np.inf
  with jax.debug_nans(True):
    report = report_of(tmp_path, good=normal(6, 5), nan=damaged, inf=infinite)
  assert report.rows[0].name == "good.weight"  # Those without a number come last.
  for name in ("nan.weight", "inf.weight"):
    row = report[name]
    assert math.isnan(row.energy) and math.isnan(row.relative_excess)
    assert row.closest is None
  assert report.summary.count("NaN or infinity; do not use this file") == 2
  assert "NaN or infinity in: inf.weight, nan.weight" in str(report).replace(
    "nan.weight, inf.weight", "inf.weight, nan.weight"
  )


@pytest.mark.parametrize("x64", [True, False])
@pytest.mark.parametrize(
  ("dtype", "norms"),
  [
    # Also so small that they are subnormal, and so large that reciprocals are.
    ("float32", [1e30, 1e-30, 5e37, 1e-41]),
    ("float64", [1e50, 1e-50, 1e300, 1e-308]),
    ("bfloat16", [5e37, 1e-37]),
    ("float16", [1e4, 1e-3]),
  ],
)
def test_norms_do_not_matter(tmp_path, dtype, norms, x64):
  w = normal(40, 20)
  factors = np.resize([1.0, *norms], 40)[:, None]
  tensors = {"one": w, "rows": w * factors}
  tensors |= {f"all{i}": w * norm for i, norm in enumerate(norms)}
  path = tmp_path / "m.safetensors"
  save_file(
    {f"{k}.weight": x.astype(np.dtype(dtype)) for k, x in tensors.items()}, path
  )
  with jax.enable_x64(x64):
    report = redundancy(path)
  expected = report["one.weight"]
  # What is rounded off of bfloat16, or where it is subnormal, is another matter.
  rtol = 1e-3 if dtype in ("float32", "float64") else 2e-2
  for row in report:
    assert row.zero_neurons == 0
    for name in ("relative_excess", "smallest_angle", "effective_rank"):
      got, wanted = getattr(row, name), getattr(expected, name)
      np.testing.assert_allclose(got, wanted, rtol=rtol, err_msg=row.name)


# --- samples ---------------------------------------------------------------------


def test_samples_of_large_layers(tmp_path):
  w = normal(1200, 12)
  w[700:1100] += 2.0  # Not all rows are alike.
  exact = row_of(tmp_path, w, Riesz(1.0), half_space=False)
  row = row_of(tmp_path, w, Riesz(1.0), half_space=False, exact_up_to=1000)
  assert row.is_sampled and not exact.is_sampled
  assert exact.excess_error == exact.energy_error == 0.0 < row.energy_error
  assert abs(row.energy - exact.energy) < 4 * row.energy_error
  assert abs(row.relative_excess - exact.relative_excess) < 4 * row.excess_error
  scale = row.excess_error / row.energy_error
  gain = (exact.relative_excess - row.relative_excess) / (exact.energy - row.energy)
  assert scale == pytest.approx(gain)
  # 1,024 of 1,200 rows: the smallest angle is that of some pair, not less than exact.
  assert row.smallest_angle >= exact.smallest_angle * (1 - 1e-6)
  u = units_of(w)
  i, j = row.closest
  angle = np.degrees(np.arccos(u[i] @ u[j]))
  assert row.smallest_angle == pytest.approx(angle, rel=1e-5)
  assert abs(row.twins - exact.twins) < 4 * math.sqrt(0.25 / 1024) + 1e-9
  # These do not depend on pairs one by one.
  for name in ("mean_squared_cosine", "effective_rank"):
    assert getattr(row, name) == getattr(exact, name)


def with_twins():
  """1,200 neurons, of which each has a twin, every second of them flipped."""
  w = normal(1200, 12)
  w[600:] = np.where(np.arange(600)[:, None] % 2, 1.0, -1.0) * w[:600]
  w[600:] += 1e-3 * normal(600, 12, seed=1)
  return w


def test_a_sample_finds_the_nearest_of_its_rows(tmp_path):
  w = with_twins()
  report = report_of(tmp_path, Riesz(1.0), w=w, half_space=False, exact_up_to=1000)
  row = report["w.weight"]
  i, j = row.closest
  assert j == i + 600 and i % 2 == 1
  # All rows of the sample that are not flipped have a twin.
  assert row.twins == pytest.approx(0.5, abs=0.07)
  assert "Sampled, for they have more than 1000 neurons: w.weight" in str(report)


def test_a_sample_of_lines():
  geometry = geometry_of(with_twins(), half_space=True, exact_up_to=1000)
  assert geometry.closest is not None
  assert geometry.closest[1] == geometry.closest[0] + 600
  assert geometry.twins == 1.0


# --- chance ----------------------------------------------------------------------


@pytest.mark.parametrize("d", [2, 3, 10, 400])
@pytest.mark.parametrize("half_space", [True, False])
def test_twin_angle_is_the_law_of_angles(d, half_space):
  for n in (2, 10, 3000):
    angle = twin_angle(n, d, half_space=half_space)
    # The density of an angle is sin^(d - 2); of lines, twice that up to pi / 2.
    log_norm = math.lgamma(d / 2) - math.lgamma((d - 1) / 2) - math.log(math.pi) / 2
    of_cap = scipy.integrate.quad(
      lambda x: math.sin(x) ** (d - 2), 0.0, angle, epsabs=0, epsrel=1e-9
    )[0]
    probability = (2 if half_space else 1) * math.exp(log_norm) * of_cap
    assert n * (n - 1) / 2 * probability == pytest.approx(0.01, rel=1e-6)


def test_random_directions_have_no_twins():
  d, n, trials = 12, 60, 300
  close = {True: 0, False: 0}
  for seed in range(trials):
    u = units_of(normal(n, d, seed=seed))
    cosines = (u @ u.T)[np.triu_indices(n, 1)]
    for half_space in close:
      largest = np.abs(cosines).max() if half_space else cosines.max()
      limit = twin_angle(n, d, half_space=half_space)
      close[half_space] += np.arccos(largest) < limit
  # 1% of them by chance, at most; 8 of 300 have a probability of 1%.
  for count in close.values():
    assert scipy.stats.binom.sf(count, trials, 0.01) > 1e-3


@pytest.mark.parametrize(("n", "d"), [(40, 60), (120, 30)])
@pytest.mark.parametrize("half_space", [True, False])
def test_spread_of_the_excess_of_random_directions(n, d, half_space):
  trials = 200
  w = normal(trials, n, d)
  values = np.asarray(relative_excess(w, Riesz(1.0), half_space=half_space))
  expected = excess_spread(Riesz(1.0), n, d, half_space)
  # Of 200 trials a standard deviation is known to 5%.
  assert np.std(values) == pytest.approx(expected, rel=0.2)
  verdicts = {verdict(x, expected) for x in values}
  assert verdicts == {"at chance"}


def test_verdicts(tmp_path):
  redundant = normal(64, 48)
  redundant[:, :3] *= 4.0
  diverse = np.linalg.qr(normal(64, 64))[0][:40]
  report = report_of(tmp_path, a=redundant, b=diverse, c=normal(64, 48, seed=1))
  assert [row.name for row in report] == ["a.weight", "c.weight", "b.weight"]
  assert [row.verdict for row in report] == ["redundant", "at chance", "below chance"]
  assert report.summary.startswith("2 layers, nothing unusual. Against random ")
  assert "1 more redundant, as trained layers are, 1 at chance" in report.summary
  assert report.assumed == ("b.weight",)  # 64 are taken by b; 40 by nobody.
  assert verdict(1.5, 0.0, error=0.2) == "at chance"
