"""Objectives in networks and optimizers, their arguments, and ones of one's own."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from objectives import KEY, OBJECTIVES
from sets import normal
from two_layers import (
  OPTIONS,
  RATE,
  SGD,
  WEIGHT,
  add,
  assert_close,
  data_gradient,
  make_params,
  scale,
  sgd,
)

from mhe_jax import (
  Adversarial,
  AnglePreserving,
  Covering,
  Grouped,
  KoLeo,
  LogDet,
  LogMean,
  Objective,
  Orthonormality,
  Polarization,
  Projected,
  RelativeExcess,
  Riesz,
  Separation,
  SlicedUniformity,
  add_hyperspherical_energy,
  describe,
  layer_energies,
  layer_excess,
  network_energy,
  with_decoupled_hyperspherical_energy,
  with_hyperspherical_energy,
)

W = normal(6, 4) * [[1], [2], [0.1], [9], [1], [1]]


# --- Networks: layers of two kinds, in half-space and in full space.


def values_by_hand(objective, params, key):
  """As network_energy documents: a key for each kind of layer, in order."""
  spaces = {"body": True, "head": False}
  return {
    name: objective(
      params[name]["kernel"].T,
      half_space=half_space,
      key=jax.random.fold_in(key, i),
    )
    for i, (name, half_space) in enumerate(spaces.items())
    if name in params
  }


@pytest.mark.parametrize(
  "name",
  ["separation", "projected excess", "relative excess", "uniformity"],
)
def test_a_network(name):
  params, objective = make_params(), OBJECTIVES[name]
  options = {"rules": OPTIONS["rules"], "key": KEY}
  values = values_by_hand(objective, params, KEY)
  energies = layer_energies(params, objective, **options)
  assert energies.keys() == {"body/kernel", "head/kernel"}
  assert_close([energies["body/kernel"], energies["head/kernel"]], [*values.values()])
  total = network_energy(params, objective, **options, output_weight=0.5)
  assert float(total) == pytest.approx(float(values["body"] + 0.5 * values["head"]))


def test_equal_layers_of_a_network_are_one_batch_and_one_draw():
  projected = OBJECTIVES["projected"]
  params = {"a": {"kernel": jnp.asarray(W.T)}, "b": {"kernel": jnp.asarray(W.T)}}
  energies = layer_energies(params, projected, key=KEY)
  expected = projected(W, half_space=True, key=jax.random.fold_in(KEY, 0))
  assert_close([*energies.values()], [expected, expected])


def test_excess_of_the_layers():
  params = make_params()
  for objective in (KoLeo(), OBJECTIVES["uniformity"], Orthonormality()):
    excess = layer_excess(params, objective, rules=OPTIONS["rules"])
    expected = values_by_hand(RelativeExcess(objective), params, KEY)
    assert_close([*excess.values()], [*expected.values()], 1e-10)
  report = describe(params, KoLeo(), rules=OPTIONS["rules"])
  values = values_by_hand(KoLeo(), params, KEY)
  assert_close([row.energy for row in report.rows], [*values.values()], 1e-6)


# --- Training: what chains of optax make of the data's gradient and the objective's.


def gradient_by_hand(objective, params, step):
  """Of the energy; each step draws others."""

  def energy(params):
    values = values_by_hand(objective, params, jax.random.fold_in(KEY, step))
    return sum(ROLE_WEIGHTS[name] * value for name, value in values.items())

  value, gradient = jax.value_and_grad(energy)(params)
  return value, scale(WEIGHT, gradient)


ROLE_WEIGHTS = {"body": 1.0, "head": OPTIONS["output_weight"]}
NUMBERS = {"output_weight": OPTIONS["output_weight"], "rules": OPTIONS["rules"]}
IS_BODY = {"body": True, "head": False}


def chains(objective):
  """Each with its updates, of g, e and the step, and the layers that it moves."""
  options = {"potential": objective, "key": KEY, **NUMBERS}
  alone = functools.partial(add_hyperspherical_energy, WEIGHT, **options)
  coupled = with_hyperspherical_energy(SGD, WEIGHT, **options)
  inject = optax.inject_hyperparams(
    add_hyperspherical_energy, static_args=("potential", "key")
  )
  labels = {"body": "moved", "head": "frozen"}
  scaler = optax.scale(2.0)
  return {
    "alone": (alone(), lambda g, e, k: add(g, e)),
    "coupled": (coupled, lambda g, e, k: sgd(g, e)),
    "decoupled": (
      with_decoupled_hyperspherical_energy(scaler, RATE, WEIGHT, **options),
      lambda g, e, k: sgd(g, g, e),
    ),
    "injected": (
      optax.chain(inject(weight=WEIGHT, **options), SGD),
      lambda g, e, k: sgd(g, e),
    ),
    "masked": (
      optax.chain(optax.masked(alone(), IS_BODY), SGD),
      lambda g, e, k: sgd(g, e),
    ),
    "partition": (
      optax.partition({"moved": coupled, "frozen": optax.set_to_zero()}, labels),
      lambda g, e, k: of_body(sgd(g, e)),
    ),
    "multi_steps": (
      optax.MultiSteps(
        coupled, 2, accumulator_dtype=jnp.float64
      ).gradient_transformation(),
      lambda g, e, k: scale(float(k % 2), sgd(g, e)),
    ),
  }


def of_body(tree):
  return {"body": tree["body"], "head": scale(0.0, tree["head"])}


@pytest.mark.usefixtures("as_users")  # Arithmetic of optax mixes dtypes in places.
@pytest.mark.parametrize(
  "name, chain",
  [
    *(("projected", chain) for chain in chains(KoLeo())),
    *(("KoLeo", chain) for chain in ("coupled", "injected")),
    *(("relative excess", chain) for chain in ("decoupled", "masked")),
  ],
)
def test_steps_of_a_chain(name, chain):
  objective = OBJECTIVES[name]
  tx, updates_of = chains(objective)[chain]
  params = expected = make_params()

  def step(carry, _):
    params, state = carry
    updates, state = tx.update(data_gradient(params), state, params)
    return (optax.apply_updates(params, updates), state), None

  @jax.jit
  def train(*carry):
    return jax.lax.scan(step, carry, length=4)[0]

  final, state = train(params, tx.init(params))
  for k in range(4):
    # A step that only accumulates is none of the optimizer within.
    draw = k // 2 if chain == "multi_steps" else k
    layers = (
      {"body": expected["body"]} if chain in ("masked", "partition") else expected
    )
    energy, e = gradient_by_hand(objective, layers, draw)
    e = {**scale(0.0, expected), **e}
    expected = add(expected, updates_of(data_gradient(expected), e, k))
  assert_close(final, expected, 1e-10)
  np.testing.assert_allclose(optax.tree.get(state, "energy"), energy, rtol=1e-10)


@pytest.mark.parametrize(
  "factory, arguments",
  [
    (add_hyperspherical_energy, ()),
    (with_hyperspherical_energy, (SGD,)),
    (with_decoupled_hyperspherical_energy, (optax.identity(), RATE)),
  ],
)
def test_injection_takes_an_objective_for_a_schedule_unless_told(factory, arguments):
  """Whose error says what to do; potentials are no functions."""
  params = make_params()
  tx = optax.inject_hyperparams(factory)(*arguments, WEIGHT, KoLeo())
  with pytest.raises(TypeError, match=r"inject_hyperparams.*static_args=\('potential'"):
    tx.update(params, tx.init(params), params)
  assert not callable(Riesz(1.0))


# --- Arguments, and objectives of one's own.


def test_a_key_is_asked_for_by_name():
  projected, params = OBJECTIVES["projected"], make_params()
  calls = {
    "objective": lambda **key: projected(W, **key),
    "within": lambda **key: RelativeExcess(projected)(W, **key),
    "network": lambda **key: network_energy(params, projected, **key),
    "layers": lambda **key: layer_energies(params, projected, **key),
    "excess": lambda **key: layer_excess(params, projected, **key),
    "add": lambda **key: add_hyperspherical_energy(1.0, projected, **key),
    "with": lambda **key: with_hyperspherical_energy(SGD, 1.0, projected, **key),
  }
  for call in calls.values():
    with pytest.raises(ValueError, match=r"key must be a PRNG key for .*got None"):
      call()
    for key in (3, jax.random.split(KEY), np.zeros(2), "key"):
      with pytest.raises(TypeError, match=r"key must be one PRNG key"):
        call(key=key)
  old = projected(W, key=jax.random.PRNGKey(7))
  assert float(old) == float(projected(W, key=KEY))
  assert float(KoLeo()(W, key=3)) == float(KoLeo()(W))  # Which needs none.


@pytest.mark.parametrize(
  "make, error, match",
  [
    (lambda: RelativeExcess(1.0), TypeError, r"potential .* got 1\.0"),
    (lambda: Projected(KoLeo, 3), TypeError, "potential .*KoLeo"),
    (lambda: Projected(KoLeo(), 0), ValueError, "dim .* got 0"),
    (lambda: Projected(KoLeo(), 2.5), ValueError, "dim .* got 2.5"),
    (lambda: Projected(KoLeo(), 3, 0), ValueError, "num_projections .* got 0"),
    (lambda: Separation("max"), ValueError, "reduction .* got 'max'"),
    (lambda: Polarization(KoLeo()), TypeError, "potential .* got KoLeo"),
    (lambda: Polarization(Riesz(0.0), num_starts=0), ValueError, "num_starts .* got 0"),
    (lambda: Covering(0.0), ValueError, r"gamma .* got 0\.0"),
    (lambda: Covering("sharp"), TypeError, "gamma .* got 'sharp'"),
    (lambda: Covering(num_steps=1.5), ValueError, "num_steps .* got 1.5"),
    (lambda: Adversarial(KoLeo, 3), TypeError, "potential .*KoLeo"),
    (lambda: AnglePreserving(KoLeo(), 0), ValueError, "dim .* got 0"),
    (lambda: Grouped(KoLeo(), 0), ValueError, "num_groups .* got 0"),
    (lambda: SlicedUniformity(0), ValueError, "num_slices .* got 0"),
    (lambda: SlicedUniformity()(np.eye(3)), ValueError, "key must be a PRNG key"),
    (lambda: LogDet(0.0), ValueError, r"\bt must .* got 0\.0"),
    (lambda: LogDet(ridge=0.0), ValueError, r"ridge .* got 0\.0"),
    (lambda: LogDet(ridge=np.nan), ValueError, "ridge .* got nan"),
    (lambda: LogDet(None), TypeError, r"\bt must .* got None"),
    (lambda: LogMean(KoLeo()), TypeError, "potential .* got KoLeo"),
    (lambda: KoLeo()(np.eye(3, dtype=int)), TypeError, "neurons .* int64"),
    (lambda: KoLeo()(np.eye(3, dtype=complex)), TypeError, "neurons .* complex128"),
    (lambda: KoLeo()(np.ones(3)), ValueError, r"neurons .* \(3,\)"),
    (lambda: LogDet().scale(3, 3), NotImplementedError, "no scale is known for LogDet"),
  ],
)
def test_bad_arguments_are_named(make, error, match):
  with pytest.raises(error, match=match):
    make()


def test_objectives_compare_and_hash_by_value():
  assert Covering(10) == Covering(np.float32(10.0))
  assert hash(LogDet(1)) == hash(LogDet(1.0))
  assert Projected(Riesz(1), np.int64(3)) == Projected(Riesz(1.0), 3)
  assert len({*OBJECTIVES.values(), *OBJECTIVES.values()}) == len(OBJECTIVES)


@dataclasses.dataclass(frozen=True)
class MeanLength(Objective):
  """Length of the mean direction, to a power."""

  power: float = 2.0

  def evaluate(self, units, *, half_space, key):
    if half_space:
      return jnp.zeros(units.shape[:-2], units.dtype)
    return jnp.sum(jnp.mean(units, -2) ** 2, -1) ** (self.power / 2)


def test_an_objective_of_ones_own():
  """Norms are no matter, gradients saturate; and it goes wherever others go."""
  w = jnp.asarray(W * 1e-30, jnp.float32)
  value, gradient = jax.value_and_grad(MeanLength())(w)
  assert np.isfinite(gradient).all() and np.abs(gradient).max() > 1e29
  u = W / np.linalg.norm(W, axis=1, keepdims=True)
  assert float(value) == pytest.approx(np.sum(np.mean(u, 0) ** 2), rel=1e-5)
  projected = Projected(MeanLength(), 3)(W, key=KEY)
  assert 0 < float(projected) < 1
  params = {"kernel": jnp.asarray(W.T)}
  energy = network_energy(params, MeanLength(), half_space=False)
  assert float(energy) == pytest.approx(float(value), rel=1e-5)
  assert not network_energy(params, MeanLength())
  with pytest.raises(NotImplementedError, match="no scale is known for MeanLength"):
    layer_excess(params, MeanLength())


class Unhashable(MeanLength):
  __hash__ = None


class OfWrongShape(MeanLength):
  def evaluate(self, units, *, half_space, key):
    return jnp.sum(units, -1)


def test_an_objective_that_is_none():
  params = {"kernel": jnp.asarray(W.T)}
  for call in (RelativeExcess, lambda x: network_energy(params, x), lambda x: x(W)):
    with pytest.raises(TypeError, match=r"hashable.*Unhashable"):
      call(Unhashable())
  with pytest.raises(ValueError, match=r"OfWrongShape.*shape \(\) .*got shape \(6,\)"):
    OfWrongShape()(W)


def test_a_symbolic_number_of_neurons_is_refused_with_its_name():
  spec = jax.ShapeDtypeStruct((*jax.export.symbolic_shape("n"), 4), jnp.float32)
  for objective in (KoLeo(), Orthonormality(), RelativeExcess(Riesz(1.0))):
    with pytest.raises(ValueError, match="static number of rows, got n = n"):
      jax.export.export(jax.jit(lambda w, f=objective: f(w)))(spec)
