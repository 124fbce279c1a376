"""The energy in the state of an optimizer: read, saved, added to and removed."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from two_layers import (
  WEIGHT,
  assert_identical,
  coupled,
  data_gradient,
  decoupled,
  make_params,
)

from mhe_jax import (
  HypersphericalEnergyState,
  LayerRule,
  Riesz,
  add_hyperspherical_energy,
  layer_energies,
  network_energy,
  with_decoupled_hyperspherical_energy,
  with_hyperspherical_energy,
)

# --- Reading the state.


OWN = "HypersphericalEnergyState"
# Names that parts of the states of optimizers have, too.
AWKWARD = {
  "energy": {"kernel": jnp.eye(4, 5), "bias": jnp.zeros(5)},
  "count": {"kernel": jnp.eye(5, 3), "bias": jnp.zeros(3)},
}


def regularized(weight=WEIGHT, hidden_weight=1.0):
  own = add_hyperspherical_energy(weight, Riesz(2.0), hidden_weight=hidden_weight)
  return optax.chain(own, optax.adam(0.1))


def expected_energies(*weights):
  return [network_energy(AWKWARD, Riesz(2.0), hidden_weight=w) for w in weights]


WHOLE = {name: True for name in AWKWARD}
READABLE = {
  "chain": (regularized(), [1.0]),
  "two": (optax.chain(regularized(0.0), regularized(hidden_weight=2.0)), [1.0, 2.0]),
  "nested": (
    with_hyperspherical_energy(regularized(0.0), 0.1, Riesz(2.0), hidden_weight=3.0),
    [3.0, 1.0],
  ),
  "decoupled": (
    with_decoupled_hyperspherical_energy(
      optax.scale_by_adam(), 0.1, WEIGHT, Riesz(2.0)
    ),
    [1.0],
  ),
  "multi_steps": (optax.MultiSteps(regularized(), 1).gradient_transformation(), [1.0]),
  "masked": (optax.masked(regularized(), WHOLE), [1.0]),
  "partition": (
    optax.partition(
      {"a": regularized(), "b": optax.set_to_zero()}, dict.fromkeys(AWKWARD, "a")
    ),
    [1.0],
  ),
  "injected": (optax.inject_hyperparams(regularized)(WEIGHT), [1.0]),
  "apply_if_finite": (optax.apply_if_finite(regularized(), 3), [1.0]),
  "named_chain": (optax.named_chain(("energy", regularized())), [1.0]),
}


@pytest.mark.usefixtures("as_users")
@pytest.mark.parametrize("name", READABLE)
def test_own_states_are_found_by_their_name(name):
  tx, weights = READABLE[name]
  _, state = tx.update(AWKWARD, tx.init(AWKWARD), AWKWARD)
  found = [own for _, own in optax.tree.get_all_with_path(state, OWN)]
  assert all(type(own) is HypersphericalEnergyState for own in found)
  energies = [own.energy for own in found]
  np.testing.assert_allclose(energies, expected_energies(*weights), rtol=1e-12)
  assert [int(own.count) for own in found] == [1] * len(weights)
  of_layers = layer_energies(AWKWARD, Riesz(2.0))
  for own in found:
    assert own.layer_energies.keys() == of_layers.keys()
    for path, energy in of_layers.items():
      np.testing.assert_allclose(own.layer_energies[path], energy, rtol=1e-12)
  if len(weights) == 1:
    assert optax.tree.get(state, OWN) is found[0]
  with pytest.raises(KeyError, match="multiple values"):
    optax.tree.get(state, "energy")


@pytest.mark.usefixtures("as_users")
def test_own_states_of_an_nnx_optimizer():
  class Model(nnx.Module):
    def __init__(self, rngs):
      self.energy = nnx.Linear(3, 4, rngs=rngs)

  model = Model(nnx.Rngs(0))
  optimizer = nnx.Optimizer(model, regularized(), wrt=nnx.Param)
  expected = network_energy(model, Riesz(2.0))

  @nnx.jit
  def step(model, optimizer):
    optimizer.update(model, nnx.grad(lambda m: jnp.sum(m.energy.kernel[...]))(model))
    return optax.tree.get(optimizer.opt_state, OWN).energy[...]

  inside = step(model, optimizer)
  own = optax.tree.get(optimizer.opt_state, OWN)
  np.testing.assert_allclose([inside, own.energy[...]], [expected] * 2, rtol=1e-6)
  assert int(own.count[...]) == 1
  (path, energy), *others = own.layer_energies.items()
  assert path == "energy/kernel" and not others
  assert isinstance(energy, jax.Array)  # As a log takes it.
  np.testing.assert_allclose(energy, expected, rtol=1e-6)


@pytest.mark.parametrize("weights", [{"hidden_weight": 0}, {"output_weight": 0.0}])
def test_layers_that_do_not_count_are_not_in_the_state(weights):
  rules = [LayerRule("head/kernel", role="output")]
  params = make_params(dtypes=("bfloat16", "float32"))
  tx = add_hyperspherical_energy(WEIGHT, Riesz(2.0), rules=rules, **weights)
  state = tx.init(params)
  _, after = jax.jit(tx.update)(jax.tree.map(jnp.zeros_like, params), state, params)
  counted = "head/kernel" if "hidden_weight" in weights else "body/kernel"
  assert list(state.layer_energies) == list(after.layer_energies) == [counted]
  # As a carry of a loop, which the state must be.
  chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
  energy = layer_energies(params, Riesz(2.0), rules=rules)[counted]
  np.testing.assert_allclose(after.layer_energies[counted], energy, rtol=1e-6)


# --- Runs that were saved without the energy, or go on without it.


def steps(tx, params, state, num_steps=3):
  @jax.jit
  def step(params, state):
    updates, state = tx.update(data_gradient(params), state, params)
    return optax.apply_updates(params, updates), state

  for _ in range(num_steps):
    params, state = step(params, state)
  return params, state


def saved_and_restored(path, params, state):
  """By orbax, into trees of shapes alone."""
  run = {"params": params, "opt_state": state}
  abstract = jax.eval_shape(lambda: run)
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(path, run)
  with ocp.StandardCheckpointer() as checkpointer:
    run = checkpointer.restore(path, abstract)
  return run["params"], run["opt_state"]


PLAIN = optax.adam(0.05)
FORMS = {
  "coupled": (
    lambda weight: coupled(PLAIN, weight),
    lambda fresh, old: (fresh[0], old),
    lambda state: state[1],
  ),
  "decoupled": (
    lambda weight: decoupled(optax.scale_by_adam(), 0.05, weight),
    lambda fresh, old: (old[0], fresh[1], old[1]),
    lambda state: (state[0], state[2]),
  ),
}


@pytest.mark.usefixtures("as_users")
@pytest.mark.parametrize("form", FORMS)
def test_a_saved_run_goes_on_with_the_energy_and_without_it_again(form, tmp_path):
  build, with_own, without_own = FORMS[form]
  start = make_params()
  old = saved_and_restored(tmp_path / "old", *steps(PLAIN, start, PLAIN.init(start)))
  # With a weight of 0, the run is that of the plain optimizer, with its moments.
  monitored = build(0.0)
  joined = old[0], with_own(monitored.init(old[0]), old[1])
  assert jax.tree.structure(joined[1]) == jax.tree.structure(monitored.init(old[0]))
  params, state = steps(monitored, *joined)
  expected, plain_state = steps(PLAIN, *old)
  assert_identical(params, expected)
  assert_identical(without_own(state), plain_state)
  # With another it is not; it can be saved, and go on without the energy again.
  tx = build(1.0)
  params, state = steps(tx, old[0], with_own(tx.init(old[0]), old[1]))
  assert not np.allclose(params["body"]["kernel"], expected["body"]["kernel"])
  params, state = saved_and_restored(tmp_path / "new", params, state)
  assert optax.tree.get(state, OWN).count == 3
  plain_state = without_own(state)
  assert jax.tree.structure(plain_state) == jax.tree.structure(PLAIN.init(start))
  _, plain_state = steps(PLAIN, params, plain_state)
  assert optax.tree.get(plain_state, "count") == 9
