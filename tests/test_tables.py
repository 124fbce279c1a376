"""Tables for people: conv2 before conv10, and no zero below zero."""

import jax
import numpy as np
import pytest
from sets import normal32

from mhe_jax import Riesz, describe
from mhe_jax.layers.trees import numbered_order
from mhe_jax.report import compare, redundancy
from mhe_jax.report.tables import number


@pytest.mark.parametrize(
  ("given", "expected"),
  [
    ("conv1 conv10 conv2 head", "conv1 conv2 conv10 head"),
    # Of an object, whose parts are in the order they were written in.
    ("stem blocks/0 blocks/1 blocks/10 blocks/2 head", None),
    ("b10/w b10/v b2/w b2/v a", "b2/w b2/v b10/w b10/v a"),
    ("l1_2 l1_10 l1_1", "l1_1 l1_2 l1_10"),
    ("head body", "head body"),
    ("", ""),
  ],
)
def test_order(given, expected):
  expected = expected or given.replace("blocks/10 blocks/2", "blocks/2 blocks/10")
  assert numbered_order(given.split(" ")) == expected.split(" ")


def test_rows_of_describe():
  params = {f"Conv_{i}": {"kernel": normal32(3, 3, 2, 4, seed=i)} for i in range(12)}
  assert list(jax.tree.map(lambda x: 0, params))[2] == "Conv_10"  # As JAX has them.
  report = describe(params)
  assert [row.path for row in report] == [f"Conv_{i}/kernel" for i in range(12)]
  for row in report:
    name = row.path.split("/")[0]
    alone = describe({name: params[name]})
    assert row.relative_excess == pytest.approx(alone.rows[0].relative_excess)


def test_zeros_have_no_sign():
  # Rounding takes the excess of the best below 0.
  q = np.linalg.qr(np.random.default_rng(0).normal(size=(16, 16)))[0]
  params = {f"Dense_{i}": {"kernel": np.roll(q, i, 0)} for i in range(8)}
  texts = [str(describe(params, p)) for p in (Riesz(2.0), Riesz(0.0))]
  report = redundancy(params, Riesz(2.0))
  assert any(row.relative_excess < 0 for row in report)
  texts += [str(report), report.to_html(), str(compare(params, params, Riesz(2.0)))]
  for text in texts:
    assert "-0.0" not in text
  assert number(-1e-9) == "0.000" and number(-0.01) == "-0.010"
