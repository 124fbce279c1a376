"""`spread`: its formula and its guarantee, judged by angles in float64."""

import functools
import math

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from excess import excess_by_hand
from sets import normal32

from mhe_jax import (
  RECOMMENDED,
  Gaussian,
  LayerRule,
  LogDet,
  NeuronAxes,
  Orthonormality,
  Projected,
  RelativeExcess,
  Riesz,
  layer_excess,
  spread,
)

PATHS = ["body/kernel", "head/kernel"]
RULES = (LayerRule("head/kernel", role="output"),)
GIVEN = optax.identity()  # An optimizer whose updates are what it is given.


def tree(seed=0, size=1.0, dtype="float64"):
  rng = np.random.default_rng(seed)
  shapes = {"body": (8, 6), "head": (6, 4)}
  return {
    name: {
      "kernel": jnp.asarray(size * rng.normal(size=(d, n)), dtype),
      "bias": jnp.asarray(size * rng.normal(size=n), dtype),
    }
    for name, (d, n) in shapes.items()
  }


def own(state):
  return optax.tree.get(state, "SpreadState")


def angles(w, v):
  """Between rows, where both have a direction; 0 elsewhere."""
  w, v = (np.asarray(x, np.float64) for x in (w, v))
  norm = functools.partial(np.linalg.norm, axis=-1, keepdims=True)
  known = (norm(w) > 0) & (norm(v) > 0)
  w, v = (np.where(known, x / np.where(known, norm(x), 1.0), 0.0) for x in (w, v))
  # Of small angles, too: the arccos of a cosine near 1 would lose them.
  return 2.0 * np.arctan2(norm(w - v), norm(w + v))[..., 0]


def rms(x):
  return math.sqrt(np.mean(np.square(x)))


# --- The formula.


def excess_of(w, half_space):
  """Relative excess, s = 2: the closed forms of excess_by_hand, for autodiff."""
  n, d = w.shape
  u = w / jnp.linalg.norm(w, axis=1, keepdims=True)
  t = (u @ u.T)[np.triu_indices(n, 1)]
  energy, best = jnp.mean(1.0 / (2.0 - 2.0 * t)), (n - 1.0) / (2.0 * n)
  if half_space:
    energy, best = (energy + jnp.mean(1.0 / (2.0 + 2.0 * t))) / 2.0, 0.5
  return (energy - best) / ((d - 2.0) / (2.0 * (d - 3.0)) - best)


def by_hand(w, u, share, half_space):
  """The new updates of neurons, and both turns, as the docstring has them."""
  n, d = w.shape
  norm = functools.partial(np.linalg.norm, axis=-1, keepdims=True)
  direction = w / norm(w)
  sideways = u - np.sum(u * direction, -1, keepdims=True) * direction
  after = w + u
  a = rms(norm(sideways) / np.maximum(norm(w), norm(after)))
  f = -norm(w) * np.asarray(jax.grad(excess_of)(jnp.asarray(w), half_space))
  random = 4 * math.sqrt(d) / min(n, d) if half_space else 2 * d / (n + d)
  phi = share * a * math.sqrt(n) * f / max(np.linalg.norm(f), random)
  v = after / norm(after)
  phi = phi - np.sum(phi * v, -1, keepdims=True) * v
  return u + np.minimum(norm(w), norm(after)) * phi, a, rms(norm(phi))


@pytest.mark.parametrize(
  "share", [0.5, lambda count: 0.5 / (1.0 + count.astype(float))]
)
def test_formula(share):
  params, updates = tree(), tree(1, size=0.1)
  tx = spread(GIVEN, share, rules=RULES)
  new, state = jax.jit(tx.update)(updates, tx.init(params), params)
  for name in ("body", "head"):
    w, u = (np.asarray(x[name]["kernel"].T) for x in (params, updates))
    half_space = name == "body"
    expected, a, phi = by_hand(w, u, 0.5, half_space)
    np.testing.assert_allclose(new[name]["kernel"].T, expected, rtol=1e-10, atol=1e-14)
    np.testing.assert_array_equal(new[name]["bias"], updates[name]["bias"])
    state_of = {
      "excess": excess_by_hand(w, half_space), "optimizer_turn": a, "spread_turn": phi
    }  # fmt: skip
    for field, value in state_of.items():
      np.testing.assert_allclose(
        getattr(own(state), field)[f"{name}/kernel"], value, rtol=1e-10
      )


@pytest.mark.usefixtures("as_users")
def test_excess_falls_and_the_optimizer_is_as_without():
  """Where the loss has no say in directions, they go to the best there are."""
  params = tree(3)
  adam = optax.adam(0.02)
  tx = spread(adam, 1.0, rules=RULES)

  @jax.jit
  def step(params, state, key):
    grads = jax.tree.map(lambda x: jax.random.normal(key, x.shape), params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  state = tx.init(params)
  for key in jax.random.split(jax.random.key(0), 80):
    params, state = step(params, state, key)
  before = layer_excess(tree(3), Riesz(2.0), rules=RULES)
  after = layer_excess(params, Riesz(2.0), rules=RULES)
  assert all(float(after[path]) < 0.5 * float(before[path]) for path in PATHS)
  plain = adam.init(tree(3))
  for key in jax.random.split(jax.random.key(0), 80):
    grads = jax.tree.map(lambda x, key=key: jax.random.normal(key, x.shape), tree(3))
    _, plain = adam.update(grads, plain)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), own(state).inner, plain
  )


# --- The guarantee.

OBJECTIVES = (
  RECOMMENDED,
  Gaussian(1.0),
  Orthonormality(),
  RelativeExcess(Riesz(1.0), log=True),
)


@functools.cache
def updated(objective, half_space):
  """Compiled once for each shape: of stacks of neurons, their updates and a share."""
  rules = [LayerRule("w", NeuronAxes(-2, batch=0))]

  @jax.jit
  def update(w, u, share):
    tx = spread(GIVEN, share, objective, rules=rules, half_space=half_space)
    new, state = tx.update({"w": u}, tx.init({"w": w}), {"w": w})
    return new["w"], state

  return update


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
  objective=st.sampled_from(OBJECTIVES),
  shape=st.sampled_from([(2, 5, 3), (2, 4, 7)]),
  half_space=st.booleans(),
  share=st.floats(0.0, 2.0),
  sizes=st.tuples(*[st.integers(-6, 6)] * 2),
  collinear=st.booleans(),
  zeros=st.booleans(),
  seed=st.integers(0, 99),
)
def test_a_layer_is_never_turned_further_than_the_share(
  objective, shape, half_space, share, sizes, collinear, zeros, seed
):
  """By true angles, whatever the norms, the updates and the excess."""
  rng = np.random.default_rng(seed)
  w, u = (10.0**size * rng.normal(size=shape) for size in sizes)
  if collinear:
    w[:, 1] = -3.0 * w[:, 0] + 1e-3 * w[:, 1]
    u[:, 0] = -1.5 * w[:, 0]
  if zeros:
    w[:, -1], u[:, 0] = 0.0, 0.0
  new, state = updated(objective, half_space)(w, u, share)
  assert np.isfinite(new).all()
  optimizer_turn = np.sqrt(np.mean(angles(w, w + u) ** 2, -1))
  turned = np.sqrt(np.mean(angles(w + u, w + new) ** 2, -1))
  # What rounding does to w + u, where one is far larger than the sum.
  norm = functools.partial(np.linalg.norm, axis=-1)
  lost = 1e-15 * np.max((norm(w) + norm(u)) / np.maximum(norm(w + u), 1e-300), -1)
  assert (turned <= share * optimizer_turn * (1 + 1e-9) + lost).all()
  # And the state tells of it.
  own_turn, spread_turn = (
    float(getattr(own(state), name)["w"]) for name in ("optimizer_turn", "spread_turn")
  )
  assert rms(turned) <= spread_turn * (1 + 1e-9) + lost.max()
  assert spread_turn <= share * own_turn * (1 + 1e-9)
  assert own_turn <= rms(optimizer_turn) * (1 + 1e-9) + lost.max()


def test_a_small_turn_is_that_of_the_optimizer():
  """The turn that is measured is no mere bound: where steps are small it is exact."""
  params, updates = tree(), tree(1, size=1e-4)
  tx = spread(GIVEN, rules=RULES)
  _, state = tx.update(updates, tx.init(params), params)
  for name, path in zip(params, PATHS):
    w, u = (x[name]["kernel"].T for x in (params, updates))
    np.testing.assert_allclose(
      own(state).optimizer_turn[path], rms(angles(w, w + u)), rtol=1e-3
    )


def test_the_turn_fades_at_the_best():
  w = {"kernel": jnp.eye(8)[:, :6] + 1e-3 * normal32(8, 6).astype(jnp.float64)}
  tx = spread(GIVEN)
  _, state = tx.update({"kernel": 0.1 * jnp.ones((8, 6))}, tx.init(w), w)
  ratio = own(state).spread_turn["kernel"] / own(state).optimizer_turn["kernel"]
  assert 0 < float(ratio) < 0.01


@pytest.mark.parametrize("weight", [0.0, 0.5, 3.0])
def test_weight_of_a_rule_is_a_factor_of_the_share(weight):
  rules = (LayerRule("body/kernel", weight=weight), *RULES)
  params, updates = tree(), tree(1, size=0.1)
  tx = spread(GIVEN, 0.2, rules=rules)
  new, state = tx.update(updates, tx.init(params), params)
  expected, _ = spread(GIVEN, 0.2 * weight, rules=RULES).update(
    updates, spread(GIVEN, rules=RULES).init(params), params
  )
  body = [x["body"]["kernel"] for x in (new, expected)]
  np.testing.assert_allclose(*body, rtol=1e-12)
  assert ("body/kernel" in own(state).excess) == (weight > 0)


# --- A turn of nothing is nothing.


def test_zeros_are_left_as_they_are():
  params, updates = tree(), tree(1)
  nothing = jax.tree.map(jnp.zeros_like, params)
  for w, u in ((nothing, updates), (params, nothing)):
    tx = spread(GIVEN, rules=RULES)
    new, state = tx.update(u, tx.init(w), w)
    jax.tree.map(np.testing.assert_array_equal, new, u)
    assert not any(map(float, own(state).spread_turn.values()))


def test_share_zero_only_monitors():
  params, updates = tree(dtype="float32"), tree(1, dtype="float32")
  for share in (0.0, lambda count: 0.0):
    tx = spread(GIVEN, share, rules=RULES)
    new, state = tx.update(updates, tx.init(params), params)
    jax.tree.map(np.testing.assert_array_equal, new, updates)
    excess = layer_excess(params, RECOMMENDED, rules=RULES)
    for path in PATHS:
      np.testing.assert_allclose(own(state).excess[path], excess[path], rtol=1e-5)
    assert all(float(x) > 0 for x in own(state).optimizer_turn.values())
  monitor, turns = (  # Without a gradient it costs less.
    jax.jit(spread(GIVEN, share, rules=RULES).update)
    .lower(updates, tx.init(params), params)
    .as_text()
    for share in (0.0, 0.5)
  )
  assert len(monitor) < 0.85 * len(turns)


def test_what_is_not_finite_stays_what_it_is():
  """Overflows of loss scaling are known by it, and nothing else is made so."""
  params, updates = tree(), tree(1)
  body = updates["body"]["kernel"].at[2, 1].set(jnp.inf).at[0, 0].set(jnp.nan)
  updates["body"]["kernel"] = body
  tx = spread(GIVEN, rules=RULES)
  new, state = tx.update(updates, tx.init(params), params)
  assert np.array_equal(np.isfinite(new["body"]["kernel"]), np.isfinite(body))
  assert new["body"]["kernel"][2, 1] == np.inf
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))

  params["body"]["kernel"] = params["body"]["kernel"].at[0, 3].set(jnp.nan)
  updates = tree(1)
  new, state = tx.update(updates, tx.init(params), params)
  np.testing.assert_array_equal(new["body"]["kernel"], updates["body"]["kernel"])
  assert math.isnan(own(state).excess["body/kernel"])  # It is damaged, and says so.
  assert not np.array_equal(new["head"]["kernel"], updates["head"]["kernel"])
  for name in ("optimizer_turn", "spread_turn"):
    assert math.isfinite(getattr(own(state), name)["body/kernel"])


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_norms_do_not_matter(size):
  """The same turn in float32, from norms whose squares have no place in it."""
  results = []
  for factor in (1.0, size):
    params, updates = tree(0, factor, "float32"), tree(1, 0.1 * factor, "float32")
    tx = spread(GIVEN, rules=RULES)
    new, state = tx.update(updates, tx.init(params), params)
    results.append((new["body"]["kernel"] / factor, own(state).spread_turn.array))
  np.testing.assert_allclose(results[1][0], results[0][0], rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(results[1][1], results[0][1], rtol=1e-4)


# --- Every so many steps.


@pytest.mark.parametrize("every", [2, 3])
def test_every_so_many_steps(every):
  params = tree()
  tx, once = spread(GIVEN, 0.4, rules=RULES, every=every), spread(GIVEN, rules=RULES)
  state, turned, owed = tx.init(params), [], 0.0
  update = jax.jit(tx.update)
  for count in range(7):
    updates = tree(10 + count, size=0.02 * (count + 1))
    _, by_one = once.update(updates, once.init(params), params)
    owed += float(own(by_one).optimizer_turn["body/kernel"])
    new, state = update(updates, state, params)
    turn = float(own(state).spread_turn["body/kernel"])
    if count % every:
      jax.tree.map(np.testing.assert_array_equal, new, updates)
      assert turn == 0.0
      continue
    assert 0.2 * owed < turn <= 0.4 * owed * (1 + 1e-9)
    np.testing.assert_allclose(
      own(state).excess["body/kernel"], own(by_one).excess["body/kernel"], rtol=1e-9
    )
    turned.append(turn / owed)
    owed = 0.0
  assert len(turned) == len(range(0, 7, every))


def test_the_energy_costs_nothing_between():
  """Its products are in a branch that other steps do not take."""
  params = tree()
  tx = spread(GIVEN, rules=RULES, every=4)
  jaxpr = jax.make_jaxpr(tx.update)(params, tx.init(params), params).jaxpr
  (branch,) = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "cond"]
  assert "dot_general" in str(branch)
  others = [eqn for eqn in jaxpr.eqns if eqn is not branch]
  assert "dot_general" not in "".join(map(str, others))


# --- Arguments.


@pytest.mark.parametrize(
  "arguments, error, match",
  [
    (dict(share=-0.1), ValueError, "share must be finite and >= 0"),
    (dict(share=math.nan), ValueError, "share"),
    (dict(share=math.inf), ValueError, "share"),
    (dict(share="half"), TypeError, "share must be a number"),
    (dict(share=np.ones(2)), TypeError, "share"),
    (dict(every=0), ValueError, "every must be a whole number >= 1"),
    (dict(every=1.5), ValueError, "every"),
    (dict(objective=2.0), TypeError, "Potential"),
    (dict(objective=Projected(RECOMMENDED, dim=3)), ValueError, "key"),
    (dict(rules="head"), TypeError, "rules"),
    (dict(optimizer=optax.adam), TypeError, "optimizer must be an optax .*, got"),
    (dict(optimizer=None), TypeError, "optimizer"),
  ],
)
def test_bad_arguments_are_named(arguments, error, match):
  with pytest.raises(error, match=match):
    spread(**({"optimizer": GIVEN} | arguments))


def test_errors_of_a_tree_come_before_compilation():
  params = tree()
  tx = spread(GIVEN, rules=RULES)
  with pytest.raises(ValueError, match=r"spread needs the parameters.* was None"):
    tx.update(params, tx.init(params))
  with pytest.raises(ValueError, match="same structure"):
    tx.update({"body": params["body"]}, tx.init(params), params)
  with pytest.raises(ValueError, match="matches no path"):
    spread(GIVEN, rules=[LayerRule("nothing")]).init(params)
  with pytest.raises(NotImplementedError, match="no scale is known"):
    jax.eval_shape(spread(GIVEN, objective=LogDet()).init, params)
  small = {"kernel": jnp.ones((3, 5))}
  with pytest.raises(NotImplementedError, match="parameter 'kernel': no scale"):
    spread(GIVEN, objective=Riesz(2.0)).init(small)
  spread(GIVEN).init(small)  # What is recommended has one.
  with pytest.raises(TypeError, match="share must be a number"):
    tx = spread(GIVEN, lambda count: jnp.ones(2), rules=RULES)
    tx.update(params, tx.init(params), params)


# --- The recommended objective.


@pytest.mark.parametrize("half_space", [False, True])
@pytest.mark.parametrize("d, s", [(7, 2.0), (4, 2.0), (3, 1.0), (2, 0.0)])
def test_recommended_objective_has_a_scale_everywhere(d, s, half_space):
  w = normal32(6, d).astype(jnp.float64)
  expected = RelativeExcess(Riesz(s))(w, half_space=half_space)
  assert float(RECOMMENDED(w, half_space=half_space)) == float(expected)
  path = layer_excess({"w": {"kernel": w.T}}, RECOMMENDED, half_space=half_space)
  np.testing.assert_allclose(path["w/kernel"], expected, rtol=1e-12)


def test_one_dimension_has_nothing_to_gain():
  w = {"kernel": jnp.asarray([[1.0, -2.0, 3.0]])}
  tx = spread(GIVEN)
  new, state = tx.update(w, tx.init(w), w)
  np.testing.assert_array_equal(new["kernel"], w["kernel"])
  assert float(own(state).excess["kernel"]) == 0.0
