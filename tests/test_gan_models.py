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
from experiments.gan import task, training
from experiments.gan.images import (
  decoded,
  encoded,
  from_bytes,
  squares,
  tiled,
  to_bytes,
)
from experiments.gan.presets import PRESETS
from experiments.models.gan import LATENT, Discriminator, Generator
from experiments.regularizers import Regularizer
from mhe_jax import (
  Orthonormality,
  RelativeExcess,
  Riesz,
  network_energy,
  neuron_matrices,
)

SMOKE = PRESETS["smoke"]
# With everything that a state can have: spectral statistics, a regularizer's count.
FULL = dataclasses.replace(
  SMOKE, spectral_norm=True, regularizer=Regularizer("mhe", relative=True, weight=3.0)
)
HIDDEN = [f"conv{i}/kernel" for i in range(7)]


def count(tree):
  return sum(x.size for x in jax.tree.leaves(tree))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("width", [2, 64])
def test_shapes_and_counts_are_those_of_the_formulas(width, channels, as_users):
  w, c = width, channels
  discriminator, generator = Discriminator(w), Generator(w, c)
  d, _, g = jax.eval_shape(
    functools.partial(training.init, discriminator, generator), jax.random.key(0)
  )
  kernels = 9 * c * w + 16 * (2 + 8 + 32) * w * w + 9 * (4 + 16 + 64) * w * w
  assert count(d) == kernels + 29 * w + 16 * 8 * w + 1
  kernels = LATENT * 128 * w + 16 * (32 + 8 + 2) * w * w + 9 * w * c
  assert count(g) == kernels + c + 2 * (8 + 4 + 2 + 1) * w
  matrices = {k: x.shape for k, x in jax.eval_shape(neuron_matrices, d).items()}
  widths = [c, w, 2 * w, 2 * w, 4 * w, 4 * w, 8 * w, 8 * w]
  areas = [9, 16, 9, 16, 9, 16, 9]
  assert matrices == {
    path: (n, area * before)
    for path, n, area, before in zip(HIDDEN, widths[1:], areas, widths)
  }
  images = jax.eval_shape(
    functools.partial(training.generated, generator),
    g,
    jnp.zeros((5, LATENT), jnp.float32),
  )
  assert images.shape == (5, 32, 32, c)
  logits = jax.eval_shape(lambda p, x: discriminator.apply({"params": p}, x), d, images)
  assert logits.shape == (5,)


@functools.cache
def networks():
  """Of width 2, for digits, with spectral norm: networks, their variables, images."""
  discriminator, generator = Discriminator(2, spectral_norm=True), Generator(2, 1)
  d, spectral, g = training.init(discriminator, generator, jax.random.key(0))
  images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 1), np.uint8)
  return discriminator, generator, d, spectral, g, images


def test_spectral_norm_is_that_of_the_kernels_as_matrices(as_users):
  discriminator, _, d, spectral, _, images = networks()
  x = from_bytes(images)

  @jax.jit
  def step(spectral):
    return training.discriminator_loss(discriminator, d, spectral, x, x)[1]

  for _ in range(200):  # A step of the power iteration each.
    spectral = step(spectral)
  divided = {}
  for layer, params in d.items():
    kernel = np.asarray(params["kernel"])
    largest = np.linalg.norm(kernel.reshape(-1, kernel.shape[-1]), 2)
    found = spectral[f"{layer}_norm"][f"{layer}/kernel/sigma"]
    assert float(found) == pytest.approx(float(largest), rel=1e-3)
    divided[layer] = {**params, "kernel": jnp.asarray(kernel / largest)}
  plain = jax.jit(Discriminator(2).apply)({"params": divided}, x)
  normed = jax.jit(discriminator.apply)({"params": d, "batch_stats": spectral}, x)
  np.testing.assert_allclose(normed, plain, rtol=1e-2, atol=1e-4)


REGULARIZERS = {
  Regularizer("mhe", half_space=False, weight=3.0): (Riesz(2.0), False),
  FULL.regularizer: (RelativeExcess(Riesz(2.0), log=True), True),
  Regularizer("orthonormal", weight=3.0): (Orthonormality(), True),
}


def test_exactly_the_convolutions_have_an_energy(as_users):
  """With and without spectral norm: their own kernels, not what these become by it."""
  _, generator, d, *_ = networks()
  init = functools.partial(training.init, Discriminator(2), generator)
  without_norm, _, _ = jax.eval_shape(init, jax.random.key(0))
  assert jax.tree.map(jnp.shape, d) == jax.tree.map(jnp.shape, without_norm)
  zeros = jax.tree.map(jnp.zeros_like, d)

  @jax.jit
  def compared(params):
    hidden = {k: v for k, v in params.items() if k != "score"}
    pairs = []
    for regularizer, (objective, half_space) in REGULARIZERS.items():
      if regularizer == FULL.regularizer:  # Below.
        continue
      tx = regularizer.around(optax.identity())
      found, _ = tx.update(zeros, tx.init(params), params)
      grads = jax.grad(network_energy)(hidden, objective, half_space=half_space)
      pairs.append((found, grads))
    return pairs

  for found, grads in compared(d):
    changed = {
      f"{layer}/{name}"
      for layer, p in found.items()
      for name, x in p.items()
      if x.any()
    }
    assert changed == set(HIDDEN)
    for layer, params in grads.items():
      expected = 3.0 * params["kernel"]
      np.testing.assert_allclose(found[layer]["kernel"], expected, rtol=1e-4, atol=1e-6)


def test_an_update_is_a_step_of_adam_on_each_loss_plus_the_weighted_energy(as_users):
  discriminator, generator, d, spectral, g, images = networks()
  objective, half_space = REGULARIZERS[FULL.regularizer]
  # Shared with the tests of runs: it compiles once.
  optimizers, update = task._compiled(FULL, 1)
  opt_states = tuple(tx.init(p) for tx, p in zip(optimizers, (d, g)))
  average = jax.tree.map(lambda x: x + 1.0, g)
  losses = jnp.zeros(2, jnp.float32)
  before = training.State(d, spectral, g, average, opt_states, losses)
  key, step = jax.random.key(3), 2
  after = update(jax.tree.map(jnp.copy, before), images, key, step)

  @jax.jit
  def expected():
    first, second = jax.random.split(jax.random.fold_in(key, step))
    x = from_bytes(images)
    fake = training.generated(generator, g, training.latents(first, 8))

    def loss_of_discriminator(params):
      logits, new = discriminator.apply(
        {"params": params, "batch_stats": spectral},
        jnp.concatenate([x, fake]),
        update_stats=True,
        mutable=["batch_stats"],
      )
      p = jax.nn.sigmoid(logits)
      loss = -jnp.log(p[:8]).mean() - jnp.log(1.0 - p[8:]).mean()
      hidden = {k: v for k, v in params.items() if k != "score"}
      energy = network_energy(hidden, objective, half_space=half_space)
      total = loss + 3.0 * energy
      return total, (loss, new["batch_stats"])

    grads, (loss_d, new) = jax.grad(loss_of_discriminator, has_aux=True)(d)
    adam = optax.adam(1e-4, b1=0.5, b2=0.999)
    params = optax.apply_updates(d, adam.update(grads, adam.init(d))[0])

    def loss_of_generator(p):
      fake = training.generated(generator, p, training.latents(second, 8))
      logits = discriminator.apply({"params": params, "batch_stats": new}, fake)
      return -jnp.log(jax.nn.sigmoid(logits)).mean()

    loss_g, grads_g = jax.value_and_grad(loss_of_generator)(g)
    params_g = optax.apply_updates(g, adam.update(grads_g, adam.init(g))[0])
    return grads, grads_g, params, params_g, new, jnp.stack([loss_d, loss_g])

  grads, grads_g, params, params_g, new, values = expected()
  np.testing.assert_allclose(after.losses, values, rtol=1e-4)
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
    after.spectral, new)  # fmt: skip

  def same(found, wanted, gradient):
    """Adam's first step has one size: what a gradient of rounding errors does, too."""
    clear = np.abs(gradient) > 1e-4 * np.abs(gradient).max()
    assert clear.mean() > 0.5
    np.testing.assert_allclose(
      np.asarray(found)[clear], np.asarray(wanted)[clear], rtol=1e-5, atol=2e-6
    )

  for state, gradient in zip(after.optimizers, (grads, grads_g)):
    jax.tree.map(
      lambda mu, g: np.testing.assert_allclose(mu, 0.5 * g, rtol=1e-3, atol=1e-5),
      optax.tree.get(state, "mu"), gradient,
    )  # fmt: skip
  jax.tree.map(same, after.discriminator, params, grads)
  jax.tree.map(same, after.generator, params_g, grads_g)
  mean = jax.tree.map(lambda a, b: 2 / 11 * a + 9 / 11 * b, average, after.generator)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
    after.average, mean,
  )  # fmt: skip


def test_the_average_keeps_less_at_first():
  assert float(training.kept(0.999, 2)) == pytest.approx(2 / 11)
  assert float(training.kept(0.999, 10**6)) == pytest.approx(0.999)
  assert float(training.kept(0.1, 2)) == pytest.approx(0.1)
  assert float(training.kept(0.0, 2)) == 0.0


def test_standing_statistics_are_those_of_their_own_batch(as_users):
  """So the generator in use is that in training, on the same latents."""
  _, generator, _, _, g, _ = networks()
  key = jax.random.key(5)
  stats = training.statistics(generator, g, key)

  @jax.jit
  def made():
    z = training.latents(key, training.STANDING)
    fewer = training.latents(key, training.BATCH)
    variables = {"params": g, "batch_stats": stats}
    in_use = [generator.apply(variables, x) for x in (z, fewer)]
    return training.generated(generator, g, z), *in_use

  in_training, in_use, fewer = made()
  np.testing.assert_allclose(in_use, in_training, rtol=1e-4, atol=1e-4)
  assert np.std(in_use) > 0.05
  images = np.asarray(training.sampled(generator, g, stats, key), int)
  assert np.abs(images - np.round((np.asarray(fewer) + 1.0) * 127.5)).max() <= 1


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
