"""Output layers that are easily forgotten: images, values, actions, by the program."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from programs import outputs, with_role
from sets import normal32
from trees import filled, init

from mhe_jax import describe, layer_rules


@pytest.fixture(autouse=True)
def _as_users_write():
  with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
    yield


class UNet(nn.Module):
  """Down, up, and what was before beside it; the output is an image."""

  widths: tuple[int, ...] = (4, 6)

  @nn.compact
  def __call__(self, images, times):
    time = nn.Dense(6, name="time")(jnp.sin(times[:, None] * jnp.arange(1.0, 5.0)))
    x, before = nn.Conv(4, (3, 3), name="stem")(images), []
    for width in self.widths:
      x = nn.silu(nn.GroupNorm(2)(nn.Conv(width, (3, 3))(x)))
      before.append(x)
      x = nn.Conv(width, (2, 2), strides=2)(x)
    x = x + time[:, None, None]
    for width in reversed(self.widths):
      x = nn.ConvTranspose(width, (2, 2), strides=(2, 2))(x)
      x = nn.silu(nn.Conv(width, (3, 3))(jnp.concatenate([x, before.pop()], -1)))
    return nn.Conv(3, (3, 3), name="to_rgb")(x)


IMAGES, TIMES = normal32(2, 8, 8, 3), normal32(2)


@pytest.mark.parametrize("what", ["module", "loss", "residual"])
def test_the_image_of_a_unet(what):
  model = UNet()
  params = init(model, IMAGES, TIMES)

  def loss(params, images, times, noise):
    return jnp.mean((model.apply(params, images + noise, times) - noise) ** 2)

  def denoised(params, images, times):
    return images - times[:, None, None, None] * model.apply(params, images, times)

  rules = {
    "module": lambda: layer_rules(model, IMAGES, TIMES),
    "loss": lambda: layer_rules(loss, params, IMAGES, TIMES, IMAGES),
    "residual": lambda: layer_rules(denoised, params, IMAGES, TIMES),
  }[what]()
  report = describe(params, rules=rules)
  roles = {row.path.split("/")[1]: row.role for row in report}
  assert [name for name, role in roles.items() if role == "output"] == ["to_rgb"]
  # Four down, four up, the stem, and what times become.
  assert len(roles) == 11 and not with_role("unread", roles, rules)
  assert "No output layer" not in str(report)


class ActorCritic(nn.Module):
  """A torso for both, or one for each."""

  shared: bool = True
  actions: int = 4

  @nn.compact
  def __call__(self, x):
    actor = nn.tanh(nn.Dense(8, name="torso")(x))
    critic = actor if self.shared else nn.tanh(nn.Dense(8, name="critic_torso")(x))
    return nn.Dense(self.actions, name="policy")(actor), nn.Dense(1, name="value")(
      critic
    )[..., 0]


def policy_loss(apply):
  def loss(params, x, actions, returns):
    logits, values = apply(params, x)
    log_p = jax.nn.log_softmax(logits)
    chosen = jnp.take_along_axis(log_p, actions[:, None], 1)[:, 0]
    advantages = jax.lax.stop_gradient(returns - values)
    entropy = -jnp.sum(jnp.exp(log_p) * log_p, -1)
    return jnp.mean(-chosen * advantages + (returns - values) ** 2 - 0.01 * entropy)

  return loss


STATES, ACTIONS, RETURNS = normal32(5, 6), jnp.arange(5) % 4, normal32(5)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("what", ["module", "loss"])
def test_actions_and_values_of_an_actor_and_a_critic(what, shared):
  model = ActorCritic(shared)
  params = init(model, STATES)
  if what == "module":
    rules = layer_rules(model, STATES)
  else:
    loss = policy_loss(model.apply)
    rules = layer_rules(loss, params, STATES, ACTIONS, RETURNS)
  report = describe(params, rules=rules)
  torsos = ["torso"] if shared else ["critic_torso", "torso"]
  assert {row.path: row.role for row in report} == {
    **{f"params/{name}/kernel": "hidden" for name in torsos},
    "params/policy/kernel": "output",
  }
  # One neuron has no pair; but it is known for what it is.
  assert report.skipped["params/value/kernel"] == "1 neuron: no pairs"
  value = [rule for rule in rules if rule.matches("params/value/kernel")]
  assert [rule.role for rule in value] == ["output"]


def test_values_of_all_actions():
  """Q-learning: the values of a state's actions, of which the loss takes one."""
  shapes = {"up": (6, 8), "down": (8, 8), "values": (8, 4)}
  params = filled({k: jax.ShapeDtypeStruct(s, jnp.float32) for k, s in shapes.items()})

  def values(params, x):
    x = nn.relu(nn.relu(x @ params["up"]) @ params["down"])
    q = x @ params["values"]
    return q - q.mean(-1, keepdims=True)

  def loss(params, x, actions, returns):
    q = jnp.sum(values(params, x) * jax.nn.one_hot(actions, 4), -1)
    return jnp.mean((q - returns) ** 2)

  for rules in (
    layer_rules(values, params, STATES),
    layer_rules(loss, params, STATES, ACTIONS, RETURNS),
  ):
    assert outputs(params, rules) == {"values"}


def test_mean_and_variance_of_a_regression():
  class Net(nnx.Module):
    def __init__(self, rngs):
      self.body, self.mean = nnx.Linear(6, 8, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)
      self.spread = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
      x = nnx.relu(self.body(x))
      return self.mean(x), self.spread(x)

  def loss(net, x, y):
    mean, log_variance = net(x)
    return jnp.mean(log_variance + (y - mean) ** 2 * jnp.exp(-log_variance))

  net = Net(nnx.Rngs(0))
  roles = {row.path: row.role for row in describe(net, rules=layer_rules(net, STATES))}
  outs = {"mean/kernel": "output", "spread/kernel": "output"}
  assert roles == {"body/kernel": "hidden", **outs}
  # This loss multiplies what the two give, as a gated layer does: that is told.
  rules = layer_rules(loss, net, STATES, normal32(5, 3))
  assert "No output layer: pass rules=" in str(describe(net, rules=rules))


def test_who_forgets_the_head_is_told():
  params = init(ActorCritic(), STATES)
  assert "No output layer: pass rules=layer_rules(" in str(describe(params))
