"""Networks and updates of GANs: shapes, counts, and which kernels have an energy."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.data import Data, Split
from experiments.errors import InputError
from experiments.gan import training
from experiments.gan.images import (
  decoded,
  encoded,
  from_bytes,
  squares,
  tiled,
  to_bytes,
)
from experiments.gan.presets import PRESETS, Config
from experiments.models.gan import LATENT, Discriminator, Generator
from experiments.regularizers import Regularizer
from mhe_jax import (
  Orthonormality,
  RelativeExcess,
  Riesz,
  network_energy,
  neuron_matrices,
)

HIDDEN = [f"conv{i}/kernel" for i in range(7)]


def count(tree):
  return sum(x.size for x in jax.tree.leaves(tree))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("width", [2, 64])
def test_shapes_and_counts_are_those_of_the_formulas(width, channels):
  w, c = width, channels
  discriminator, generator = Discriminator(w), Generator(w, c)
  d, _, g = jax.eval_shape(
    functools.partial(training.init, discriminator, generator), jax.random.key(0)
  )
  kernels = 9 * c * w + 16 * (2 + 8 + 32) * w * w + 9 * (4 + 16 + 64) * w * w
  assert count(d) == kernels + 29 * w + 16 * 8 * w + 1
  kernels = LATENT * 128 * w + 16 * (32 + 8 + 2) * w * w + 9 * w * c
  assert count(g) == kernels + c + 2 * (128 * 0 + 8 + 4 + 2 + 1) * w
  matrices = {k: x.shape for k, x in jax.eval_shape(neuron_matrices, d).items()}
  widths = [c, w, 2 * w, 2 * w, 4 * w, 4 * w, 8 * w, 8 * w]
  areas = [9, 16, 9, 16, 9, 16, 9]
  assert matrices == {
    path: (n, area * before)
    for path, n, area, before in zip(HIDDEN, widths[1:], areas, widths)
  }
  images = jax.eval_shape(
    functools.partial(training.generated, generator), g, jnp.zeros((5, LATENT))
  )
  assert images.shape == (5, 32, 32, c)
  logits = jax.eval_shape(lambda p, x: discriminator.apply({"params": p}, x), d, images)
  assert logits.shape == (5,)


@functools.cache
def networks(spectral_norm):
  """Of width 2, for digits: networks, variables, real and generated images."""
  discriminator, generator = Discriminator(2, spectral_norm), Generator(2, 1)
  d, spectral, g = training.init(discriminator, generator, jax.random.key(0))
  real = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 1), np.uint8)
  return discriminator, generator, d, spectral, g, real


def test_spectral_norm_is_that_of_the_kernels_as_matrices(as_users):
  discriminator, _, d, spectral, _, real = networks(True)
  assert set(d) == {*(f"conv{i}" for i in range(7)), "score"}  # As without.
  # Its power iteration has a vector and a number for each of these.
  assert sorted(k for s in spectral.values() for k in s) == sorted(
    f"{layer}/kernel/{name}" for layer in d for name in ("sigma", "u")
  )
  x = from_bytes(real)
  for _ in range(200):
    _, spectral = training.discriminator_loss(discriminator, d, spectral, x, x)
  for layer, params in d.items():
    kernel = np.asarray(params["kernel"])
    expected = np.linalg.norm(kernel.reshape(-1, kernel.shape[-1]), 2)
    found = spectral[f"{layer}_norm"][f"{layer}/kernel/sigma"]
    assert float(found) == pytest.approx(expected, rel=1e-3)
  divided = {
    layer: {
      **p,
      "kernel": p["kernel"] / spectral[f"{layer}_norm"][f"{layer}/kernel/sigma"],
    }
    for layer, p in d.items()
  }
  plain = Discriminator(2).apply({"params": divided}, x)
  normed = discriminator.apply({"params": d, "batch_stats": spectral}, x)
  np.testing.assert_allclose(normed, plain, rtol=1e-2, atol=1e-4)


REGULARIZERS = [
  (Regularizer("mhe", half_space=False, weight=3.0), Riesz(2.0), False),
  (Regularizer("mhe", 1.0, weight=3.0), Riesz(1.0), True),
  (
    Regularizer("mhe", relative=True, weight=3.0),
    RelativeExcess(Riesz(2.0), log=True),
    True,
  ),
  (Regularizer("orthonormal", weight=3.0), Orthonormality(), True),
]


@pytest.mark.parametrize("spectral_norm", [False, True])
def test_adam_is_given_the_gradient_of_loss_plus_weighted_energy(
  spectral_norm, as_users
):
  """Of the hidden convolutions' own kernels, not of what is divided by their norm."""
  discriminator, _, d, spectral, _, real = networks(spectral_norm)
  real, fake = from_bytes(real), from_bytes(255 - real)

  def loss(params):
    return training.discriminator_loss(discriminator, params, spectral, real, fake)[0]

  grads = jax.jit(jax.grad(loss))(d)
  for regularizer, objective, half_space in REGULARIZERS:

    def energy(params, objective=objective, half_space=half_space):
      hidden = {k: v for k, v in params.items() if k != "score"}
      return network_energy(hidden, objective, half_space=half_space)

    total = jax.tree.map(lambda g, e: g + 3.0 * e, grads, jax.grad(energy)(d))
    tx, _ = Config(spectral_norm=spectral_norm, regularizer=regularizer).optimizers()
    adam = optax.adam(1e-4, b1=0.5, b2=0.999)
    found, _ = tx.update(grads, tx.init(d), d)
    expected, _ = adam.update(total, adam.init(d))
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-9),
      found, expected,
    )  # fmt: skip
    # And the transformation alone changes exactly these leaves.
    tx = regularizer.transformation()
    added, _ = tx.update(jax.tree.map(jnp.zeros_like, d), tx.init(d), d)
    changed = {
      f"{layer}/{name}"
      for layer, p in added.items()
      for name, x in p.items()
      if x.any()
    }
    assert changed == set(HIDDEN)


@functools.cache
def one_update(spectral_norm, decay):
  """State before and after step 2, and what the update is made of."""
  discriminator, generator, d, spectral, g, real = networks(spectral_norm)
  optimizers = Config(learning_rate=0.01).optimizers()
  update = training.make_update(discriminator, generator, optimizers, decay)
  copy = functools.partial(jax.tree.map, jnp.copy)
  opt_states = tuple(tx.init(p) for tx, p in zip(optimizers, (d, g)))
  average = jax.tree.map(lambda x: x + 1.0, g)
  before = training.State(
    d, spectral, g, average, opt_states, jnp.zeros(2, jnp.float32)
  )
  after = update(copy(before), real, jax.random.key(3), 2)
  return before, after, optimizers


def test_an_update_is_a_step_of_each_network_on_its_softplus_loss(as_users):
  before, after, (tx_d, tx_g) = one_update(True, 0.999)
  discriminator, generator, *_, real = networks(True)
  first, second = jax.random.split(jax.random.fold_in(jax.random.key(3), 2))
  x = from_bytes(real)
  fake = training.generated(generator, before.generator, training.latents(first, 4))

  def loss_d(params):
    logits, new = discriminator.apply(
      {"params": params, "batch_stats": before.spectral},
      jnp.concatenate([x, fake]), update_stats=True, mutable=["batch_stats"],
    )  # fmt: skip
    p = jax.nn.sigmoid(logits)
    return -jnp.log(p[:4]).mean() - jnp.log(1.0 - p[4:]).mean(), new["batch_stats"]

  (value_d, spectral), grads = jax.value_and_grad(loss_d, has_aux=True)(
    before.discriminator
  )
  updates, _ = tx_d.update(grads, before.optimizers[0], before.discriminator)
  d = optax.apply_updates(before.discriminator, updates)

  def loss_g(params):
    fake = training.generated(generator, params, training.latents(second, 4))
    variables = {"params": d, "batch_stats": spectral}
    return -jnp.log(jax.nn.sigmoid(discriminator.apply(variables, fake))).mean()

  value_g, grads = jax.value_and_grad(loss_g)(before.generator)
  updates, _ = tx_g.update(grads, before.optimizers[1], before.generator)
  g = optax.apply_updates(before.generator, updates)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=2e-4)
  jax.tree.map(
    close, (d, spectral, g), (after.discriminator, after.spectral, after.generator)
  )
  close(after.losses, [value_d, value_g])


@pytest.mark.parametrize("decay, kept", [(0.999, 2 / 11), (0.1, 0.1), (0.0, 0.0)])
def test_the_average_decays_less_at_first(decay, kept, as_users):
  before, after, _ = one_update(False, decay)
  expected = jax.tree.map(
    lambda old, new: kept * old + (1.0 - kept) * new, before.average, after.generator
  )
  close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
  jax.tree.map(close, after.average, expected)


def test_standing_statistics_are_those_of_their_own_batch(as_users):
  """So the generator in use is that in training, on the same latents."""
  _, generator, _, _, g, _ = networks(False)
  key = jax.random.key(5)
  stats = training.statistics(generator, g, key)
  z = training.latents(key, training.STANDING)
  in_training = training.generated(generator, g, z)
  in_use = generator.apply({"params": g, "batch_stats": stats}, z)
  np.testing.assert_allclose(in_use, in_training, rtol=1e-4, atol=1e-4)
  assert float(jnp.std(jnp.asarray(in_use))) > 0.05
  images = training.sampled(generator, g, stats, key)
  expected = to_bytes(generator.apply(
    {"params": g, "batch_stats": stats}, training.latents(key, training.BATCH)
  ))  # fmt: skip
  np.testing.assert_array_equal(images, expected)


def test_images_go_to_numbers_and_back_and_get_margins():
  images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
  numbers = from_bytes(images)
  assert float(numbers.min()) == -1.0 and float(numbers.max()) == 1.0
  np.testing.assert_array_equal(to_bytes(numbers), images)
  split = Split(np.full((2, 28, 27, 1), 9, np.uint8), np.zeros(2, np.int32))
  padded = squares(Data(split, split, ("a",), "here")).train.images
  assert padded.shape == (2, 32, 32, 1)
  np.testing.assert_array_equal(padded[:, 2:30, 2:29], split.images)
  assert padded.sum() == split.images.sum()
  large = Split(np.zeros((2, 33, 32, 1), np.uint8), np.zeros(2, np.int32))
  with pytest.raises(InputError, match="at most 32 x 32 pixels, got 33 x 32"):
    squares(Data(large, large, ("a",), "here"))


@pytest.mark.parametrize("channels", [1, 3])
def test_grids_have_the_images_in_rows(channels):
  shades = np.array([0, 50, 100, 150, 200, 250], np.uint8)
  images = np.broadcast_to(shades[:, None, None, None], (6, 8, 8, channels))
  grid = tiled(images, 3)
  assert grid.shape == (16, 24, channels)
  found = decoded(encoded(grid)).reshape(16, 24, -1)
  assert found.shape == grid.shape
  # JPEG is not exact.
  np.testing.assert_allclose(found[4::8, 4::8, 0].ravel(), shades, atol=3)


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"decay": 1.0}, "decay must be at least 0 and less than 1, got 1.0"),
    ({"learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
    ({"width": 0}, "width must be at least 1, got 0"),
    ({"curve_samples": 10}, "curve_samples must be at least 64, got 10"),
    ({"dataset": "imagenet"}, "dataset must be one of digits"),
    ({"regularizer": Regularizer("mhe", layers="hidden")}, "layers must be 'both'"),
    ({"steps": 5}, "steps must be a multiple of measurements"),
  ],
)
def test_settings_that_cannot_be_are_named(changes, message):
  with pytest.raises(InputError, match=message):
    dataclasses.replace(PRESETS["cpu"], **changes)


def test_names_tell_what_is_trained():
  config = dataclasses.replace(
    PRESETS["paper"], spectral_norm=True, regularizer=Regularizer("mhe", relative=True)
  )
  assert config.label == "cifar10_gan-w64-sn_half-mhe-s2-relative"
  assert PRESETS["smoke"].label == "digits_gan-w2_baseline"
