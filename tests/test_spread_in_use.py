"""`spread` inside and around what optax, Flax and JAX do to an optimizer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx, serialization
from optax.contrib import schedule_free
from test_spread import GIVEN, PATHS, RULES, own, tree

from mhe_jax import (
  LayerRule,
  NeuronAxes,
  Orthonormality,
  Projected,
  RelativeExcess,
  Riesz,
  SpreadState,
  layer_excess,
  spread,
)

SGD = optax.sgd(0.05)
LOOSE = (LayerRule("head/kernel", role="output", optional=True),)
turning = functools.partial(spread, SGD, rules=RULES)


def gradient(params):
  """Of half the squared distance to a target."""
  return jax.tree.map(jnp.subtract, params, tree(1, dtype=_dtype(params)))


def _dtype(params):
  return jax.tree.leaves(params)[0].dtype


def step(tx, params, state):
  updates, state = tx.update(gradient(params), state, params)
  return optax.apply_updates(params, updates), state


def steps(tx, params, count=4):
  """By hand, one after the other."""
  state = tx.init(params)
  for _ in range(count):
    params, state = step(tx, params, state)
  return params, state


def assert_close(actual, expected, tolerance=1e-10):
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance),
    actual,
    expected,
  )


@pytest.fixture(scope="module")
def expected():
  return steps(turning(), tree())


@pytest.mark.parametrize("every", [1, 2])
def test_scan_and_jit(every):
  params, tx = tree(), turning(every=every)
  final, state = jax.jit(
    lambda *carry: jax.lax.scan(
      lambda carry, _: (step(tx, *carry), None), carry, length=4
    )[0]
  )(params, tx.init(params))
  by_hand, state_by_hand = steps(tx, params)
  assert_close(final, by_hand)
  assert_close(state, state_by_hand)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_state_keeps_its_form(dtype):
  """As lax.scan wants, from init on abstract parameters."""
  params, tx = tree(dtype=dtype), turning(every=2)
  state = tx.init(params)
  abstract = jax.eval_shape(tx.init, params)
  _, after = jax.eval_shape(functools.partial(step, tx), params, state)
  form = functools.partial(jax.tree.map, lambda x: (x.shape, str(x.dtype)))
  assert form(state) == form(abstract) == form(after)
  assert jax.tree.structure(state) == jax.tree.structure(abstract)
  assert jax.tree.structure(state) == jax.tree.structure(after)
  _, after = jax.jit(tx.update)(params, state, params)
  types = [list(map(jax.typeof, jax.tree.leaves(x))) for x in (state, after)]
  assert types[0] == types[1]  # A weak type would compile every step twice.
  assert int(after.count) == 1


def test_vmap_over_shares():
  params, shares = tree(), jnp.array([0.0, 0.5, 1.0])

  def final(share):
    tx = spread(SGD, share, rules=RULES)
    return step(tx, params, tx.init(params))

  swept, state = jax.vmap(final)(shares)
  for i, share in enumerate(shares):
    alone, alone_state = final(float(share))
    assert_close(jax.tree.map(lambda x, i=i: x[i], swept), alone)
    assert_close(own(state).spread_turn.array[i], own(alone_state).spread_turn.array)


@pytest.mark.usefixtures("as_users")
def test_multi_steps_around_it_and_inside():
  params = tree()
  plain, _ = steps(turning(), params, 2)
  multi = functools.partial(optax.MultiSteps, accumulator_dtype=jnp.float64)
  outside = multi(turning(), 2).gradient_transformation()
  assert_close(steps(outside, params)[0], plain)
  # Inside, the steps that only accumulate are turns of nothing.
  inside = spread(multi(SGD, 2).gradient_transformation(), rules=RULES)
  state = inside.init(params)
  after, state = step(inside, params, state)
  assert_close(after, params)
  assert float(own(state).spread_turn["body/kernel"]) == 0.0
  after, state = step(inside, params, state)
  assert_close(after, steps(turning(), params, 1)[0])


def test_inject_hyperparams(expected):
  static = ("objective", "every")
  tx = optax.inject_hyperparams(spread, static_args=static)(SGD, 0.5, rules=RULES)
  params = tree()
  final, state = steps(tx, params)
  assert_close(final, expected[0])
  state.hyperparams["share"] = jnp.zeros_like(state.hyperparams["share"])
  after, _ = step(tx, final, state)
  assert_close(after, jax.tree.map(lambda w, g: w - 0.05 * g, final, gradient(final)))


@pytest.mark.parametrize(
  "static, match",
  [((), "static_args=.*'objective'"), ("objective", "static_args=.*'every'")],
)
def test_inject_hyperparams_without_what_is_static_says_so(static, match):
  params = tree()
  with pytest.raises(TypeError, match=match):
    tx = optax.inject_hyperparams(spread, static_args=static)(SGD, rules=RULES)
    jax.jit(tx.update)(params, tx.init(params), params)


@pytest.mark.parametrize("how", ["masked", "partition", "none"])
def test_only_a_part_is_turned(how):
  params = tree()
  is_body = {"body": True, "head": False}
  if how == "masked":
    tx = optax.chain(SGD, optax.masked(spread(GIVEN, rules=LOOSE), is_body))
  elif how == "partition":
    labels = {"body": "turn", "head": "still"}
    parts = {"turn": spread(SGD, rules=LOOSE), "still": SGD}
    tx = optax.partition(parts, labels)
  else:
    tx = spread(GIVEN, rules=RULES)
  if how == "none":
    updates = jax.tree.map(lambda g: -0.05 * g, gradient(params))
    updates["head"]["kernel"] = None
    updates, state = tx.update(updates, tx.init(params), params)
    assert updates["head"]["kernel"] is None
    assert float(own(state).spread_turn["head/kernel"]) == 0.0
    assert float(own(state).excess["head/kernel"]) > 0.0
    after = {"body": optax.apply_updates(params["body"], updates["body"])}
  else:
    after, _ = steps(tx, params, 1)
    plain, _ = steps(SGD, params, 1)
    assert_close(after["head"], plain["head"])
  both, _ = steps(turning(), params, 1)
  assert_close(after["body"], both["body"])


def test_apply_if_finite_keeps_the_state(expected):
  params, tx = tree(), optax.apply_if_finite(turning(), 3)
  final, state = steps(tx, params)
  assert_close(final, expected[0])
  nan = jax.tree.map(lambda x: x * np.nan, params)
  updates, after = tx.update(nan, state, params)
  assert not any(np.asarray(x).any() for x in jax.tree.leaves(updates))
  assert_close(own(after).excess, own(state).excess)


def test_loss_scaling_in_float16():
  """Gradients that overflow leave a step out; the next goes on as if none had been."""
  params = tree(dtype="float16")
  tx = optax.apply_if_finite(turning(), 9)
  state = tx.init(params)
  huge = jax.tree.map(lambda g: (g * 6e4).astype(g.dtype), gradient(params))
  huge["body"]["kernel"] = huge["body"]["kernel"].at[0, 0].set(jnp.inf)
  updates, state = tx.update(huge, state, params)
  assert not any(np.asarray(x).any() for x in jax.tree.leaves(updates))
  after, state = step(tx, params, state)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves((after, state)))
  exact, _ = step(turning(), tree(), turning().init(tree()))
  assert_close(jax.tree.map(lambda x: x.astype(float), after), exact, 4e-3)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 3e-2)])
def test_smaller_floats(dtype, tolerance):
  final, state = steps(turning(), tree(dtype=dtype), 1)
  exact, exact_state = steps(turning(), tree(), 1)
  assert_close(jax.tree.map(lambda x: x.astype(float), final), exact, tolerance)
  assert all(x.dtype == jnp.float32 for x in own(state).excess.values())
  assert_close(
    own(state).spread_turn.array.astype(float),
    own(exact_state).spread_turn.array,
    tolerance,
  )


@pytest.mark.usefixtures("as_users")
@pytest.mark.parametrize("where", ["inside", "around"])
def test_schedule_free(where):
  """Inside it moves z by what it would turn y; around it moves y."""
  free = functools.partial(schedule_free, learning_rate=0.05)
  params, base = tree(), free(SGD)
  tx = free(turning()) if where == "inside" else spread(base, rules=RULES)
  state, plain_state = tx.init(params), base.init(params)
  updates, state = tx.update(gradient(params), state, params)
  plain, plain_state = base.update(gradient(params), plain_state, params)
  moved = float(jnp.linalg.norm(updates["body"]["kernel"] - plain["body"]["kernel"]))
  assert moved > 1e-3
  if where == "inside":
    expected, _ = turning().update(gradient(params), turning().init(params), params)
    z = jax.tree.map(jnp.add, params, expected)
  else:
    z = plain_state.z
  assert_close(optax.tree.get(state, "ScheduleFreeState").z, z)


@pytest.mark.usefixtures("as_users")
def test_ema_of_parameters_and_donation(expected):
  params, tx = tree(), turning()
  ema = optax.ema(0.9)

  @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
  def train(params, state, average):
    params, state = step(tx, params, state)
    _, average = ema.update(params, average)
    return params, state, average

  carry = params, tx.init(params), ema.init(params)
  for _ in range(4):
    carry = train(*carry)
  assert_close(carry[0], expected[0])


@pytest.mark.usefixtures("as_users")
def test_nnx_optimizer():
  model = nnx.Sequential(
    nnx.Linear(8, 6, rngs=nnx.Rngs(0)), nnx.Linear(6, 4, rngs=nnx.Rngs(1))
  )
  tx = spread(optax.adam(1e-2))
  optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
  before = nnx.to_pure_dict(nnx.state(model, nnx.Param))

  @nnx.jit
  def train(model, optimizer):
    grads = nnx.grad(lambda model: jnp.mean(model(jnp.ones((3, 8))) ** 2))(model)
    optimizer.update(model, grads)

  train(model, optimizer)
  state = optax.tree.get(optimizer.opt_state, "SpreadState")
  found = dict(state.excess)
  assert set(found) == set(layer_excess(before, Riesz(2.0)))
  for path, x in layer_excess(before, Riesz(2.0)).items():
    np.testing.assert_allclose(np.asarray(found[path]), x, rtol=1e-5)
  assert all(0 < float(x) < 1 for x in dict(state.spread_turn).values())


def test_extra_arguments_reach_the_optimizer():
  params = tree()
  tx = spread(optax.polyak_sgd(0.1), rules=RULES)
  updates, _ = tx.update(gradient(params), tx.init(params), params, value=1.0)
  none, _ = tx.update(gradient(params), tx.init(params), params, value=0.0)
  assert np.any(updates["body"]["bias"]) and not np.any(none["body"]["bias"])


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("spec", [(None, "x"), ("x", None)])
def test_sharded_parameters(explicit, spec, expected):
  kind = jax.sharding.AxisType.Explicit if explicit else jax.sharding.AxisType.Auto
  mesh = jax.make_mesh((2,), ("x",), axis_types=(kind,), devices=jax.devices()[:2])
  sharding = jax.NamedSharding(mesh, jax.P(*spec))

  def place(x):
    whole = jax.NamedSharding(mesh, jax.P())
    return jax.device_put(x, sharding if x.ndim == 2 else whole)

  with jax.set_mesh(mesh):
    params, tx = jax.tree.map(place, tree()), turning()
    state = tx.init(params)
    target = jax.tree.map(place, tree(1))

    @jax.jit
    def train(params, state):
      grads = jax.tree.map(jnp.subtract, params, target)
      updates, state = tx.update(grads, state, params)
      return optax.apply_updates(params, updates), state

    for _ in range(4):
      params, state = train(params, state)
    assert params["body"]["kernel"].sharding.is_equivalent_to(sharding, 2)
    final = jax.tree.map(np.asarray, params)
  assert_close(final, expected[0], 1e-9)
  assert_close(np.asarray(own(state).excess.array), own(expected[1]).excess.array, 1e-9)


# --- Stacks, groups and layouts.


def test_each_set_of_a_stack_is_a_layer():
  """As if each stood alone, with a cap of its own."""
  rng = np.random.default_rng(0)
  w = jnp.asarray(rng.normal(size=(3, 8, 5)))
  u = jnp.asarray(
    rng.normal(size=(3, 8, 5)) * np.array([0.01, 0.1, 1.0])[:, None, None]
  )
  stacked = spread(GIVEN, rules=[LayerRule("w", NeuronAxes(-1, batch=0))])
  new, state = stacked.update({"w": u}, stacked.init({"w": w}), {"w": w})
  parts = {str(i): {"kernel": w[i]} for i in range(3)}
  updates = {str(i): {"kernel": u[i]} for i in range(3)}
  tx = spread(GIVEN)
  alone, alone_state = tx.update(updates, tx.init(parts), parts)
  for i in range(3):
    np.testing.assert_allclose(new["w"][i], alone[str(i)]["kernel"], rtol=1e-10)
  excess, turns = own(alone_state).excess.array, own(alone_state).spread_turn.array
  np.testing.assert_allclose(own(state).excess["w"], excess.mean(), rtol=1e-10)
  np.testing.assert_allclose(
    own(state).spread_turn["w"], np.sqrt(np.mean(turns**2)), rtol=1e-10
  )


@pytest.mark.parametrize("every", [1, 2])
def test_layers_of_many_kinds_in_one_tree(every):
  """Groups, stacks, rows and columns, of two dtypes: each gets what is its own."""
  rng = np.random.default_rng(1)
  shapes = {
    "b": ((8, 6), NeuronAxes(-1), "float64"),
    "a": ((3, 8, 6), NeuronAxes(-1, batch=0), "float64"),
    "d": ((6, 8), NeuronAxes(0), "float32"),
    "c": ((8, 6), NeuronAxes(-1), "float64"),
    "e": ((8, 6), NeuronAxes(-1, groups=2), "float64"),
  }

  def draw(size):
    return {
      name: {"w": jnp.asarray(size * rng.normal(size=shape), dtype)}
      for name, (shape, _, dtype) in shapes.items()
    }

  rules = [LayerRule(f"{name}/w", axes) for name, (_, axes, _) in shapes.items()]
  params, updates = draw(1.0), [draw(0.05), draw(0.1), draw(0.2)]
  tx = spread(GIVEN, rules=rules, every=every)
  state = tx.init(params)
  for u in updates:
    new, state = tx.update(u, state, params)
  for name, rule in zip(shapes, rules):
    alone = spread(GIVEN, rules=[rule], every=every)
    of_one = alone.init({name: params[name]})
    for u in updates:
      mine, of_one = alone.update({name: u[name]}, of_one, {name: params[name]})
    tolerance = 1e-4 if name == "d" else 1e-10
    assert_close(new[name], mine[name], tolerance)
    for field in ("excess", "optimizer_turn", "spread_turn"):
      values = [float(getattr(own(s), field)[f"{name}/w"]) for s in (state, of_one)]
      assert values[0] == pytest.approx(values[1], rel=tolerance)
  assert list(own(state).excess) == [f"{name}/w" for name in sorted(shapes)]


def test_skipped_layers_are_left_alone():
  rules = (LayerRule("head/.*", role="skip"),)
  params, updates = tree(), tree(1)
  tx = spread(GIVEN, rules=rules)
  new, state = tx.update(updates, tx.init(params), params)
  assert_close(new["head"], updates["head"], 0.0)
  assert list(own(state).excess) == PATHS[:1]


def test_a_key_draws_anew_in_each_step():
  objective = RelativeExcess(Riesz(2.0))
  noisy = Noisy(objective)
  params, updates = tree(), tree(1)
  tx = spread(GIVEN, objective=noisy, rules=RULES, key=jax.random.key(0))
  first, state = tx.update(updates, tx.init(params), params)
  second, _ = tx.update(updates, state, params)
  again, _ = tx.update(updates, tx.init(params), params)
  assert_close(first, again, 0.0)
  assert not np.allclose(first["body"]["kernel"], second["body"]["kernel"])


class Noisy(Projected):
  """Projections, with a scale."""

  def __init__(self, inner):
    super().__init__(inner, dim=5)

  def scale(self, n, d, *, half_space=False):
    return 0.0, 1.0


def test_objectives_may_be_potentials_and_logarithms():
  params, updates = tree(), tree(1, size=0.1)
  results = []
  for objective in (
    Riesz(2.0), RelativeExcess(Riesz(2.0)), RelativeExcess(Riesz(2.0), log=True)
  ):  # fmt: skip
    tx = spread(GIVEN, objective=objective, rules=RULES)
    results.append(tx.update(updates, tx.init(params), params))
  for new, state in results[1:]:
    assert_close(new, results[0][0])
    assert_close(own(state), own(results[0][1]))
  other = spread(GIVEN, objective=Orthonormality(), rules=RULES)
  new, _ = other.update(updates, other.init(params), params)
  assert not np.allclose(new["body"]["kernel"], results[0][0]["body"]["kernel"])


# --- The state.


def test_excess_reads_like_a_dictionary():
  params, tx = tree(), turning()
  _, state = steps(tx, params, 1)
  excess = own(state).excess
  assert isinstance(own(state), SpreadState)
  assert {k: float(v) for k, v in excess.items()} == {
    path: float(excess.array[i]) for i, path in enumerate(PATHS)
  }
  assert "body/kernel" in excess and "nothing" not in excess
  with pytest.raises(KeyError, match="nothing"):
    excess["nothing"]
  leaves, treedef = jax.tree.flatten(excess)
  assert len(leaves) == 1
  assert dict(treedef.unflatten(leaves)).keys() == dict(excess).keys()
  assert "body/kernel" in repr(excess)


# --- What it is for.


@pytest.mark.usefixtures("as_users")
@pytest.mark.parametrize("optimizer", [optax.adam(5e-3), optax.sgd(0.3, momentum=0.9)])
def test_a_branch_that_starts_at_zero_is_trained(optimizer):
  """A residual block, of which the form that adds gradients makes nothing."""
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(64, 6)))
  y = x + jnp.tanh(x @ rng.normal(size=(6, 12))) @ rng.normal(size=(12, 6)) * 0.3
  up = jnp.asarray(rng.normal(size=(6, 12)) / 6**0.5)
  params = {"up": {"kernel": up}, "down": {"kernel": jnp.zeros((12, 6))}}

  def loss(params):
    branch = jnp.tanh(x @ params["up"]["kernel"]) @ params["down"]["kernel"]
    return jnp.mean((x + branch - y) ** 2)

  def trained(tx):
    def train(carry, _):
      params, state = carry
      updates, state = tx.update(jax.grad(loss)(params), state, params)
      return (optax.apply_updates(params, updates), state), None

    (final, _), _ = jax.lax.scan(train, (params, tx.init(params)), length=150)
    return loss(final), layer_excess(final)["down/kernel"]

  plain, plain_excess = jax.jit(lambda: trained(optimizer))()
  turned, excess = jax.jit(lambda: trained(spread(optimizer)))()
  assert float(turned) < 1.05 * float(plain)
  assert float(excess) < float(plain_excess)


# --- States of others, and saved ones.


def test_flax_saves_a_state():
  params, tx = tree(), turning(every=2)
  _, state = steps(tx, params, 3)
  saved = serialization.to_bytes(state)
  restored = serialization.from_bytes(tx.init(params), saved)
  assert jax.tree.structure(restored) == jax.tree.structure(state)
  jax.tree.map(np.testing.assert_array_equal, restored, state)
  with pytest.raises(ValueError, match=r"numbers for the layers \['head/kernel'\]"):
    serialization.from_bytes(only("head/kernel").init(params), saved)


def only(path):
  """Turns one layer."""
  return spread(SGD, rules=[LayerRule(f"(?!{path}$).*", role="skip"), *RULES])


def test_a_state_of_other_layers_is_refused():
  params = tree()
  for made, used in (
    (only("head/kernel"), turning()),
    (turning(), only("head/kernel")),
  ):
    with pytest.raises(ValueError, match=r"state must be of the layers .*head/kernel"):
      used.update(gradient(params), made.init(params), params)


def test_going_on_from_a_state_of_the_optimizer_alone():
  params, alone = tree(), optax.sgd(0.1, momentum=0.9)
  tx = spread(alone, rules=RULES)
  _, before = step(alone, params, alone.init(params))
  with pytest.raises(TypeError, match="state must be a SpreadState"):
    tx.update(gradient(params), before, params)
  _, state = step(tx, params, tx.init(params)._replace(inner=before))
  assert_close(state.inner, step(alone, params, before)[1])


@pytest.mark.parametrize("every", [1, 4])
def test_rules_that_leave_out_all_layers(every):
  params = tree()
  tx = spread(SGD, rules=[LayerRule(".*", weight=0.0)], every=every)
  found, state = steps(tx, params)
  jax.tree.map(np.testing.assert_array_equal, found, steps(SGD, params)[0])
  assert dict(own(state).excess) == {}


def test_the_objective_is_named():
  with pytest.raises(
    TypeError, match=r"objective must be .*class Orthonormality: call"
  ):
    spread(SGD, 0.5, Orthonormality)
