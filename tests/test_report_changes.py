"""Comparisons of two checkpoints, against rotations, closed forms and plain float64."""

import math
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import scipy.linalg
from safetensors.numpy import save_file
from sets import normal, units_of

from mhe_jax import LayerRule, NeuronAxes, Riesz, relative_excess
from mhe_jax.report import InputError, compare, redundancy, spectrum


def turn_of(d, seed=0):
  return np.linalg.qr(normal(d, d, seed=seed))[0]


def compared(folder, after, before, *args, **options):
  """Of ``{name: array}``, or the row of one array each."""
  for name, x in (("after", after), ("before", before)):
    tensors = x if isinstance(x, dict) else {"w.weight": x}
    np.savez(folder / f"{name}.npz", **tensors)
  report = compare(folder / "after.npz", folder / "before.npz", *args, **options)
  return report if isinstance(after, dict) else report.rows[0]


# More neurons than weights, and fewer: computed by different products.
SHAPES = pytest.mark.parametrize("shape", [(40, 12), (12, 40)], ids=["tall", "wide"])


@SHAPES
def test_one_rotation_changes_nothing(tmp_path, shape):
  w = normal(*shape)
  row = compared(tmp_path, w @ turn_of(shape[1]), w)
  assert row.excess_change == pytest.approx(0.0, abs=1e-9)
  assert row.energy_change == pytest.approx(0.0, abs=1e-12)
  assert row.cosine_change == pytest.approx(0.0, abs=1e-8)
  assert row.moved > 0.5
  assert row.moved_unrotated == pytest.approx(0.0, abs=1e-6)
  assert row.norm_ratio == pytest.approx(1.0) and row.weight_change > 0.5


@SHAPES
def test_nothing_changed(tmp_path, shape):
  w = normal(*shape)
  row = compared(tmp_path, w, w)
  assert row.cosine_change == row.moved == row.weight_change == row.excess_change == 0.0
  assert row.moved_unrotated == 0.0
  assert row.norm_ratio == 1.0


@SHAPES
def test_norms_alone(tmp_path, shape):
  w = normal(*shape)
  row = compared(tmp_path, 3.0 * w, w)
  assert row.cosine_change == pytest.approx(0.0, abs=1e-12)
  assert row.moved == pytest.approx(0.0, abs=1e-12)
  assert row.norm_ratio == pytest.approx(3.0)
  assert row.weight_change == pytest.approx(2.0)


@SHAPES
@pytest.mark.parametrize("size", [1.0, 1e-5])
def test_changes_of_plain_float64(tmp_path, shape, size):
  w = normal(*shape)
  after = w + size * normal(*shape, seed=1)
  after[3] = 0.0  # A neuron that died.
  row = compared(tmp_path, after, w, Riesz(2.0))
  u, v = units_of(after), units_of(w)
  n = len(w)
  off = ~np.eye(n, dtype=bool)
  change = (u @ u.T - v @ v.T)[off]
  assert row.cosine_change == pytest.approx(math.sqrt(np.mean(change**2)), rel=1e-6)
  assert row.moved == pytest.approx(math.sqrt(np.sum((u - v) ** 2) / n))
  # Procrustes' solution, with the map itself.
  left, _, right = np.linalg.svd(u.T @ v)
  least = np.linalg.norm(u @ left @ right - v) / math.sqrt(n)
  assert row.moved_unrotated == pytest.approx(least, rel=1e-5)
  assert row.norm_ratio == pytest.approx(np.linalg.norm(after) / np.linalg.norm(w))
  assert row.weight_change == pytest.approx(
    np.linalg.norm(after - w) / np.linalg.norm(w)
  )
  alive = np.delete(after, 3, 0)  # The dead have no excess.
  before, later = (relative_excess(x, Riesz(2.0), half_space=True) for x in (w, alive))
  np.testing.assert_allclose(row.excess_before, before, rtol=1e-9)
  np.testing.assert_allclose(row.excess_after, later, rtol=1e-9)
  np.testing.assert_allclose(row.excess_change, later - before, rtol=1e-6, atol=1e-9)


@SHAPES
@pytest.mark.parametrize("x64", [True, False])
@pytest.mark.parametrize("norm", [1e-310, 1e-200, 1e-42, 1e42, 1e200])
def test_norms_do_not_matter(tmp_path, shape, norm, x64):
  before = normal(*shape)
  after = before + 1e-2 * normal(*shape, seed=1)
  expected = compared(tmp_path, after, before)
  with jax.enable_x64(x64):
    row = compared(tmp_path, norm * after, norm * before)
  names = ("cosine_change", "moved", "moved_unrotated", "norm_ratio", "weight_change")
  for name in (*names, "excess_before", "excess_after"):
    assert getattr(row, name) == pytest.approx(getattr(expected, name), rel=2e-3), name
  row = compared(tmp_path, norm * after, before)
  assert row.moved == pytest.approx(expected.moved, rel=1e-3)
  assert row.norm_ratio == pytest.approx(norm * expected.norm_ratio, rel=1e-3)


def test_small_changes_are_not_lost(tmp_path):
  # The Gram matrices differ by 1e-9 of theirs: their difference would be rounding.
  w = normal(60, 8)
  direction = normal(60, 8, seed=1)
  row = compared(tmp_path, w + 1e-9 * direction, w)
  u = units_of(w)
  step = direction / np.linalg.norm(w, axis=1, keepdims=True)
  step -= u * np.sum(u * step, 1, keepdims=True)
  change = (u @ step.T + step @ u.T)[~np.eye(60, dtype=bool)]
  expected = 1e-9 * math.sqrt(np.mean(change**2))
  assert row.cosine_change == pytest.approx(expected, rel=1e-4)


@SHAPES
def test_large_sides(tmp_path, shape, monkeypatch):
  # As of more than 1,024: the nuclear norm by eigenvalues, to fewer digits.
  monkeypatch.setattr(spectrum, "SMALL_SIDE", 4)
  w, noise = normal(*shape), normal(*shape, seed=1)
  row = compared(tmp_path, w @ turn_of(shape[1]), w)
  assert row.moved > 0.5 and row.moved_unrotated < 1e-3
  row = compared(tmp_path, w + noise, w)
  least = scipy.linalg.orthogonal_procrustes(units_of(w + noise), units_of(w))[0]
  left = np.linalg.norm(units_of(w + noise) @ least - units_of(w)) / math.sqrt(len(w))
  assert row.moved_unrotated == pytest.approx(left, rel=1e-5)
  # And of more than 8,192: not at all.
  for name in ("spectrum", "changes"):
    module = sys.modules[f"mhe_jax.report.{name}"]
    monkeypatch.setattr(module, "LARGEST_SIDE", 4)
  row = compared(tmp_path, w + noise, w)
  assert math.isnan(row.moved_unrotated) and row.moved > 0.1
  (row,) = redundancy(tmp_path / "after.npz")
  assert math.isnan(row.effective_rank) and row.mean_squared_cosine > 0


def test_sets_of_a_stack(tmp_path):
  stack = normal(3, 6, 5)
  after = stack.copy()
  after[1] = stack[1] @ turn_of(5)
  after[2] *= 2.0
  rule = LayerRule("w.weight", NeuronAxes(1, batch=0))
  row = compared(tmp_path, after, stack, rules=[rule])
  alone = compared(tmp_path, after[1], stack[1])
  assert (row.sets, row.n, row.d) == (3, 6, 5)
  # Root mean squares over the sets, of which one moved; the mean of the ratios.
  assert row.moved == pytest.approx(alone.moved / math.sqrt(3))
  assert row.norm_ratio == pytest.approx(4 / 3)
  assert row.cosine_change == pytest.approx(0.0, abs=1e-8)


def test_samples_are_of_the_same_rows(tmp_path):
  w = normal(1200, 12)
  exact = compared(tmp_path, w, 1.01 * w, half_space=False, exact_up_to=1000)
  assert exact.is_sampled and exact.energy_error > 0
  assert abs(exact.energy_change) < 1e-2 * exact.energy_error
  # All else is exact at every size.
  assert exact.cosine_change == pytest.approx(0.0, abs=1e-12)


def test_damaged_and_dead(tmp_path):
  damaged = normal(6, 5)
  damaged[0, 0] = np.nan
  row = compared(tmp_path, damaged, normal(6, 5))
  assert math.isnan(row.cosine_change) and math.isnan(row.excess_after)
  assert not math.isnan(row.excess_before)
  row = compared(tmp_path, normal(6, 5), np.zeros((6, 5)))
  assert math.isnan(row.norm_ratio) and row.moved == pytest.approx(1.0)
  # Said first, for it is what a script would look at.
  w, zeros = normal(6, 5), np.zeros((6, 5))
  after = {
    "nan.weight": damaged,
    "born.weight": w,
    "dead.weight": zeros,
    "same.weight": w,
  }
  before = {
    "nan.weight": w,
    "born.weight": zeros,
    "dead.weight": zeros,
    "same.weight": w,
  }
  summary = compared(tmp_path, after, before).summary
  assert summary.startswith("1 of 4 layers changed; most of all born.weight")
  assert summary.endswith("; 1 layer with NaN or infinity.")


# --- reports -------------------------------------------------------------------------


def test_what_is_not_in_both(tmp_path):
  w = normal(6, 5)
  after = {
    "a.weight": w,
    "b.weight": w,
    "more.weight": w,
    "ids": np.ones((2, 2), int),
    "blocks.weight": np.ones((256, 256)),
  }
  before = {
    "a.weight": w,
    "b.weight": normal(7, 5),
    "gone.weight": w,
    "gone.bias": np.ones(3),
    "ids": np.ones((2, 2), int),
    "blocks.weight": np.ones((256, 256), np.uint8),
  }
  report = compared(tmp_path, after, before)
  assert [row.name for row in report] == ["a.weight"]
  assert report.unknown == {
    "b.weight": "of shape (7, 5) in the base",
    "more.weight": "not in the base",
    "gone.weight": "only in the base",
    "blocks.weight": "not read in the base: dtype uint8: quantized weights, if it is "
    "one, are not read",
  }
  assert "only in the base" in str(report)


def test_sorted_by_change(tmp_path):
  before = {f"{name}.weight": normal(8, 6, seed=i) for i, name in enumerate("abcd")}
  sizes = dict(zip(before, (0.1, 0.0, 1.0, 0.01)))
  after = {k: w + sizes[k] * normal(8, 6, seed=9) for k, w in before.items()}
  after["b.weight"] = before["b.weight"] @ turn_of(6)
  report = compared(tmp_path, after, before)
  assert [row.name[0] for row in report] == ["c", "a", "d", "b"]
  assert report.summary.startswith("4 of 4 layers changed; most of all c.weight")
  assert "1 were little more than turned as a whole" in report.summary
  assert report["c.weight"] is report.rows[0]
  with pytest.raises(KeyError):
    report["e.weight"]


def test_of_different_formats_and_dtypes(tmp_path):
  w = normal(8, 6).astype(np.float32)
  np.savez(tmp_path / "a.npz", **{"w.weight": w.astype(np.float16)})
  save_file({"w.weight": w}, tmp_path / "b.safetensors")
  (row,) = compare(tmp_path / "a.npz", tmp_path / "b.safetensors")
  assert 0 < row.weight_change < 1e-3 and row.cosine_change < 1e-3


def test_names_that_formats_write_differently(tmp_path):
  tree = {
    "Dense_0": {"kernel": normal(5, 6), "bias": normal(6)},
    "head": {"kernel": {"value": normal(6, 4)}},
  }
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / "tree", tree)
  flat = {
    "Dense_0.kernel": tree["Dense_0"]["kernel"],
    "head.kernel": 2.0 * tree["head"]["kernel"]["value"],
  }
  save_file(flat, tmp_path / "flat.safetensors")
  rules = [LayerRule(".*head.*", role="output")]
  for a, b in (("tree", "flat.safetensors"), ("flat.safetensors", "tree")):
    report = compare(tmp_path / a, tmp_path / b, rules=rules)
    assert [row.role for row in report] == ["hidden", "output"]
    assert [row.weight_change > 0 for row in report] == [False, True]
    assert not report.unknown
  # A name that could be either is taken as it stands.
  both = {"a/b.weight": normal(4, 3), "a.b.weight": normal(4, 3, seed=1)}
  report = compared(tmp_path, both, {"a.b.weight": normal(4, 3, seed=1)})
  assert [(row.name, row.moved) for row in report] == [("a.b.weight", 0.0)]
  assert report.unknown == {"a/b.weight": "not in the base"}


def test_adapters_are_refused(tmp_path):
  lora = {"base_model.model.q_proj.lora_A.weight": normal(4, 6)}
  with pytest.raises(InputError, match=r"is an adapter \(LoRA\).*Merge it into"):
    compared(tmp_path, lora, {"q_proj.weight": normal(6, 6)})
