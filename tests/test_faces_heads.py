"""Heads, energies and networks of faces: published formulas, in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.errors import InputError
from experiments.faces.energy import Energy
from experiments.faces.heads import Head, arcface, cosface, sphereface
from experiments.faces.training import cosines_and_norms, mean_angle
from experiments.models.faces import BLOCKS, PReLU, SphereFace
from mhe_jax import Riesz, hyperspherical_energy, neuron_energies, relative_excess

ANGLES = np.linspace(0.0, np.pi, 4321)
ENDS = jnp.array([1.0, -1.0, 1.0 + 2e-7, -1.0 - 2e-7])


def psi(theta, m):
  """The formula as it is published."""
  k = np.clip(np.floor(theta * m / np.pi), 0, m - 1)
  return (-1.0) ** k * np.cos(m * theta) - 2.0 * k


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_sphereface_is_the_published_function_of_the_angle(m):
  found = np.asarray(sphereface(jnp.cos(ANGLES), m))
  np.testing.assert_allclose(found, psi(ANGLES, m), atol=1e-12)
  assert np.all(np.diff(found) < 1e-12)  # It falls, and
  assert np.abs(np.diff(found)).max() < 1.01 * m * (ANGLES[1] - ANGLES[0])  # no jumps,
  # also where its pieces meet; from 1 to 1 - 2 m.
  assert found[[0, -1]] == pytest.approx([1.0, 1.0 - 2.0 * m])
  assert np.all(found <= np.cos(ANGLES) + 1e-12)


def test_cosface_and_arcface_are_the_published_functions_of_the_angle():
  cosines = jnp.cos(ANGLES)
  np.testing.assert_allclose(cosface(cosines, 0.35), np.cos(ANGLES) - 0.35)
  for m in (0.2, 0.5):
    inside = np.pi - m > ANGLES
    expected = np.where(inside, np.cos(ANGLES + m), np.cos(ANGLES) - m * np.sin(m))
    # Where the branches meet, the cosine decides, as rounding has it.
    clear = np.abs(ANGLES - (np.pi - m)) > 1e-9
    found = np.asarray(arcface(cosines, m))
    np.testing.assert_allclose(found[clear], expected[clear], atol=1e-7)
    assert float(arcface(jnp.array(1.0), m)) == math.cos(m)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_at_the_poles_values_and_slopes_are_finite(dtype):
  ends = ENDS.astype(dtype)
  heads = [lambda c, m=m: sphereface(c, m) for m in (1, 2, 3, 4)]
  heads += [lambda c: cosface(c, 0.35), lambda c: arcface(c, 0.5)]

  @jax.jit
  def values_and_slopes(ends):
    return [jax.vmap(jax.value_and_grad(head))(ends) for head in heads]

  found = np.asarray(values_and_slopes(ends))
  assert found.dtype == dtype
  assert np.isfinite(found).all()
  # Chebyshev's polynomials have slopes m^2 there, with the sign of psi's piece.
  squares = [[m**2, m**2] for m in (1, 2, 3, 4)]
  np.testing.assert_allclose(found[:4, 1, :2], squares, rtol=1e-6)


def features_and_classes(seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(5, 4)), rng.normal(size=(4, 6)), np.array([0, 3, 5, 3, 1])


def log_softmax_loss(logits, labels):
  shifted = logits - logits.max(1, keepdims=True)
  log_sums = np.log(np.exp(shifted).sum(1))
  return np.mean(log_sums - shifted[np.arange(len(labels)), labels])


@pytest.mark.parametrize("step", [0, 10, 10**6])
def test_the_loss_of_sphereface_is_the_published_one(step):
  """With norms, angles and the authors' annealing, in NumPy with an arccos."""
  x, w, labels = features_and_classes()
  norms = np.linalg.norm(x, axis=1)
  angles = np.arccos(x @ w / norms[:, None] / np.linalg.norm(w, axis=0))
  lam = max(5.0, 1000.0 / (1.0 + 0.12 * step))
  rows = np.arange(5)
  logits = norms[:, None] * np.cos(angles)
  own = (lam * np.cos(angles) + psi(angles, 3))[rows, labels] / (1.0 + lam)
  logits[rows, labels] = norms * own

  def logits_and_loss(params, x):
    cosines, norms = cosines_and_norms(params, x)
    found = Head(margin=3.0).logits(cosines, norms, jnp.asarray(labels), step)
    losses = optax.softmax_cross_entropy_with_integer_labels(found, jnp.array(labels))
    return found, losses.mean()

  params = {"score": {"kernel": jnp.asarray(w)}}
  found_logits, found = jax.jit(logits_and_loss)(params, jnp.asarray(x))
  np.testing.assert_allclose(found_logits, logits, rtol=1e-9)
  assert float(found) == pytest.approx(log_softmax_loss(logits, labels))


def test_scales_of_the_rivals_replace_the_norms():
  x, w, labels = features_and_classes()
  cosines, norms = cosines_and_norms({"score": {"kernel": jnp.asarray(w)}}, x)
  expected = 30.0 * np.asarray(cosines)
  expected[np.arange(5), labels] -= 30.0 * 0.35
  found = Head("cosface", 0.35, 30.0).logits(cosines, norms, jnp.asarray(labels), 0)
  np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("kind", ["sphereface", "cosface", "arcface"])
def test_gradients_are_finite_on_the_class_weight_on_its_antipode_and_at_zero(kind):
  head = Head() if kind == "sphereface" else Head(kind, 0.4, 30.0)
  w = jnp.eye(3)
  x = jnp.stack([2.0 * w[0], -3.0 * w[0], 0.0 * w[0], 1e-20 * w[0]])
  labels = jnp.zeros(4, int)

  def loss(w, x):
    cosines, norms = cosines_and_norms({"score": {"kernel": w}}, x)
    logits = head.logits(cosines, norms, labels, 3)
    return jnp.sum(jax.nn.logsumexp(logits, -1) - logits[:, 0])

  for dtype in (jnp.float32, jnp.float64):
    grads = jax.jit(jax.grad(loss, (0, 1)))(w.astype(dtype), x.astype(dtype))
    assert all(np.isfinite(grad).all() for grad in grads)


def test_the_energy_of_a_batch_is_the_double_loop():
  rng = np.random.default_rng(0)
  w = rng.normal(size=(7, 3))
  units = w / np.linalg.norm(w, axis=1, keepdims=True)
  for labels in ([2, 5, 2, 0], [4]):  # A class that comes twice, and one class.
    total = sum(
      np.linalg.norm(units[y] - units[j]) ** -2.0
      for y in labels
      for j in range(7)
      if j != y
    )
    found = Energy("batch")(jnp.asarray(w), jnp.array(labels))
    assert float(found) == pytest.approx(total / (len(labels) * 6), rel=1e-12)


def test_the_energy_of_a_batch_reaches_all_classes_and_is_unbiased():
  w = jnp.asarray(np.random.default_rng(1).normal(size=(6, 4)))
  energy = Energy("batch")
  grad = jax.jit(jax.grad(lambda w: energy(w, jnp.array([1, 1, 4]))))(w)
  assert np.all(np.linalg.norm(grad, axis=1) > 1e-3)
  # Of every class once it is the energy of all.
  every = energy(w, jnp.arange(6))
  assert float(every) == pytest.approx(float(hyperspherical_energy(w, Riesz(2.0))))


def test_classes_that_coincide_have_a_finite_energy_and_gradient():
  w = jnp.array([[1.0, 1, 1], [1, 1, 1], [2, 2, 2], [1, -1, 0]], jnp.float32)
  labels = jnp.array([0, 3])
  value, grad = jax.jit(jax.value_and_grad(lambda w: Energy("batch")(w, labels)))(w)
  assert np.isfinite(grad).all()
  expected = neuron_energies(w, Riesz(2.0))[labels].mean()
  assert float(value) == pytest.approx(float(expected))


def test_energies_of_all_classes_are_those_of_mhe_jax():
  w = jnp.asarray(np.random.default_rng(2).normal(size=(6, 4)))
  labels = jnp.array([0, 1])
  assert float(Energy()(w, labels)) == 0.0
  assert float(Energy("all")(w, labels)) == float(hyperspherical_energy(w, Riesz(2.0)))
  excess = float(relative_excess(w, Riesz(2.0)))
  found = float(Energy("all", relative=True)(w, labels))
  assert found == pytest.approx(math.log1p(excess))


def test_the_weight_starts_late_and_rises():
  energy = Energy("all", weight=2.0, start=0.25, ramp=0.5)
  found = [float(energy.weight_at(step, 8)) for step in range(9)]
  assert found == pytest.approx([0, 0, 0, 0.5, 1.0, 1.5, 2.0, 2.0, 2.0])
  late = Energy("batch", weight=2.0, start=0.5)
  assert [float(late.weight_at(step, 4)) for step in range(5)] == [0, 0, 2, 2, 2]
  assert float(Energy("all", weight=3.0).weight_at(0, 4)) == 3.0


def test_lambda_falls_to_its_least():
  steps = np.array([0, 100, 1658, 10**6])
  found = np.asarray(Head().weight_of_cosine(steps))
  np.testing.assert_allclose(found, [1000.0, 1000 / 13.0, 5.0007, 5.0], rtol=1e-4)


@pytest.mark.parametrize(
  ("make", "names"),
  [
    (lambda: Head(margin=5.0), "margin of sphereface"),
    (lambda: Head(margin=1.5), "margin of sphereface"),
    (lambda: Head(scale=30.0), "scale of sphereface"),
    (lambda: Head("cosface", 0.35), "scale of cosface"),
    (lambda: Head("arcface", 3.2, 30.0), "margin of arcface"),
    (lambda: Head("arcface", 0.5, 30.0, gamma=1.0), "arcface has no gamma"),
    (lambda: Energy("none", weight=2.0), "has no weight"),
    (lambda: Energy("batch", relative=True), "has no relative"),
    (lambda: Energy("all", start=0.8, ramp=0.3), "start and ramp"),
    (lambda: Energy("all", weight=-1.0), "weight must be at least 0"),
  ],
)
def test_settings_that_mean_nothing_are_named(make, names):
  with pytest.raises(InputError, match=names):
    make()


def test_networks_have_the_layers_of_their_names(as_users):
  images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
  for layers in BLOCKS:
    model = SphereFace(layers, 4, 6)
    features, variables = jax.eval_shape(
      model.init_with_output, jax.random.key(0), images
    )
    assert features.shape == (2, 6)
    params = variables["params"]
    kernels = [path for path in params if path.startswith("conv")]
    assert len(kernels) == layers
    assert len([path for path in params if path.startswith("prelu")]) == layers
    assert params["features"]["kernel"].shape == (4 * 4 * 32, 6)
    assert params["conv3"]["kernel"].shape == (3, 3, 16, 32)


def test_prelu_is_its_formula(as_users):
  x = jnp.array([[-2.0, -1.0], [0.0, 3.0]])
  params = {"slope": jnp.array([0.5, 0.1])}
  found = PReLU().apply({"params": params}, x)
  np.testing.assert_allclose(found, [[-1.0, -0.1], [0.0, 3.0]])


def test_the_mean_angle_is_over_all_pairs():
  neurons = np.array([[2.0, 0.0], [0.0, 1.0], [-3.0, 0.0]])
  assert mean_angle(neurons) == pytest.approx((90 + 180 + 90) / 3)
