"""Every kind of module, read in every way, against matrices made by hand."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import K, check, stacked
from flax import nnx
from kinds import KINDS, members, model_of, of_equinox, of_nnx
from trees import nnx_init

from mhe_jax import layer_rules, neuron_matrices

NUM = 9  # Layers of a stack: no other axis is as long.


def kinds(*libraries):
  rows = [(library, name) for library in libraries for name in KINDS[library]]
  return pytest.mark.parametrize(("library", "name"), rows)


every_kind = kinds(*KINDS)


@pytest.fixture(autouse=True)
def dtypes(library, request):
  """Flax and Haiku promote them where they compute; Equinox does not."""
  if library != "equinox" and "by_class" not in request.node.name:
    request.getfixturevalue("as_users")


def check_trees(trees, rules, expected):
  """The matrices of each, whatever its paths begin and end with."""
  for tree in trees:
    matrices = neuron_matrices(tree, rules)
    paths = [path.removeprefix("params/").removesuffix("/value") for path in matrices]
    assert set(paths) == set(expected)
    for path, rows in zip(paths, matrices.values()):
      np.testing.assert_array_equal(rows, expected[path], err_msg=path)


@every_kind
def test_a_module(library, name):
  model = model_of(library, name)
  rules = layer_rules(model.module, *model.inputs)
  check(model.params, rules, model.layers)
  check_trees(model.trees, rules, neuron_matrices(model.params, rules))
  abstract = jax.eval_shape(lambda: model.inputs)
  assert layer_rules(model.module, *abstract) == rules


OF_TREES = (jax.value_and_grad, jax.jit, jax.vmap)
TRANSFORMATIONS = {
  "linen": OF_TREES,
  "nnx": (nnx.value_and_grad, nnx.jit, None),
  "equinox": (eqx.filter_value_and_grad, eqx.filter_jit, eqx.filter_vmap),
  "haiku": OF_TREES,
}


@every_kind
@pytest.mark.parametrize("form", ["function", "loss", "jit", "batch"])
def test_a_function(library, name, form):
  """Of the module, where it has its parameters, or of these."""
  model = model_of(library, name)
  value_and_grad, jit, vmap = TRANSFORMATIONS[library]
  tree, apply, inputs = model.params, model.apply, model.inputs
  if library in ("nnx", "equinox") and form in ("loss", "jit"):
    tree, apply = model.module, lambda module, *inputs: module(*inputs)
  if form == "loss":
    squares = lambda y: sum(jnp.sum(x**2) for x in jax.tree.leaves(y))  # noqa: E731
    function = value_and_grad(lambda tree, *x: squares(apply(tree, *x)))
  elif form == "jit":
    function = jit(apply)
  elif form == "batch":
    inputs = jax.tree.map(lambda x: jnp.stack([x, x]), inputs)
    function = (vmap or jax.vmap)(apply, in_axes=(None, *[0] * len(inputs)))
  else:
    function = apply
  check(model.params, layer_rules(function, tree, *inputs), model.layers)


@kinds("nnx", "equinox")
def test_a_module_by_class(library, name):
  """Modules that have their parameters need no inputs, and where they stay no rules."""
  model = model_of(library, name)
  rules = layer_rules(model.module)
  check(model.params, rules, model.layers)
  matrices = neuron_matrices(model.params, rules)
  check_trees(model.trees, rules, matrices)
  check_trees([model.module], None, matrices)
  if library == "equinox":
    check_trees([model.params], None, matrices)


def in_tree_order(reading, axis):
  """Of a stack: where its layers have members, the axes of both in their order."""
  read = stacked(reading, axis)
  return (lambda w: np.swapaxes(read(w), 0, 1)) if axis and reading is members else read


@every_kind
@pytest.mark.parametrize("axis", [0, 1])
def test_a_stack(library, name, axis, request):
  """Layers along an axis, that each see their own input."""
  if (library, name) == ("haiku", "VanillaRNN"):
    reason = "the state that all start from is a shared input of the second product"
    request.applymarker(pytest.mark.xfail(reason=reason))
  model = model_of(library, name)
  axes = jax.tree.map(lambda x: min(axis, x.ndim), model.params)
  params = jax.tree.map(
    lambda x, axis: jnp.stack([x + i for i in range(NUM)], axis), model.params, axes
  )
  inputs = jax.tree.map(lambda x: jnp.stack([x] * NUM), model.inputs)
  function = jax.vmap(model.apply, in_axes=(axes, *[0] * len(inputs)))
  layers = {path: in_tree_order(read, axis) for path, read in model.layers.items()}
  check(params, layer_rules(function, params, *inputs), layers)


@kinds("nnx")
@pytest.mark.parametrize("axis", [0, 1])
def test_a_stack_of_nnx_by_class(library, name, axis, request):
  make, _, layers = KINDS[library][name]
  axes = nnx.StateAxes({nnx.Param: axis, ...: 0})
  stack = nnx.vmap(lambda rngs: make(rngs=rngs), out_axes=axes)
  module = nnx_init(nnx.split_rngs(splits=NUM)(stack))
  if name == "WeightNorm" and "scales" in nnx.state(module, nnx.Param):
    reason = "newer versions of Flax call its scales a kernel: they are read as one"
    request.applymarker(pytest.mark.xfail(reason=reason))
  check_stack(module, of_nnx(module), layers, axis)


@kinds("equinox")
def test_a_stack_of_equinox_by_class(library, name):
  make, _, layers = KINDS[library][name]
  keys = jax.random.split(K["key"], NUM)
  module = eqx.filter_vmap(lambda key: make(**{**K, "key": key}))(keys)
  check_stack(module, of_equinox(module), layers, 0)


def check_stack(module, parts, layers, axis):
  params, _, trees = parts
  rules = layer_rules(module)
  check(params, rules, {path: stacked(read, axis) for path, read in layers.items()})
  check_trees(trees, rules, neuron_matrices(params, rules))
