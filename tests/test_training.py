"""Training as users write it: linen, nnx, checkpoints; and what layers make of it."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from flax.training.train_state import TrainState

from mhe_jax import (
  LayerRule,
  Riesz,
  describe,
  network_energy,
  with_decoupled_hyperspherical_energy,
  with_hyperspherical_energy,
)

# Flax and optax mix dtypes in their own arithmetic.
pytestmark = pytest.mark.usefixtures("as_users")

NUM_CLASSES, NUM_FEATURES, NUM_STEPS, RATE = 3, 8, 40, 0.01
OPTIONS = {
  "potential": Riesz(2.0),
  "rules": (LayerRule("head/kernel", role="output"),),
}


@functools.cache
def data():
  """Points labeled by a random linear teacher."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(64, NUM_FEATURES)).astype(np.float32)
  teacher = rng.normal(size=(NUM_FEATURES, NUM_CLASSES))
  return x, np.argmax(x @ teacher, -1).astype(np.int32)


class LinenNet(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = nn.relu(nn.Dense(16, name="first")(x))
    x = nn.relu(nn.Dense(12, name="second")(x))
    return nn.Dense(NUM_CLASSES, name="head")(x)


class NnxNet(nnx.Module):
  def __init__(self, rngs):
    self.first = nnx.Linear(NUM_FEATURES, 16, rngs=rngs)
    self.second = nnx.Linear(16, 12, rngs=rngs)
    self.head = nnx.Linear(12, NUM_CLASSES, rngs=rngs)

  def __call__(self, x):
    return self.head(nnx.relu(self.second(nnx.relu(self.first(x)))))


def cross_entropy(logits, labels):
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def linen_params():
  return LinenNet().init(jax.random.key(0), data()[0])["params"]


def linen_loss(params):
  x, y = data()
  return cross_entropy(LinenNet().apply({"params": params}, x), y)


# --- Three ways to train. Each returns the parameters, the losses and the energies.


def train_linen_with_a_custom_step(weight):
  tx = optax.adam(RATE)

  @jax.jit
  def train_step(params, opt_state):
    def loss_fn(params):
      loss, energy = linen_loss(params), network_energy(params, **OPTIONS)
      return loss + weight * energy, (loss, energy)

    grads, metrics = jax.grad(loss_fn, has_aux=True)(params)
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, metrics

  params = linen_params()
  opt_state, history = tx.init(params), []
  for _ in range(NUM_STEPS):
    params, opt_state, metrics = train_step(params, opt_state)
    history.append(metrics)
  return params, *zip(*history)


def train_linen_with_a_train_state(weight):
  state = TrainState.create(
    apply_fn=LinenNet().apply,
    params=linen_params(),
    tx=with_hyperspherical_energy(optax.adam(RATE), weight, **OPTIONS),
  )

  @jax.jit
  def train_step(state):
    loss, grads = jax.value_and_grad(linen_loss)(state.params)
    return state.apply_gradients(grads=grads), loss

  history = []
  for _ in range(NUM_STEPS):
    state, loss = train_step(state)
    history.append((loss, optax.tree.get(state.opt_state, "energy")))
  return state.params, *zip(*history)


def train_nnx(weight):
  x, y = data()
  model = NnxNet(nnx.Rngs(0))
  tx = with_hyperspherical_energy(optax.adam(RATE), weight, **OPTIONS)
  optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

  @nnx.jit
  def train_step(model, optimizer):
    loss, grads = nnx.value_and_grad(lambda m: cross_entropy(m(x), y))(model)
    optimizer.update(model, grads)
    return loss

  history = []
  for _ in range(NUM_STEPS):
    energy = network_energy(model, **OPTIONS)
    loss = train_step(model, optimizer)
    # A copy: nnx updates the variables of the optimizer in place.
    reported = jnp.array(optax.tree.get(optimizer.opt_state, "energy"))
    np.testing.assert_allclose(reported, energy, rtol=1e-5)
    history.append((loss, reported))
  return model, *zip(*history)


@pytest.mark.parametrize(
  "train", [train_linen_with_a_custom_step, train_linen_with_a_train_state, train_nnx]
)
def test_training_lowers_loss_and_energy(train):
  plain, plain_losses, plain_energies = train(0.0)
  trained, losses, energies = train(1.0)
  # The same start, for both are taken before the first step.
  np.testing.assert_allclose(losses[0], plain_losses[0], rtol=1e-6)
  np.testing.assert_allclose(energies[0], plain_energies[0], rtol=1e-6)
  assert max(losses[-1], plain_losses[-1]) < 0.5 * losses[0]
  assert energies[-1] < min(energies[0], plain_energies[-1])
  rows, plain_rows = describe(trained, **OPTIONS), describe(plain, **OPTIONS)
  assert [row.path for row in rows] == ["first/kernel", "head/kernel", "second/kernel"]
  for row, plain_row in zip(rows, plain_rows):
    assert row.energy < plain_row.energy, row.path


def test_the_chain_trains_as_the_energy_in_the_loss():
  in_loss, *_ = train_linen_with_a_custom_step(0.3)
  in_chain, *_ = train_linen_with_a_train_state(0.3)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4),
    in_loss,
    in_chain,
  )


# --- The energy alone.


class SmallConvNet(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = nn.relu(nn.Conv(8, (3, 3), name="conv")(x))
    return nn.Dense(10, name="dense")(x.mean((1, 2)))


def linen_conv_params():
  return SmallConvNet().init(jax.random.key(1), jnp.ones((1, 6, 6, 2), jnp.float32))[
    "params"
  ]


def nnx_state():
  return nnx.state(NnxNet(nnx.Rngs(1)), nnx.Param)


@pytest.mark.parametrize("make", [linen_conv_params, nnx_state])
def test_energy_alone_spreads_the_neurons(make):
  """With no more neurons than dimensions they become orthogonal, the exact optimum."""
  tx = with_hyperspherical_energy(optax.sgd(2.0, momentum=0.9), 1.0, Riesz(2.0))
  params = make()

  @jax.jit
  def run(params):
    def step(carry, _):
      params, state = carry
      zeros = jax.tree.map(jnp.zeros_like, params)
      updates, state = tx.update(zeros, state, params)
      return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, tx.init(params)), length=300)[0][0]

  before, after = describe(params, Riesz(2.0)), describe(run(params), Riesz(2.0))
  for old, new in zip(before, after):
    assert new.relative_excess < old.relative_excess, new.path
    if new.n <= new.d:
      assert new.relative_excess < 1e-2, new.path
      assert new.smallest_angle > 85.0, new.path
  assert any(row.n <= row.d for row in after)


# --- State of the optimizer in the hands of others.


def make_step(donate=False, tx=None):
  tx = tx or with_decoupled_hyperspherical_energy(
    optax.scale_by_adam(), RATE, optax.linear_schedule(0.0, 1.0, 10), **OPTIONS
  )

  def step(params, state):
    updates, state = tx.update(jax.grad(linen_loss)(params), state, params)
    return optax.apply_updates(params, updates), state

  return tx, jax.jit(step, donate_argnums=(0, 1) if donate else ())


def repeat(step, params, state, times):
  for _ in range(times):
    params, state = step(params, state)
  return params, state


def test_training_continues_from_a_checkpoint(tmp_path):
  tx, step = make_step()
  params = linen_params()
  params, state = repeat(step, params, tx.init(params), 3)
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / "step_3", {"params": params, "state": state})
    checkpointer.wait_until_finished()
    # A new process knows only the shapes.
    shapes = jax.eval_shape(linen_params)
    target = {"params": shapes, "state": jax.eval_shape(tx.init, shapes)}
    restored = checkpointer.restore(tmp_path / "step_3", target)
  assert jax.tree.structure(restored["state"]) == jax.tree.structure(state)
  continued = repeat(step, restored["params"], restored["state"], 3)
  jax.tree.map(np.testing.assert_array_equal, continued, repeat(step, params, state, 3))


def test_donated_buffers():
  """No two leaves share a buffer, and all come back in the form they went in."""
  tx, step = make_step(donate=True)
  _, plain_step = make_step()
  params = linen_params()
  start = jax.tree.map(jnp.array, params), tx.init(params)
  expected = repeat(plain_step, params, tx.init(params), 3)
  actual = repeat(step, *start, 3)
  kept = [
    jax.tree_util.keystr(path)
    for path, leaf in jax.tree_util.tree_leaves_with_path(start)
    if not leaf.is_deleted()
  ]
  # The last energies are never read, so jit does not take them in.
  assert all(".energy" in path or ".layer_energies" in path for path in kept), kept
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7),
    actual,
    expected,
  )
